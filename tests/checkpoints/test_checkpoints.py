"""Foreign files: values are read, no code runs, damage is refused with one line."""

import copyreg
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esv_jax import checkpoints
from esv_jax.checkpoints import CheckpointError, load_pickle, load_torch
from esv_jax.checkpoints.archives import read_torch
from esv_jax.checkpoints.heads import trn_layers
from esv_jax.checkpoints.tensors import TORCH
from esv_jax.checkpoints.unpickle import Constructor, Unknown, unpickle
from esv_jax.models.heads import head_logits, unstack_heads
from esv_jax.models.trained import model_digest
from tests.conftest import FIXTURES

PROJECT = FIXTURES / "play_fair_project"
FEATURES = PROJECT / "checkpoints" / "features"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
MILLION = 10**6
END = b"."


# A writer of pickles and checkpoints with every kind of damage


class Name(tuple):
    """A class or function: (module, name)."""


class Call(tuple):
    """A call: (function, arguments)."""


def named(path):
    return Name(path.rsplit(".", 1))


def call(path, *args):
    return Call((named(path), args))


class Outside(tuple):
    """A reference to a storage: the identifier."""


def steps(value):
    """Opcodes of protocol 2 that push a value; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Name):
        return "c{}\n{}\n".format(*value).encode()
    if isinstance(value, Call):
        return steps(value[0]) + steps(tuple(value[1])) + b"R"
    if isinstance(value, Outside):
        return steps(tuple(value)) + b"Q"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple | list):
        return b"(" + b"".join(map(steps, value)) + (b"t" if isinstance(value, tuple) else b"l")
    assert isinstance(value, dict)
    return b"}(" + b"".join(steps(key) + steps(item) for key, item in value.items()) + b"u"


def pickled(value):
    return b"\x80\x02" + steps(value) + END


def storage(key="0", kind="FloatStorage", numel=6, location="cpu", **other):
    return Outside(("storage", Name(("torch", kind)), key, location, numel, *other.values()))


def tensor(store, shape=(2, 3), strides=(3, 1), offset=0, function="_rebuild_tensor_v2"):
    args = (store, offset, shape, strides, False, call("collections.OrderedDict"))
    return Call((Name(("torch._utils", function)), args))


NUMBERS = np.arange(6, dtype=np.float32).tobytes()


def zip_bytes(root, storages=None, compression=zipfile.ZIP_STORED, **members):
    """A checkpoint in the zip layout; other members by name, `None` to leave one out."""
    storages = {"0": NUMBERS} if storages is None else storages
    content = {"data.pkl": pickled(root), "byteorder": b"little", "version": b"3\n"}
    content |= {f"data/{key}": raw for key, raw in storages.items()} | members
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, raw in content.items():
            if raw is not None:
                archive.writestr(f"folder/{name}", raw)
    return buffer.getvalue()


MAGIC = 119547037146038801333356
SYSTEM = {"protocol_version": 1001, "little_endian": True}


def legacy_bytes(root, storages=None, magic=MAGIC, protocol=1001, system=None, keys=None):
    """A checkpoint in the layout before torch 1.6; storages are (numel, bytes) by key."""
    storages = {"0": (6, NUMBERS)} if storages is None else storages
    parts = [magic, protocol, SYSTEM if system is None else system, root]
    parts.append(list(storages) if keys is None else keys)
    raw = [struct.pack("<q", numel) + data for numel, data in storages.values()]
    return b"".join([*map(pickled, parts), *raw])


def state(**entries):
    return {"state_dict": entries or {"w": tensor(storage())}}


@pytest.fixture
def write(tmp_path):
    def write(content, name="file.pth"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def read_value(write, value, load=load_pickle):
    """The value that a pickle of the given opcodes gives."""
    return load(write(value if isinstance(value, bytes) else pickled(value)))


# Pickles of plain values


PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**200, 1.5, -0.0, float("inf")],
    "constants": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "text": ["", "é\n\\u1234", "x" * 300, "\ud800", b"", b"raw\xff", "\U0001f600"],
    "dicts": {1: {}, "a": {"b": [[]]}, 2.5: None, None: 0, b"k": 1, -5: 3},
    "sets": [{1, 2, "a"}, frozenset({3}), set()],
    "ordered": OrderedDict([("z", 1), ("a", 2)]),
    "complex": 1 + 2j,
    "long list": list(range(3000)),
    "large set": set(range(20_000)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values(protocol, write):
    found = load_pickle(write(pickle.dumps(PLAIN, protocol)))
    assert found == PLAIN
    assert list(found["ordered"]) == ["z", "a"] and type(found["ordered"]) is dict
    assert [*map(type, found["constants"])] == [*map(type, PLAIN["constants"])]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner, inner)
    ),
)


@given(VALUES, st.sampled_from(PROTOCOLS))
@settings(max_examples=100)
def test_any_plain_value(tmp_path_factory, value, protocol):
    value = [value, value]  # a shared part
    path = tmp_path_factory.mktemp("any") / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_pickle(path) == value


def test_shared_parts_stay_shared(write):
    part = [1]
    a, b = load_pickle(write(pickle.dumps([part, part])))
    assert a is b


def test_containers_of_other_types(write):
    found = read_value(write, call("collections.defaultdict", named("m.f")))
    assert found == {}
    assert load_pickle(write(pickle.dumps(defaultdict(list, {"a": [1]})))) == {"a": [1]}
    pairs = call("collections.OrderedDict", [["a", 1], ["b", 2]])
    assert read_value(write, pairs) == {"a": 1, "b": 2}
    assert read_value(write, call("__builtin__.set", [1, 2])) == {1, 2}
    assert read_value(write, call("torch.Size", [1, 2])).path == "torch.Size"


def test_strings_of_python_2(write):
    assert read_value(write, b"U\x03abc.") == "abc"
    assert read_value(write, b"T\x02\x00\x00\x00\xff\x00.") == "\xff\x00"
    assert read_value(write, b"S'a\\x00bc'\n.") == "a\x00bc"


# Arrays


DTYPES = ["?", *"bhilqBHILQefdFD", "<U3", ">f4", ">i8", ">U2"]
ARRAYS = [
    np.array([[0, 1, 2], [3, 4, 5]]),
    np.zeros((0, 3)),
    np.array(7),
    np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(20)[::3],
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays(protocol, write):
    arrays = [array.astype(dtype) for dtype in DTYPES for array in ARRAYS]
    found = load_pickle(write(pickle.dumps({"a": arrays, "again": arrays[0]}, protocol)))
    for ours, theirs in zip(found["a"], arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype.newbyteorder("=") and ours.dtype.isnative
        assert ours.shape == theirs.shape and ours.flags.writeable
    assert found["again"] is found["a"][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars(protocol, write):
    values = [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.complex64(1j)]
    found = load_pickle(write(pickle.dumps(values, protocol)))
    assert found == values and [*map(type, found)] == [*map(type, values)]


def test_arrays_of_numpy_1(write):
    """NumPy 1 named the module `numpy.core` and stored the bytes in the state."""
    content = pickle.dumps(np.arange(3, dtype=np.float32), 2)
    assert b"numpy._core" in content
    found = load_pickle(write(content.replace(b"numpy._core", b"numpy.core")))
    np.testing.assert_array_equal(found, np.arange(3, dtype=np.float32))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_other_dtypes_are_records(protocol, write):
    structured = np.zeros(2, [("a", "f4"), ("b", "i4")])
    values = {
        "objects": np.array([None, "a"], dtype=object),
        "structured": structured,
        "dates": np.array(["2020-01-01"], "datetime64[D]"),
        "bytes": np.array([b"ab"]),
        "next": np.arange(2),
    }
    found = load_pickle(write(pickle.dumps(values, protocol)))
    assert all(isinstance(found[name], Unknown) for name in list(values)[:-1])
    np.testing.assert_array_equal(found["next"], [0, 1])


def dtype(code, version=3):
    state = (version, "<", None, None, None, -1, -1, 0)
    return steps(call("numpy.dtype", code, False, True)) + steps(state) + b"b"


def array_call(raw=b"C\x08" + bytes(8), code="f8", shape=(1,), order="C", version=3):
    return call("numpy._core.numeric._frombuffer", raw, dtype(code, version), shape, order)


PENDING = call("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), (0,), b"C\x01b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": (2,)}, "16 bytes of an array"),
        ({"shape": (-1,)}, "the shape of an array"),
        ({"shape": (2**50, 0)}, "the shape of an array"),
        ({"shape": (1,) * 100}, "the shape of an array"),
        ({"shape": [1]}, "the shape of an array"),
        ({"shape": (True,)}, "the shape of an array"),
        ({"order": "A"}, "8 bytes of an array"),
        ({"raw": steps("text of 8")}, "8 bytes of an array"),
        ({"raw": steps(None)}, "8 bytes of an array"),
        ({"code": "f1"}, "a dtype of NumPy"),
        ({"code": "U2", "raw": b"C\x08" + b"\xff" * 8}, "code points of Unicode"),
    ],
)
def test_damaged_arrays(change, said, write):
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{said}"):
        read_value(write, array_call(**change))


@pytest.mark.parametrize("code", ["O", "V8", "f4,f4", "U0", "U99999999", "S8", "m8", "x", ""])
def test_arrays_of_unsupported_dtype_codes_are_records(code, write):
    assert isinstance(read_value(write, array_call(code=code)), Unknown)


def test_stored_booleans_are_0_or_1(write):
    found = read_value(write, array_call(b"C\x03\x00\x01\x02", "b1", (3,)))
    np.testing.assert_array_equal(found.view(np.uint8), [0, 1, 1])


def test_an_array_without_its_data(write):
    with pytest.raises(CheckpointError, match="arrays with their data"):
        read_value(write, [PENDING])


# No code of a file runs


EVENTS = ("import", "exec", "compile", "open", "pickle.find_class", "os.system", "os.exec")
EVENTS += ("subprocess.Popen", "ctypes.dlopen", "socket.connect", "os.remove", "code.__new__")
watched = []  # lists of audit events; empty while no block is watched


def record_event(event, args):
    if watched and event in EVENTS:
        watched[-1].append((event, *map(str, args)))


sys.addaudithook(record_event)


@contextmanager
def nothing_runs(path):
    """Fail if anything but `path` is opened, imported or run within the block."""
    load_pickle(PROJECT / "mtrn-esv-n_frames=4.pkl")  # imports what reading needs
    load_torch(FEATURES / "tsn.pth")
    b"name of a member".decode("cp437")
    tables = {name: repr(vars(value)) for name, value in TORCH.items()}
    modules = set(sys.modules)
    watched.append([])
    try:
        yield
    finally:
        events = watched.pop()
    assert [event for event in events if event[:2] != ("open", str(path))] == []
    assert set(sys.modules) == modules
    assert {name: repr(vars(value)) for name, value in TORCH.items()} == tables


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and a command that leaves one when run."""
    folder = tmp_path / "importable"
    folder.mkdir()
    mark = tmp_path / "mark"
    (folder / "trapped.py").write_text(f"open({str(mark)!r}, 'w').close()\ndef f(*a): pass\n")
    monkeypatch.syspath_prepend(str(folder))
    yield f"touch {mark}"
    assert not mark.exists(), "code of a file was run"
    assert "trapped" not in sys.modules


