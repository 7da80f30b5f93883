"""Result pickles: plain containers, numbers, text and NumPy arrays.

`PLAIN` is the allow-list of Python's and NumPy's names, each with a constructor of this module.
Arrays of numbers, booleans or text are copied out of the file, in native byte order. Object,
structured and date arrays stay `Unknown` records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Literal

import numpy as np

from esv_jax.checkpoints.unpickle import (
    CheckpointError,
    Constructor,
    Pending,
    Source,
    StrPath,
    Table,
    Unknown,
    Value,
    as_key,
    expect,
    mapped,
    unpickle,
)
from esv_jax.checks import message

_MAX_DEPTH = 100
_MAX_UNFOLDED = 100_000_000
_MAX_DIMENSIONS = 32
_MAX_SIZE = 2**40
_MAX_CODE_POINT = 0x10FFFF
_DTYPE = re.compile(r"[biufc](1|2|4|8|16)|U[1-9]\d{0,6}|\?")

Args = tuple[Value, ...]


def load_pickle(path: StrPath) -> Value:
    """Read a pickle of plain values without running any code of it.

    The results of play-fair are such files: a dict of arrays, or of lists of arrays.

    Args:
      path: the file, of any pickle protocol from 0 to 5.
    Returns:
      dicts (an OrderedDict too), lists, tuples, sets, numbers, text, bytes, NumPy arrays and
      scalars of numbers, booleans and text. Value other object is an `Unknown` record of its name
      and parts; so is a dict key other than a string, bytes, float or 64-bit integer.
    Raises:
      FileNotFoundError: no such file.
      CheckpointError: (a ValueError) a damaged file, bytes after its end, nesting deeper than 100
        levels, containers that contain themselves, or more than 100 million values once shared
        containers are counted as often as they occur.
    Cost: linear in the size of the file.
    """
    with mapped(path) as data:
        name = str(path)
        value, end = unpickle(data, name, PLAIN)
        way_out = "A torch checkpoint is read by load_torch."
        expect(end == len(data), name, "no bytes after the pickle", len(data) - end, way_out)
    _expect_finite_tree(name, value)
    return value


def _expect_finite_tree(name: str, value: Value) -> None:
    """Refuse a value that is small in a file but large or endless to iterate over.

    Each container is visited once, without recursion; `Unknown` records are not entered.
    """
    depth: dict[int, int] = {}  # levels of each finished container
    unfolded: dict[int, int] = {}  # its values, shared ones counted as often as they occur
    path: list[tuple[Value, Iterator[Value]]] = [((value,), iter((value,)))]
    open_containers = {id(path[0][0])}
    while path:
        container, rest = path[-1]
        for item in rest:
            if isinstance(item, Pending):
                raise CheckpointError(message(name, "arrays with their data", "one without"))
            if id(item) in depth or not isinstance(item, dict | list | tuple | set | frozenset):
                continue
            is_new = id(item) not in open_containers
            expect(is_new, name, "a tree of containers", "one that contains itself")
            expect(len(path) <= _MAX_DEPTH, name, f"at most {_MAX_DEPTH} levels", "more")
            open_containers.add(id(item))
            path.append((item, iter(_values(item))))
            break
        else:
            path.pop()
            items = _values(container)
            levels = 1 + max((depth.get(id(item), 0) for item in items), default=0)
            total = 1 + sum(unfolded.get(id(item), 1) for item in items)
            expect(levels <= _MAX_DEPTH, name, f"at most {_MAX_DEPTH} levels", levels)
            got = "more, as shared parts unfold"
            expect(total <= _MAX_UNFOLDED, name, f"at most {_MAX_UNFOLDED} values", got)
            depth[id(container)], unfolded[id(container)] = levels, total


def _values(container: Value) -> Collection[Value]:
    """The elements of a container; of a dict, its values."""
    return container.values() if isinstance(container, dict) else container


# Arrays


def is_text(value: Value, *choices: str) -> bool:
    """Return whether a value is one of the strings. An array would be compared by element."""
    return type(value) is str and value in choices


def is_shape(shape: Value) -> bool:
    """Return whether a value is a tuple of sizes of an array below the limits."""
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size <= _MAX_SIZE for size in shape)
        and math.prod(max(size, 1) for size in shape) <= _MAX_SIZE
    )


def _array(
    raw: Value, dtype: Value, shape: Value, order: Value, source: Source
) -> np.ndarray | None:
    """The array of the given bytes; None if the dtype is not of numbers, booleans or text.

    Raises:
      CheckpointError: bytes that do not fit the shape, code points outside Unicode.
    """
    if not isinstance(dtype, np.dtype):
        return None
    if isinstance(raw, str):  # bytes as Python 2 wrote them
        source.reserve(len(raw))
        raw = raw.encode("latin-1")
    expect(is_shape(shape), source.name, "the shape of an array", "another value")
    size, is_raw = math.prod(shape) * dtype.itemsize, isinstance(raw, bytes | bytearray)
    fits = is_raw and len(raw) == size and is_text(order, "C", "F")
    got = len(raw) if is_raw else type(raw).__name__
    expect(fits, source.name, f"{size} bytes of an array {shape} of {dtype}", got)
    source.reserve(2 * size)
    if size == 0:
        return np.zeros(shape, dtype.newbyteorder("="))
    is_bool = dtype.kind == "b"  # a stored bool other than 0 and 1 becomes 1
    flat = np.frombuffer(raw, np.uint8) != 0 if is_bool else np.frombuffer(raw, dtype)
    if dtype.kind == "U":
        largest = int(flat.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder)).max())
        expect(largest <= _MAX_CODE_POINT, source.name, "code points of Unicode", largest)
    return flat.astype(dtype.newbyteorder("=")).reshape(shape, order=order)


def _reconstruct(args: Args, source: Source) -> Value:
    """`_reconstruct(ndarray, (0,), b"b")`: an array whose shape, dtype and bytes follow."""

    def fill(state: Value, source: Source) -> Value:
        fits = isinstance(state, tuple) and len(state) == 5
        expect(fits, source.name, "version, shape, dtype, order and bytes of an array", "others")
        _, shape, dtype, is_column_major, raw = state
        array = _array(raw, dtype, shape, "F" if is_column_major else "C", source)
        return Unknown("numpy", "ndarray", state) if array is None else array

    fits = len(args) == 3 and isinstance(args[0], Unknown) and args[0].path == "numpy.ndarray"
    return Pending(fill) if fits else None


def _from_buffer(args: Args, source: Source) -> Value:
    """`_frombuffer(bytes, dtype, shape, order[, axes])`, written by NumPy at protocol 5.

    With order "K", shape is that of the bytes, and the axes are then put in the given order.
    """
    if len(args) == 4 or (len(args) == 5 and args[4] is None):
        return _array(*args[:4], source)
    if len(args) != 5 or not is_text(args[3], "K"):
        return None
    array, axes = _array(*args[:3], "C", source), args[4]
    if array is None:
        return None
    fits = isinstance(axes, tuple) and all(type(axis) is int for axis in axes)
    fits = fits and sorted(axes) == list(range(array.ndim))
    expect(fits, source.name, f"an order of {array.ndim} axes", "another value")
    return array.transpose(axes)


def _dtype(args: Args, source: Source) -> Value:
    """`dtype(code, align, copy)` of a plain code, e.g. "f4", whose byte order follows."""
    if not args or type(args[0]) is not str or not _DTYPE.fullmatch(args[0]):
        return None
    try:
        dtype = np.dtype(args[0])
    except TypeError as error:  # e.g. f1
        raise CheckpointError(message(source.name, "a dtype of NumPy", repr(args[0]))) from error

    def fill(state: Value, source: Source) -> Value:
        fits = isinstance(state, tuple) and len(state) >= 5 and is_text(state[1], *"<>|=")
        expect(fits, source.name, "the byte order of a dtype", "another value")
        has_fields = any(part is not None for part in state[2:5])
        order: Literal["<", ">"] = ">" if state[1] == ">" else "<"
        return Unknown("numpy", "dtype", (state,)) if has_fields else dtype.newbyteorder(order)

    return Pending(fill)


def _scalar(args: Args, source: Source) -> Value:
    """`scalar(dtype, bytes)`."""
    array = _array(args[1], args[0], (), "C", source) if len(args) == 2 else None
    return None if array is None else array[()]


# Plain values


def _encode(args: Args, source: Source) -> Value:
    """`encode(text, "latin1")`, which is how protocol 2 stores bytes."""
    if len(args) != 2 or type(args[0]) is not str or not is_text(args[1], "latin1", "latin-1"):
        return None
    source.reserve(len(args[0]))
    return args[0].encode("latin-1")


def _container(
    make: Callable[[Collection[Value]], Value],
) -> Callable[[Args, Source], Value]:
    """A constructor of a container, without arguments or of a list of its elements."""

    def call(args: Args, source: Source) -> Value:
        if len(args) > 1 or not all(isinstance(items, list | tuple) for items in args):
            return None
        items = args[0] if args else ()
        source.reserve(16 * len(items))
        return make(items)

    return call


def _dict(pairs: Collection[Value]) -> dict[Value, Value] | None:
    fits = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    return {as_key(key): value for key, value in pairs} if fits else None


def _complex(args: Args, source: Source) -> Value:
    fits = len(args) == 2 and all(type(part) is float for part in args)
    return complex(*args) if fits else None


def make_table(entries: dict[tuple[str, str], Value]) -> Table:
    """A table for `unpickle`: functions become `Constructor`s, other values stay as they are."""
    return {
        (module, name): Constructor(module, name, value) if callable(value) else value
        for (module, name), value in entries.items()
    }


to_tuple = _container(tuple)  # torch.Size likewise
_BUILTINS = {
    "set": _container(lambda items: set(map(as_key, items))),
    "frozenset": _container(lambda items: frozenset(map(as_key, items))),
    "tuple": to_tuple,
    "bytes": lambda args, source: None if args else b"",  # how protocol 2 stores empty ones
    "bytearray": lambda args, source: None if args else b"",
    "complex": _complex,
}
PLAIN = make_table(
    {
        ("collections", "OrderedDict"): _container(_dict),
        # As a dict; the default factory is ignored.
        ("collections", "defaultdict"): lambda args, source: {} if len(args) <= 1 else None,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _dtype,
        **{
            (f"numpy.{core}.{name}", function): call
            for core in ("core", "_core")  # NumPy 1 and 2
            for name, function, call in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
        **{
            (module, name): call
            for module in ("builtins", "__builtin__")
            for name, call in _BUILTINS.items()
        },
    }
)