CALLS = {
    "REDUCE": lambda f, arg: steps(Call((f, (arg,)))),
    "NEWOBJ": lambda f, arg: steps(f) + steps((arg,)) + b"\x81",
    "NEWOBJ_EX": lambda f, arg: steps(f) + steps((arg,)) + b"}\x92",
    "OBJ": lambda f, arg: b"(" + steps(f) + steps(arg) + b"o",
    "INST": lambda f, arg: b"(" + steps(arg) + "i{}\n{}\n".format(*f).encode(),
    "STACK_GLOBAL": lambda f, arg: steps(f[0]) + steps(f[1]) + b"\x93" + steps((arg,)) + b"R",
    "BUILD": lambda f, arg: steps(Call((f, ()))) + steps({"__setstate__": arg}) + b"b",
}
NAMES = [
    *(("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "exec")),
    *(("builtins", "getattr"), ("subprocess", "Popen"), ("trapped", "f"), ("torch", "load")),
    *(("collections", "OrderedDict.fromkeys"), ("collections.abc", "OrderedDict"), ("", "")),
    *(("numpy", "load"), ("numpy", "dtype.__class__"), ("numpy.core.multiarray", "frombuffer")),
    *(("copyreg", "_reconstructor"), ("copyreg", "add_extension"), ("functools", "partial")),
    *(("esv_jax.checkpoints", "load_pickle"), ("esv_jax.checkpoints.tensors", "TORCH.update")),
    *(("esv_jax.checkpoints.unpickle", "_RestrictedUnpickler"), ("argparse", "Namespace")),
]


@pytest.mark.parametrize("way", CALLS)
def test_a_call_becomes_a_record(way, trap, write):
    for name in NAMES:
        path = write(pickled([CALLS[way](Name(name), trap)]))
        with nothing_runs(path):
            record = load_pickle(path)[0]
        assert isinstance(record, Unknown) and record.path == ".".join(name)
        assert repr(record) == f"<inert {record.path}>"
        if way == "BUILD":
            assert record.states == [{"__setstate__": trap}]
        else:
            assert record.args == (trap,)


def test_the_standard_reader_runs_the_same_bytes(tmp_path):
    """The payload of the test above works with `pickle.loads`."""
    mark = tmp_path / "mark"
    pickle.loads(pickled(call("os.system", f"touch {mark}")))
    assert mark.exists()


def test_checkpoints_run_no_code_either(trap, write):
    harm = call("os.system", trap)
    for content in (zip_bytes, legacy_bytes):
        path = write(content(state() | {"epoch": harm, "args": [harm]}))
        with nothing_runs(path):
            arrays = load_torch(path)
        np.testing.assert_array_equal(arrays["w"].ravel(), np.arange(6))
        with pytest.raises(CheckpointError, match=r"whole object \(<inert os\.system>\)"):
            load_torch(write(content(harm, {})))


def test_records_hold_states_and_items(write):
    build = steps(named("m.C")) + b")\x81" + steps({"a": 1}) + b"b"
    filled = build + steps([1, 2]) + b"0(" + steps(3) + steps(4) + b"e(" + steps("k") + b"Nu"
    record = read_value(write, b"\x80\x02" + filled + END)
    assert (record.states, record.items) == ([{"a": 1}], [3, 4, ("k", None)])
    assert read_value(write, named("m.C")).args == ()
    endless = read_value(write, b"\x80\x02" + build + b"q\x00h\x00h\x00bh\x00a.")
    assert endless.states[1] is endless.items[0] is endless


def test_a_name_is_shown_on_one_line(write):
    with pytest.raises(CheckpointError) as caught:
        load_torch(write(zip_bytes(steps("a\nb\x1b[2J") + steps("c") + b"\x93")))
    assert r"<inert a\nb\x1b[2J.c>" in str(caught.value) and "\n" not in str(caught.value)


DICT = named("collections.OrderedDict")
STATES = [
    {"call": 1, "__class__": 2, "__setstate__": 3, "__new__": 4},
    (None, {"call": 1, "module": "os", "__dict__": {}}),
    ({}, {"__class__": named("os.system"), "name": "f4"}),
    (3, (2,), named("numpy.dtype"), False, b"C\x01x"),
]
SHARED = {
    "constructor": DICT,
    "NumPy function": named("numpy._core.multiarray._reconstruct"),
    "torch function": named("torch._utils._rebuild_tensor_v2"),
    "element type": named("torch.float32"),
    "storage": storage(),
    "tensor": tensor(storage()),
    "dict": Call((DICT, ())),
    "record": named("esv_jax.checkpoints.Unknown"),
    "dtype": dtype("f4"),
    "array": array_call(),
}


@pytest.mark.parametrize("kind", SHARED)
def test_no_shared_object_is_changed(kind, write):
    """Neither by a state with attributes or slots, nor by keys or elements."""
    target = steps(SHARED[kind])
    changes = [steps(each) + b"b" for each in STATES]
    changes += [steps("call") + b"Ns", b"Na", b"(NNe", b"(" + steps("call") + b"Nu", b"(NN\x90"]
    for change in changes:
        path = write(zip_bytes(state() | {"x": target + change, "y": target}))
        with nothing_runs(path):
            try:
                found = load_torch(path)
            except CheckpointError as error:
                assert str(path) in str(error)
            else:
                np.testing.assert_array_equal(found["w"].ravel(), np.arange(6))


def test_the_extension_registry_is_not_used(write, monkeypatch):
    """Neither its names nor its cache, which bypasses `find_class` in the C unpickler."""
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 1, os.system)
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        path = write(code + steps(("true",)) + b"R.")
        with (
            nothing_runs(path),
            pytest.raises(CheckpointError, match="opcodes of a pickle that stands alone"),
        ):
            load_pickle(path)


def test_allowed_names_with_other_arguments_are_records(write):
    for name, args in (
        (("collections", "OrderedDict"), (1, 2)),
        (("collections", "OrderedDict"), ([1],)),
        (("_codecs", "encode"), ("a", "rot13")),
        (("numpy._core.multiarray", "_reconstruct"), (named("os.system"), (0,), b"C\x00")),
        (("numpy._core.multiarray", "scalar"), (None, b"C\x00")),
        (("builtins", "complex"), ("1", "2")),
        (("builtins", "set"), ("ab",)),
    ):
        assert isinstance(read_value(write, Call((Name(name), args))), Unknown)


ALLOWED = sorted(name for name, value in TORCH.items() if isinstance(value, Constructor))
ARGUMENTS = st.recursive(
    st.sampled_from(
        [
            *(None, True, 0, 1, -1, 2**40, 2**70, "", "f4", "C", "K", "latin1", (), (2, 3), (3, 1)),
            *([], [1], [["a", 1]], {}, {"a": 1}, b"C\x08" + bytes(8), b"\x96\x08" + bytes(15)),
            *(named("os.system"), named("numpy.ndarray"), named("torch.float32")),
            *(named("torch._utils._rebuild_tensor_v2"), storage(), tensor(storage())),
            *(named("torch.UntypedStorage"), storage(kind="UntypedStorage", numel=24)),
            array_call(),
            *(call("numpy.dtype", "f4"), dtype("f4")),
        ]
    ),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.lists(inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(ALLOWED), st.lists(ARGUMENTS, max_size=8), ARGUMENTS)
@settings(max_examples=500)
def test_allowed_names_take_any_arguments(tmp_path_factory, name, args, built):
    """The result is a value, a record or a CheckpointError."""
    path = tmp_path_factory.mktemp("arguments") / "file.pth"
    call = steps(Call((Name(name), tuple(args))))
    root = {"state_dict": {"w": tensor(storage()), "x": call, "y": call + steps(built) + b"b"}}
    path.write_bytes(zip_bytes(root, {"0": bytes(24)}))
    try:
        load_torch(path)
    except CheckpointError as error:
        assert str(path) in str(error)


# Damage and attacks on time and memory are refused


LAUGHS = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (k - 1, k - 1, k) for k in range(1, 60))
COPIED = steps("a" * MILLION) + b"q\x000]" + 50 * b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86Ra"
WITH_KEYWORDS = b"(" + 10_000 * b"N" + b"tq\x000}U\x01aNsq\x010](" + 200 * b"cm\nf\nh\x00h\x01\x92"
FILLED = b"](" + 10_000 * b"N" + b"lq\x000]" + 200 * b"cbuiltins\ntuple\nh\x00\x85Ra"
BIG = b"\xff" * 7 + b"\x7f"  # 2**63 - 1

# Files of a few bytes that declare more
DECLARED = {
    "BINUNICODE": (b"X\xff\xff\xff\xffabc.", "4294967295 more bytes of a pickle, got 4"),
    "BINUNICODE8": (b"\x8d" + BIG + b"abc.", "more bytes"),
    "BINBYTES": (b"B\xff\xff\xff\x7fabc.", "more bytes"),
    "BINBYTES8": (b"\x8e" + BIG + b"abc.", "more bytes"),
    "BYTEARRAY8": (b"\x96" + BIG + b"abc.", "more bytes"),
    "BYTEARRAY8 of 4 GB": (b"\x96\0\0\0\0\x01\0\0\0abc.", "4294967296 more bytes"),
    "BINSTRING": (b"T\xff\xff\xff\x7f.", "more bytes"),
    "BINSTRING negative": (b"T\xff\xff\xff\xff.", "damage"),
    "FRAME": (b"\x95" + BIG + b"N.", "a frame of"),
    "LONG4": (b"\x8b\xff\xff\xff\x7f.", "integers of at most 255 bytes"),
    "LONG_BINPUT": (b"Nr\xff\xff\xff\xff0](r.", "more bytes"),
    "PUT": (b"Np4294967296\n.", "damage.*32 bits"),
    "PUT negative": (b"Np-1\n.", "damage"),
    "GET": (b"g" + b"9" * 99 + b"\n.", "damage"),
    "array": (steps(array_call(b"C\0", shape=(2**39,))) + END, f"{2**42} bytes of an array"),
}  # fmt: skip

BROKEN = DECLARED | {
    "buffer": (b"\x97.", "opcodes of a pickle that stands alone"),
    "read-only buffer": (b"C\x01a\x98.", "opcodes of a pickle that stands alone"),
    "protocol": (b"\x80\x06N.", "damage.*protocol"),
    "storage": (steps(storage()) + END, r"a reference to data outside.*load_torch"),
    "LONG digits": (b"L" + b"9" * MILLION + b"L\n.", "a line of at most 1024"),
    "INT digits": (b"I" + b"9" * MILLION + b"\n.", "a line of at most 1024"),
    "FLOAT digits": (b"F" + b"9" * MILLION + b"\n.", "a line of at most 1024"),
    "string without quotes": (b"Sabc\n.", "damage"),
    "line without end": (b"V" + b"a" * 5000 + END, "no line feed"),
    "not UTF-8": (b"X\x01\x00\x00\x00\xff.", "damage"),
    "no end": (b"N", "1 more bytes of a pickle, got 0"),
    "more behind": (b"N.N", "no bytes after"),
    "empty stack": (b".", "damage"),
    "empty memo": (b"h\x05.", "damage.*index 5"),
    "call of text": (steps("os") + b")R.", "a class or function"),
    "arguments in text": (b"cos\nsystem\n" + steps("abc") + b"R.", "a tuple of arguments"),
    "arguments in a list": (b"cos\nsystem\n]\x81.", "a tuple of arguments"),
    "key alone": (b"}(Nu.", "a key without"),
    "not a dict": (b"](NNu.", "a dict"),
    "not a list": (b"}(NNe.", "a list or set"),
    "bytes to a bytearray": (b"\x96" + bytes(8) + b"K\x00a.", "a list or set"),
    "state of a list": (b"]}b.", "an object with attributes"),
    "name of bytes": (b"C\x02osC\x06system\x93.", "damage"),
    "long name": (steps("a" * 2000) + steps("b") + b"\x93.", "the name of a class"),
    "lists in lists": (b"]" * MILLION + b"a" * (MILLION - 1) + END, "at most 100 levels"),
    "lists by memo": (b"]q\x00" + b"](h\x00eq\x00" * 500 + END, "at most 100 levels"),
    "marks": (b"(" * MILLION + END, "damage"),
    "tuples in tuples": (b")" + b"\x85" * MILLION + END, "at most 100 levels"),
    "shared parts": (LAUGHS + END, "more, as shared parts unfold"),
    "itself": (b"]q\x00h\x00a.", "one that contains itself"),
    "itself in a dict": (b"}q\x00K\x01h\x00s.", "one that contains itself"),
    "itself in a tuple": (b"]q\x00h\x00\x85a.", "one that contains itself"),
    "copies of text": (COPIED + END, "many times its size"),
    "copies of arguments": (WITH_KEYWORDS + b"e.", "many times its size"),
    "copies of lists": (FILLED + END, "many times its size"),
    "no end of reads": (b"N0" * (2 * MILLION) + END, "at most 2250000 reads"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_refused_pickles(name, write):
    content, said = BROKEN[name]
    path = write(content)
    with pytest.raises(CheckpointError, match=rf"file\.pth: expected .*{said}") as caught:
        load_pickle(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_declared_sizes_allocate_nothing(write):
    for content, _ in DECLARED.values():
        path = write(content)
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            load_pickle(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MILLION


@pytest.mark.parametrize("error", [MemoryError, RecursionError, AttributeError, struct.error])
def test_an_error_of_any_kind_is_damage(error):
    def persistent(identifier):
        raise error

    with pytest.raises(CheckpointError, match=rf"name: .*damage.*{error.__name__}"):
        unpickle(steps(storage()) + END, "name", TORCH, persistent=persistent)


ARRAY_STATE = steps((3, (1,), dtype("f8"), False, b"C\x08" + bytes(8)))
LONG = b"B" + struct.pack("<I", 4 * MILLION) + bytes(4 * MILLION)
ENCODE = b"c_codecs\nencode\nU\x01ah\x00\x86Ra"

DEEP = 200_000  # levels; hashing tuples of as many overflows the C stack

# Programs that crash the standard reader, or whose cost could grow with the square of their size
COSTLY = {
    "tuples as a key": b"})" + b"\x85" * DEEP + b"Ns",
    "tuples as a key in a list": b"()" + b"\x85" * DEEP + b"Nd",
    "tuples as an element": b"\x8f()" + b"\x85" * DEEP + b"\x90",
    "tuples in a frozen set": b"()" + b"\x85" * DEEP + b"\x91",
    "tuples as an argument": b"cbuiltins\nset\n()" + b"\x85" * DEEP + b"l\x85R",
    "tuples as pairs": b"ccollections\nOrderedDict\n()" + b"\x85" * DEEP + b"N\x86l\x85R",
    "tuples as a shape": steps(storage()) + b")" + b"\x85" * DEEP + b"\x86",
    "lists in lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "records in records": b"cm\nC\n" + b"\x85cm\nC\n" * 50_000,
    "calls in calls": b"cm\nC\n" * 50_000 + b")R" + b"\x85R" * 49_999,
    "frozen sets in frozen sets": b"(" * 50_000 + b"\x91" * 50_000,
    "fields of a memo": b"N" + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(3)),
    "states of an array": steps(PENDING) + b"q\x01" * 200_000 + ARRAY_STATE + b"q\x020"
        + b"2h\x02b0" * 50_000 + b"h\x02b",
    "an array as an encoding": steps(array_call(LONG, "U1", (MILLION,))) + b"q\x000]"
        + ENCODE * 20_000,
    "an array as an order": steps(array_call(LONG, "U1", (MILLION,))) + b"q\x000"
        + steps(array_call(order=b"h\x00")),
}  # fmt: skip


@pytest.mark.slow  # large cases
@pytest.mark.parametrize("name", COSTLY)
def test_costly_programs_end(name, write):
    """With a value or a clear error, in a pickle and beside the state dict of a checkpoint."""
    paths = {load_pickle: write(COSTLY[name] + END, "file.pkl")}
    paths[load_torch] = write(zip_bytes(state() | {"x": COSTLY[name]}))
    for load, path in paths.items():
        try:
            found = load(path)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert load is load_pickle or list(found) == ["w"]


def test_keys_that_hash_alike_cost_nothing(write):
    """Integers with one hash, and values without a hash, become records as keys."""
    prime = 2**61 - 1
    keys = {prime * (2**70 + k): k for k in range(2000)}
    found = load_pickle(write(pickle.dumps(keys | {(1, 2): "pair"})))
    assert len(found) == 2001 and all(isinstance(key, Unknown) for key in found)
    assert found[list(found)[-1]] == "pair" and list(found)[-1].args == ((1, 2),)
    assert load_pickle(write(pickle.dumps({2**64 - 1, -(2**63)}))) == {2**64 - 1, -(2**63)}
    for key in (b"]", b"}", b"\x8f", b"\x96" + bytes(8), steps(array_call())):
        assert [k.module for k in read_value(write, b"}" + key + b"Ns.")] == ["builtins"]


@pytest.mark.parametrize("load", [load_torch, load_pickle, read_torch])
def test_missing_empty_and_special_files(load, tmp_path, write):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"file\.pth: .*an empty file"):
        load(write(b""))
    with pytest.raises(CheckpointError, match="a folder, a pipe or a device"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"pipe: .*a folder, a pipe or a device"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>File deleted</html>", "a web page"),
        (b"\n <html></html>", "a web page"),
        (b"hello", "a file that starts with b'hello'"),
        (b"PK", "a whole zip archive"),
        (b"PK\x03\x04" + bytes(100), "a whole zip archive"),
        (bytes(257) + b"ustar\x0000" + bytes(248), "an older tar"),
        (b"\x80\x02K\x01.", "load_pickle"),
        (b"\x80\x02", "1 more bytes of a pickle, got 0"),
        (pickled(MAGIC), "1 more bytes of a pickle, got 0"),
    ],
)
def test_files_of_another_kind(content, said, write):
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{said}"):
        load_torch(write(content))


def test_load_pickle_refuses_checkpoints(write):
    with pytest.raises(CheckpointError, match="load_torch"):
        load_pickle(write(legacy_bytes(state())))
    with pytest.raises(CheckpointError):
        load_pickle(write(zip_bytes(state())))


# Tensors


LAYOUTS = pytest.mark.parametrize("layout", ["zip", "legacy"])


def checkpoint(layout, root, stores):
    """Bytes in either layout; stores are (numel, bytes) by key."""
    if layout == "legacy":
        return legacy_bytes(root, stores)
    return zip_bytes(root, {key: raw for key, (_, raw) in stores.items()})


KINDS = {
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}


@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_element(layout, kind, write):
    numbers = np.array([0, 1, 2, 3, 0, 5]).astype(KINDS[kind])
    root = state(w=tensor(storage(kind=kind)))
    found = read_torch(write(checkpoint(layout, root, {"0": (6, numbers.tobytes())})))
    assert found.layout == layout
    assert found.arrays["w"].dtype == numbers.dtype
    np.testing.assert_array_equal(found.arrays["w"], numbers.reshape(2, 3))


@LAYOUTS
def test_bfloat16_becomes_float32(layout, write):
    numbers = np.array([1.0, -2.5, 3e38, np.inf, 0.0, 2**-126], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype("<u2")
    root = state(w=tensor(storage(kind="BFloat16Storage")))
    arrays = load_torch(write(checkpoint(layout, root, {"0": (6, halves.tobytes())})))
    wanted = (halves.astype(np.uint32) << 16).view(np.float32)
    assert arrays["w"].dtype == np.float32
    np.testing.assert_array_equal(arrays["w"].ravel(), wanted)


@st.composite
def views(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    strides = tuple(draw(st.integers(0, 7)) for _ in shape)
    return shape, strides, draw(st.integers(0, 5))


@given(views(), st.sampled_from(["zip", "legacy"]))
@settings(max_examples=150)
def test_views_have_the_elements_of_their_strides(tmp_path_factory, view, layout):
    shape, strides, offset = view
    numbers = np.arange(20, dtype=np.float32)
    path = tmp_path_factory.mktemp("views") / "file.pth"
    root = state(w=tensor(storage(numel=20), shape, strides, offset))
    path.write_bytes(checkpoint(layout, root, {"0": (20, numbers.tobytes())}))
    indices = [offset + int(np.dot(index, strides)) for index in np.ndindex(*shape)]
    if indices and max(indices) >= 20:
        with pytest.raises(CheckpointError, match="within the 20 elements of its storage"):
            load_torch(path)
        return
    found = load_torch(path)["w"]
    assert found.shape == shape and found.flags.c_contiguous
    np.testing.assert_array_equal(found.ravel(), numbers[indices])


@LAYOUTS
def test_tensors_of_one_storage_are_copies(layout, write):
    store = storage()
    entries = {"a": tensor(store), "b": tensor(store, (3,), (2,)), "c": tensor(store, (), (), 5)}
    arrays = load_torch(write(checkpoint(layout, state(**entries), {"0": (6, NUMBERS)})))
    arrays["a"][:] = -1
    np.testing.assert_array_equal(arrays["b"], [0, 2, 4])
    assert arrays["c"].shape == () and arrays["c"] == 5
    assert list(arrays) == ["a", "b", "c"]


def test_functions_that_rebuild_a_tensor(write):
    parameter = call("torch._utils._rebuild_parameter", tensor(storage()), True, {})
    stated = named("torch._utils._rebuild_parameter_with_state")
    bare = storage("1", "UntypedStorage", 24)
    typed = (bare, 0, (2, 3), (3, 1), False, {}, named("torch.float32"))
    plain = named("torch._utils._rebuild_tensor_v2")
    attributed = (plain, named("torch.Tensor"), (storage(), 0, (6,), (1,), False, {}), {"a": 1})
    entries = {
        "parameter": parameter,
        "stated": Call((stated, (tensor(storage()), True, {}, {"x": 1}))),
        "old": call("torch._utils._rebuild_tensor", storage(), 0, (6,), (1,)),
        "new": Call((named("torch._utils._rebuild_tensor_v3"), typed)),
        "attributed": Call((named("torch._tensor._rebuild_from_type_v2"), attributed)),
        "cuda": tensor(storage(location="cuda:0")),
    }
    for layout in ("zip", "legacy"):
        stores = {"0": (6, NUMBERS), "1": (24, NUMBERS)}
        arrays = load_torch(write(checkpoint(layout, state(**entries), stores)))
        assert list(arrays) == list(entries)
        for array in arrays.values():
            np.testing.assert_array_equal(array.ravel(), np.arange(6))


def test_views_of_storages_in_legacy_files(write):
    root = state(
        w=tensor(storage(view=("9", 2, 3)), (3,), (1,)), v=tensor(storage(view=None), (6,), (1,))
    )
    arrays = load_torch(write(legacy_bytes(root)))
    np.testing.assert_array_equal(arrays["w"], [2, 3, 4])
    np.testing.assert_array_equal(arrays["v"], np.arange(6))
    for view in (("9", 4, 3), ("9", -1, 3), ("9", 0), 5):
        with pytest.raises(CheckpointError, match="view"):
            load_torch(write(legacy_bytes(state(w=tensor(storage(view=view), (1,), (1,))))))
    with pytest.raises(CheckpointError, match="within the 3 elements"):
        root = state(w=tensor(storage(view=("9", 0, 3)), (4,), (1,)))
        load_torch(write(legacy_bytes(root)))


@LAYOUTS
@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (tensor(storage(), offset=1), "within the 6 elements"),
        (tensor(storage(), offset=-1), "an offset of 0 or more"),
        (tensor(storage(), offset=2**70), "within the 6 elements"),
        (tensor(storage(), (2, 3), (4, 1)), "within the 6 elements"),
        (tensor(storage(), (2, 3), (-3, 1)), "strides"),
        (tensor(storage(), (2, 3), (1,)), "strides"),
        (tensor(storage(), (2, -3), (3, 1)), "the shape of a tensor"),
        (tensor(storage(), (2**62, 2**62), (0, 0)), "the shape of a tensor"),
        (tensor(storage(), ("a",), (1,)), "the shape of a tensor"),
        (tensor(storage(), (2**35,), (0,)), "tensors of at most"),
        (tensor(storage(numel=-6)), "0 elements or more"),
        (tensor(storage(numel="6")), "0 elements or more"),
        (tensor(storage(key=0)), "the key of a storage"),
        (tensor(Outside(("module", 1))), "the class of a module"),
        (tensor(Outside(("another", 1))), "references to tensor storages"),
        (tensor(Outside(())), "references to tensor storages"),
        (tensor(Outside(("storage", 1, "0", "cpu", 6))), "the type of a storage"),
        (tensor(Outside(("storage", "0"))), "references to tensor storages"),
        (call("torch._utils._rebuild_sparse_tensor", 1), "a dense tensor 'w'"),
        (call("torch._utils._rebuild_qtensor", 1), "a dense tensor 'w'"),
    ],
)
def test_damaged_tensors(layout, entry, said, write):
    root = {"state_dict": {"w": entry, "good": tensor(storage())}}
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{said}"):
        load_torch(write(checkpoint(layout, root, {"0": (6, NUMBERS)})))


def test_a_conjugated_tensor_is_refused(write):
    args = (storage(), 0, (6,), (1,), False, {}, {"conj": True})
    entry = Call((named("torch._utils._rebuild_tensor_v2"), args))
    with pytest.raises(CheckpointError, match="a dense tensor 'w'"):
        load_torch(write(zip_bytes(state(w=entry, v=tensor(storage())))))


# The state dict


@LAYOUTS
@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "network", "weights", ""]
)
def test_keys_of_the_state_dict(layout, key, write):
    entries = {"module.w": tensor(storage()), "step": 3, "_extra_state": None}
    moments = {0: {"exp_avg": tensor(storage("1"))}}
    root = entries | {"optimizer": {"state": moments}, "epoch": 3}
    if key:
        root = {"epoch": 3, "optimizer": {"state": moments}, key: entries}
    stores = {"0": (6, NUMBERS), "1": (6, bytes(24))}
    found = read_torch(write(checkpoint(layout, root, stores)))
    assert (found.found_under, list(found.arrays)) == (key, ["module.w"])
    assert {"'epoch'", "'optimizer'"} <= set(found.ignored)
    assert any("step" in name for name in found.ignored)


def test_the_first_of_several_state_dicts_is_read(write):
    root = {"model": {"b": tensor(storage())}, "state_dict": {"a": tensor(storage())}}
    assert list(load_torch(write(zip_bytes(root)))) == ["a"]
    root = {"model": "TRN", "w": tensor(storage())}
    assert list(load_torch(write(zip_bytes(root)))) == ["w"]


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ({}, "an empty dict"),
        ({"epoch": 1, "state_dict": {}}, "entries 'epoch', 'state_dict'"),
        ([1], "a list"),
        (tensor(storage()), "a Tensor"),
        (named("models.TSN"), r"a whole object.*state_dict\(\)"),
        ({str(k): k for k in range(20)}, r"'7', \.\.\."),
    ],
)
def test_no_state_dict(root, said, write):
    with pytest.raises(CheckpointError, match=rf"file\.pth: expected a .*state dict.*{said}"):
        load_torch(write(zip_bytes(root)))


# Archives


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"byteorder": b"big"}, "little-endian"),
        ({"storages": {}}, "a member 'folder/data/0'"),
        ({"storages": {"0": NUMBERS[:-1]}}, "24 bytes of storage '0', got 23"),
        ({"storages": {"0": NUMBERS + b"x"}}, "24 bytes of storage '0', got 25"),
        ({"compression": zipfile.ZIP_DEFLATED}, "uncompressed"),
        ({"data.pkl": None}, "one data.pkl"),
        ({"data.pkl": b"\x80\x02N"}, "1 more bytes of a pickle, got 0"),
        ({"other/data.pkl": b"N."}, "one data.pkl"),
        ({"constants.pkl": b"N."}, "TorchScript"),
    ],
)
def test_damaged_archives(change, said, write):
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{said}"):
        load_torch(write(zip_bytes(state(), **change)))


def test_an_archive_without_byte_order_is_little_endian(write):
    np.testing.assert_array_equal(
        load_torch(write(zip_bytes(state(), byteorder=None)))["w"].ravel(), np.arange(6)
    )


def test_compressed_members_are_not_inflated(write):
    content = zip_bytes(state(), {"0": bytes(50 * MILLION)}, zipfile.ZIP_DEFLATED)
    assert len(content) < MILLION
    with pytest.raises(CheckpointError, match="uncompressed"):
        load_torch(write(content))


def test_two_members_of_one_name(write):
    content = io.BytesIO(zip_bytes(state()))
    with zipfile.ZipFile(content, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("folder/data/0", bytes(24))
    with pytest.raises(CheckpointError, match="one 'folder/data/0', got two"):
        load_torch(write(content.getvalue()))


def directory_of(content):
    """Offsets of the entries of the directory, by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        at, offsets = archive.start_dir, {}
        for entry in archive.infolist():
            offsets[entry.filename] = at
            at += 46 + len(entry.filename)
    return offsets


def test_members_that_share_bytes(write):
    """Many members that point to one large one would be read over and over."""
    large = bytes(4 * 10_000)
    stores = {"0": large} | {str(k): bytes(4) for k in range(1, 20)}
    entries = {f"w{k}": tensor(storage(str(k), numel=10_000), (1,), (1,)) for k in range(20)}
    content = bytearray(zip_bytes(state(**entries), stores))
    offsets = directory_of(bytes(content))
    target = offsets["folder/data/0"]
    for k in range(1, 20):
        at = offsets[f"folder/data/{k}"]
        for field in (slice(16, 28), slice(42, 46)):  # checksum and sizes; where it is
            content[at + field.start : at + field.stop] = content[
                target + field.start : target + field.stop
            ]
    with pytest.raises(CheckpointError, match="members of at most"):
        load_torch(write(bytes(content)))


def test_changed_bytes_fail_the_checksum(write):
    content = zip_bytes(state())
    at = content.index(NUMBERS)
    changed = content[: at + 4] + b"\xff" + content[at + 5 :]
    with pytest.raises(CheckpointError, match="checksum"):
        load_torch(write(changed))
    at = directory_of(changed)["folder/data/0"] + 16
    assert changed[at : at + 4] == struct.pack("<I", zlib.crc32(NUMBERS))
    unchecked = changed[:at] + bytes(4) + changed[at + 4 :]  # as torch writes without checksums
    assert load_torch(write(unchecked))["w"][0, 1] != 1


@pytest.mark.parametrize("is_64", [False, True])
def test_a_directory_of_absurd_size_is_not_parsed(is_64, write):
    """Also where the 64-bit end of the archive has another size than the 32-bit one."""
    content = zip_bytes(state())
    at, end = directory_of(content)["folder/data.pkl"], content.rindex(b"PK\x05\x06")
    directory = content[at:end] + 200_000 * content[at : at + 46 + len("folder/data.pkl")]
    sizes = [200_000, 200_000, len(directory), at]
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes)
    end_64 += struct.pack("<4sLQL", b"PK\x06\x07", 0, at + len(directory), 1)
    short_sizes = [1, 1, 46, at] if is_64 else [2**16 - 1, 2**16 - 1, *sizes[2:]]
    end_32 = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *short_sizes, 0)
    with pytest.raises(CheckpointError, match=rf"a directory of {len(directory)} bytes, over"):
        load_torch(write(content[:at] + directory + end_64 * is_64 + end_32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"magic": 5}, "load_pickle"),
        ({"protocol": 1000}, "protocol 1001"),
        ({"system": {"little_endian": False}}, "little-endian"),
        ({"system": []}, "little-endian"),
        ({"keys": []}, "every storage in the file"),
        ({"keys": ["0", "0"]}, "every storage in the file"),
        ({"keys": ["0", "1"]}, "every storage in the file"),
        ({"keys": [0]}, "the keys of the storages"),
        ({"keys": "0"}, "the keys of the storages"),
        ({"storages": {"0": (5, NUMBERS)}}, "6 elements of storage '0', got 5"),
        ({"storages": {"0": (-6, NUMBERS)}}, "6 elements of storage '0', got -6"),
        ({"storages": {"0": (6, NUMBERS[:-1])}}, "24 bytes of storage '0'"),
        ({"storages": {"0": (2**62, NUMBERS)}}, "6 elements of storage"),
    ],
)
def test_damaged_legacy_files(change, said, write):
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{said}"):
        load_torch(write(legacy_bytes(state(), **change)))


def test_one_storage_of_two_sizes(write):
    root = state(w=tensor(storage()), v=tensor(storage(numel=7)))
    with pytest.raises(CheckpointError, match="one storage '0'"):
        load_torch(write(legacy_bytes(root)))


def test_storages_of_unknown_types(write):
    entry = tensor(storage("1", "QInt8Storage"))
    root = state() | {"other": entry}
    np.testing.assert_array_equal(load_torch(write(zip_bytes(root)))["w"].ravel(), np.arange(6))
    with pytest.raises(CheckpointError, match="a dense tensor 'q'"):
        load_torch(write(zip_bytes(state(w=tensor(storage()), q=entry))))
    stores = {"0": (6, NUMBERS), "1": (6, bytes(6))}
    with pytest.raises(CheckpointError, match="of a known type"):
        load_torch(write(legacy_bytes(root, stores)))


@pytest.mark.parametrize("content", [zip_bytes(state()), legacy_bytes(state())])
def test_every_truncation_is_refused(content, write):
    for size in range(1, len(content)):
        with pytest.raises(CheckpointError, match=r"file\.pth: expected"):
            load_torch(write(content[:size]))


# Random damage


VALID = {
    "zip": ((FEATURES / "tsn.pth").read_bytes(), load_torch),
    "legacy": ((FEATURES / "tsn_legacy.pth").read_bytes(), load_torch),
    "small zip": (zip_bytes(state() | {"epoch": 3, "args": named("a.B")}), load_torch),
    "small legacy": (legacy_bytes(state()), load_torch),
    "results": ((PROJECT / "mtrn-esv-n_frames=4.pkl").read_bytes(), load_pickle),
    "values": (pickle.dumps([PLAIN, np.arange(4), np.float32(1), {1: {2}}], 4), load_pickle),
    "old values": (pickle.dumps([PLAIN, np.arange(4), np.array(["a"])], 2), load_pickle),
    "oldest values": (pickle.dumps([PLAIN, np.arange(4)], 0), load_pickle),
}


@pytest.mark.parametrize("name", VALID)
@given(st.data())
@settings(max_examples=150)
def test_random_damage_gives_a_value_or_a_checkpoint_error(tmp_path_factory, name, data):
    content, load = VALID[name]
    changed = bytearray(content)
    edges = st.integers(0, min(900, len(content) - 1))  # the pickle, or from behind the directory
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(edges | edges.map(lambda k: -k - 1) | st.integers(0, len(content) - 1))
        changed[at % len(content)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(content)))
        changed = changed[:cut] + bytes(data.draw(st.binary(max_size=4))) + changed[cut + 2 :]
    path = tmp_path_factory.mktemp("damage") / "file.pth"
    path.write_bytes(changed)
    try:
        load(path)
    except ValueError as error:
        assert isinstance(error, CheckpointError) and str(path) in str(error)


OPCODES = (
    b"N\x88\x89IJKLMGFSTUVXBC\x8a\x8b\x8c)]}\x8f(tld\x91\x85\x86\x87ae\x90su012pqrg\x94hjc\x93R"
)
OPCODES += b"\x81\x92iobPQ\x80\x95"


@given(st.lists(st.sampled_from([bytes([c]) for c in OPCODES]) | st.binary(max_size=3)))
@example([b"](NNe", b"q\x00", b"h\x00", b"a"])
@settings(max_examples=300)
def test_random_programs(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("programs") / "file.pkl"
    path.write_bytes(b"\x80\x02((NK\x01" + b"".join(parts) + END)
    try:
        load_pickle(path)
    except CheckpointError as error:
        assert str(path) in str(error)


# Heads in other layouts than the fixtures'


def layers_of(rng, sizes, first=1):
    """A state dict of linear layers in an `nn.Sequential`."""
    entries = {}
    for k, (rows, columns) in enumerate(zip(sizes[1:], sizes, strict=False)):
        entries[f"model.{first + 2 * k}.weight"] = rng.normal(size=(rows, columns))
        entries[f"model.{first + 2 * k}.bias"] = rng.normal(size=rows)
    return {name: array.astype(np.float32) for name, array in entries.items()}


def file_of(entries):
    """A checkpoint of arrays."""
    tensors, stores = {}, {}
    for k, (name, array) in enumerate(entries.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        tensors[name] = tensor(storage(str(k), numel=array.size), array.shape, strides)
        stores[str(k)] = array.tobytes()
    return zip_bytes({"state_dict": tensors}, stores)


PRIORS = "class,count\n" + "\n".join(f"{c},{c + 1}" for c in range(3))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "class-priors.csv").write_text(PRIORS)
    return tmp_path


@pytest.mark.parametrize("first", [1, 2])
def test_more_hidden_layers_and_a_relu_on_the_features(first, folder, rng):
    for s in (1, 2):
        entries = layers_of(rng, (4 * s, 5, 5, 5, 3), first)
        entries = {f"module.{name}": array for name, array in entries.items()}
        (folder / f"trn_{s}_frames.pth").write_bytes(file_of(entries))
    found = checkpoints.read_play_fair(folder)
    assert found.model.heads.input_relu == (first == 2)
    assert len(found.model.heads.hidden) == 2
    x = rng.normal(size=(2, 4)).astype(np.float32)
    h = x.ravel() if first == 1 else np.maximum(x.ravel(), 0)
    arrays = list(load_torch(folder / "trn_2_frames.pth").values())
    for k in range(0, len(arrays), 2):
        h = arrays[k] @ (np.maximum(h, 0) if k else h) + arrays[k + 1]
    np.testing.assert_allclose(head_logits(found.model.heads, 2, x), h, rtol=1e-5)
    assert found.report.faithful


def mtrn_of(rng, scales, d=4):
    return {
        f"single_scale_models.{s - 1}.{name}": array
        for s in scales
        for name, array in layers_of(rng, (s * d, 5, 3)).items()
    }


def test_heads_of_all_scales_in_one_file(folder, rng):
    entries = mtrn_of(rng, (1, 2, 3))
    (folder / "mtrn_3_frames.pth").write_bytes(file_of(entries))
    model = checkpoints.import_play_fair(folder)
    assert model.heads.n_max == 3
    second = unstack_heads(model.heads)[1]
    np.testing.assert_array_equal(second["w1"].T, entries["single_scale_models.1.model.1.weight"])
    assert checkpoints.import_play_fair(folder, n_max=2).heads.n_max == 2
    with pytest.raises(ValueError, match=r"mtrn_3_frames\.pth: .*1\.\.4.*none for scale 4"):
        checkpoints.import_play_fair(folder, n_max=4)
    (folder / "mtrn_2_frames.pth").write_bytes(file_of(mtrn_of(rng, (1, 2))))
    digests = {n: model_digest(checkpoints.import_play_fair(folder, n_max=n)) for n in (2, 3)}
    assert digests[3] == model_digest(model) and digests[2] != digests[3]
    (folder / "trn_1_frames.pth").write_bytes(file_of(layers_of(rng, (4, 5, 3))))
    report = checkpoints.read_play_fair(folder).report
    roles = {record.path: record.role for record in report.files}
    assert roles["trn_1_frames.pth"] == "head of scale 1"
    assert roles["mtrn_3_frames.pth"] == "not used"


def test_scales_missing_in_one_file(folder, rng):
    (folder / "mtrn_3_frames.pth").write_bytes(file_of(mtrn_of(rng, (1, 3))))
    with pytest.raises(ValueError, match=r"mtrn_3_frames\.pth: .*none for scale 2"):
        checkpoints.import_play_fair(folder)
    (folder / "mtrn_3_frames.pth").write_bytes(file_of(layers_of(rng, (4, 5, 3))))
    with pytest.raises(ValueError, match=r"mtrn_3_frames\.pth: .*single_scale_models"):
        checkpoints.import_play_fair(folder)


def spoiled(rng, **changes):
    entries = layers_of(rng, (4, 5, 3)) | {
        name.replace("_", "."): value for name, value in changes.items()
    }
    return {name: array for name, array in entries.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_1_bias": None}, "linear layers"),
        ({"model_3_weight": None, "model_3_bias": None}, "linear layers"),
        ({"model_4_weight": np.zeros((3, 3)), "model_4_bias": np.zeros(3)}, "linear layers"),
        ({"model_3_weight": np.zeros((3, 6))}, "5 columns in layer 2"),
        ({"model_3_bias": np.zeros(4)}, r"a weight \(out, in\) and a bias"),
        ({"model_3_weight": np.zeros((3, 5, 1))}, r"a weight \(out, in\) and a bias"),
        ({"model_3_weight": np.zeros((3, 5), np.int64)}, "floating-point"),
        ({"model_3_weight": np.full((3, 5), np.nan)}, "finite values"),
    ],
)
def test_layers_of_other_shapes(changes, said, rng):
    with pytest.raises(ValueError, match=rf"a\.pth.*{said}"):
        trn_layers(spoiled(rng, **changes), "a.pth")


def test_batch_normalisation_is_refused(rng):
    entries = layers_of(rng, (4, 5, 3)) | {"model.2.running_mean": np.zeros(5, np.float32)}
    with pytest.raises(CheckpointError, match="batch normalisation"):
        trn_layers(entries, "a.pth")


@pytest.mark.parametrize(
    ("sizes", "first", "said"),
    [
        ((8, 6, 3), 1, r"\(5, 8\) at scale 2.*\(6, 8\)"),
        ((7, 5, 3), 1, r"\(5, 8\) at scale 2.*\(5, 7\)"),
        ((8, 5, 2), 1, "3 classes, got 2"),
        ((8, 5, 5, 3), 1, "2 layers, as at scale 1, got 3"),
        ((8, 5, 3), 2, "a ReLU on the features"),
    ],
)
def test_scales_of_other_sizes(sizes, first, said, folder, rng):
    (folder / "trn_1_frames.pth").write_bytes(file_of(layers_of(rng, (4, 5, 3))))
    (folder / "trn_2_frames.pth").write_bytes(file_of(layers_of(rng, sizes, first)))
    with pytest.raises(ValueError, match=rf"trn_2_frames\.pth: expected .*{said}"):
        checkpoints.import_play_fair(folder)
