"""Restricted unpickler: reads pickles of other programs and runs nothing that they name.

A pickle is a program that imports functions by name and calls them. It is run here by the pure
Python interpreter of the standard library (`pickle._Unpickler`) under three restrictions:

- Names are looked up in a table of constructors of this package. Any other name becomes an
  `Unknown` record, and so does its result when it is called. Nothing is imported.
- Opcodes are an allow-list. Those that call, build or fill an object are replaced. The extension
  registry and out-of-band buffers are refused.
- Sizes are compared with the bytes that are left before memory is allocated. The number of reads
  and the bytes that constructors copy are bounded by the size of the file.

The C interpreter (`pickle.Unpickler`) cannot be restricted in this way: Python 3.11's takes 4 GiB
for a memo index in a file of 7 bytes, and crashes where a deeply nested tuple is a dict key.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from pickle import _Unpickler
from typing import Any, ClassVar, TypeAlias

from esv_jax import checks
from esv_jax.checks import message

_MAX_READS = 8_000_000  # of a large file; of a small one 2,000,000 and one per 16 bytes
_MAX_LINE = 1_024  # bytes of a name, and of a number written in digits
_MAX_INTEGER = 255  # bytes
_COPIES = 4  # bytes that constructors may make per byte of the file
_SHOWN = 60  # characters of a foreign value in a message
_DAMAGED = "The file may be damaged or cut short."

# Opcodes of protocols 0 to 5 that the base class runs: constants, numbers, text, tuples, stack,
# memo, names and references to storages.
_INHERITED = (
    b"NIJKLMFG\x88\x89\x8aTUXBC\x8c\x8d\x8e)]}\x8f(tl\x85\x86\x87012pqrghj\x94cio\x93PQ\x80."
)

Buffer: TypeAlias = bytes | mmap.mmap
StrPath: TypeAlias = str | PathLike[str]
Value: TypeAlias = Any  # of a file: any type, to be checked with isinstance


class CheckpointError(ValueError):
    """A foreign file that cannot be read, or should not be; the message names the file."""


@dataclass(frozen=True, eq=False, slots=True)
class Unknown:
    """An object of a file whose class or function is not on the allow-list. Nothing was called.

    Attributes:
      module: module of the class or function, as the file has it.
      name: its name there.
      args: arguments of the call; empty for the class or function itself.
      states: states to be set on the object, in order.
      items: elements, or (key, value) pairs, to be put into the object.
    """

    module: str
    name: str
    args: tuple[Value, ...] = ()
    states: list[Value] = field(default_factory=list)
    items: list[Value] = field(default_factory=list)

    def __repr__(self) -> str:
        """The name on one line. The contents may be large, or contain the record itself."""
        return f"<inert {repr(self.path)[1:-1]}>"

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


class Source:
    """Bytes of a file as the file object of an unpickler, with limits on reads and copies.

    Attributes:
      name: of the file, for messages.
      at: offset of the next byte.
    """

    def __init__(self, data: Buffer, name: str, start: int = 0) -> None:
        self.data, self.name, self.at = data, name, start
        self.max_line = _MAX_LINE
        self.max_reads = min(2_000_000 + len(data) // 16, _MAX_READS)
        self._size, self._n_reads = len(data), 0
        self._n_bytes_left = _COPIES * len(data) + 2**20

    def read(self, n: int) -> bytes:
        """The next n bytes, once they are known to exist."""
        end = self.at + n
        if end > self._size:
            raise self.error(f"{n} more bytes of a pickle", self._size - self.at)
        self._n_reads += 1
        if self._n_reads > self.max_reads:
            raise self.error(f"at most {self.max_reads} reads in a pickle", "more", "")
        chunk = self.data[self.at : end]
        self.at = end
        return chunk

    def readline(self) -> bytes:
        """The bytes up to and including the next line feed."""
        end = self.data.find(b"\n", self.at, self.at + self.max_line)
        if end < 0:
            raise self.error(f"a line of at most {self.max_line} bytes", "no line feed")
        return self.read(end + 1 - self.at)

    def reserve(self, n_bytes: int) -> None:
        """Count bytes that a constructor is about to allocate."""
        self._n_bytes_left -= n_bytes
        if self._n_bytes_left < 0:
            got = "values that would take many times its size"
            raise CheckpointError(message(self.name, "values of about the size of the file", got))

    def error(self, expected: str, got: object, way_out: str = _DAMAGED) -> CheckpointError:
        """The error of damage at the current offset."""
        got = f"{got} before byte {self.at}"
        return CheckpointError(message(self.name, expected, got, way_out))


@dataclass(frozen=True)
class Constructor:
    """A name on the allow-list with the function of this package that replaces it.

    `call` takes any arguments and the file. It returns a plain value, or None for arguments that it
    does not support: the result is then an `Unknown` record.
    """

    module: str
    name: str
    call: Callable[[tuple[Value, ...], Source], Value]


@dataclass(eq=False)
class Pending:
    """A value whose state follows in the file, to be replaced by `fill(state, source)`.

    `slots` are its memo indices, where it is replaced too.
    """

    fill: Callable[[Value, Source], Value]
    slots: list[int] = field(default_factory=list)


Table: TypeAlias = Mapping[tuple[str, str], Value]


def expect(condition: bool, name: str, expected: str, got: object, way_out: str = "") -> None:
    """Raise `CheckpointError` unless `condition` holds."""
    checks.expect(condition, name, expected, got, way_out, kind=CheckpointError)


def short(value: object) -> str:
    """Description of a foreign value: strings and numbers cut to a line, other values by type."""
    if isinstance(value, bytes | str):
        return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")
    if value is None or isinstance(value, bool | int | float | Unknown):
        return repr(value)[: 2 * _SHOWN]
    return f"a {type(value).__name__}"


@contextmanager
def mapped(path: StrPath) -> Iterator[mmap.mmap]:
    """The bytes of a file, mapped for the time of a `with` block.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: a folder, a device, an empty file.
    """
    file_path = Path(path)
    if not file_path.exists():
        raise FileNotFoundError(message(str(path), "a file", "no such file"))
    expect(file_path.is_file(), str(path), "a file", "a folder, a pipe or a device")
    expect(file_path.stat().st_size > 0, str(path), "a file with content", "an empty file")
    with file_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def unpickle(
    data: Buffer,
    name: str,
    table: Table,
    *,
    start: int = 0,
    persistent: Callable[[Value], Value] | None = None,
) -> tuple[Value, int]:
    """Read a pickle without running any code of it.

    Args:
      data: bytes that contain the pickle; others may follow it.
      name: of the file, for messages.
      table: (module, name) -> `Constructor`, or a value that replaces the name itself.
      start: offset of the pickle.
      persistent: maps the identifier of an object stored outside the pickle to a value.
    Returns:
      The value and the offset of its end. The value consists of plain values, `Unknown` records
      and values of the table. Parts may be shared, nested to any depth, or contain themselves.
    Raises:
      CheckpointError: a damaged file, or one that exceeds a limit.
    Cost: linear in the bytes, about a million opcodes a second.
    """
    source = Source(data, name, start)
    try:
        return _RestrictedUnpickler(source, table, persistent).load(), source.at
    except CheckpointError:
        raise
    except Exception as error:  # damage raises errors of any kind, e.g. IndexError, struct.error
        got = f"damage at byte {source.at} ({short(str(error) or type(error).__name__)})"
        raise CheckpointError(message(name, "a readable pickle", got, _DAMAGED)) from error


class _Memo(dict[int, Value]):
    """The memo: bounded indices, so that no two of them have one hash; pending values by index."""

    def __setitem__(self, index: int, value: Value) -> None:
        if index >= 2**32:
            raise ValueError("a memo index above 32 bits")
        if isinstance(value, Pending):
            value.slots.append(index)
        super().__setitem__(index, value)


class _RestrictedUnpickler(_Unpickler):
    """The standard library's interpreter with the restrictions in the docstring of the module."""

    stack: list[Value]  # of the base class, as the next three
    append: Callable[[Value], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Value]]

    def __init__(
        self, source: Source, table: Table, persistent: Callable[[Value], Value] | None
    ) -> None:
        super().__init__(source, encoding="latin-1")  # of strings of Python 2, as NumPy reads them
        self.memo = _Memo()
        self._source, self._table, self._persistent = source, table, persistent

    # Names and calls

    def find_class(self, module: str, name: str) -> Value:
        """The table's entry, or a record. The base class would import the module."""
        if max(len(module), len(name)) > _MAX_LINE:
            raise self._source.error("the name of a class or function", "a longer text")
        found = self._table.get((module, name))
        return Unknown(module, name) if found is None else found

    def persistent_load(self, pid: Value) -> Value:
        """The value of an identifier."""
        if self._persistent is None:
            got, way_out = "a reference to data outside of it", "Use load_torch for checkpoints."
            raise self._source.error("values inside the pickle", got, way_out)
        return self._persistent(pid)

    def _called(self, function: Value, args: Value) -> Value:
        """The result of a constructor, or a record of the call."""
        if not isinstance(args, tuple):
            raise self._source.error("a tuple of arguments", short(args))
        if not isinstance(function, Constructor | Unknown):
            raise self._source.error("a class or function", short(function))
        result = None
        if isinstance(function, Constructor):
            result = function.call(args, self._source)
        return Unknown(function.module, function.name, args) if result is None else result

    def _instantiate(self, klass: Value, args: list[Value]) -> None:  # INST and OBJ
        self.append(self._called(klass, tuple(args)))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.append(self._called(self.stack.pop(), args))

    def _new_with_keywords(self) -> None:
        keywords, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if isinstance(args, tuple) and isinstance(keywords, dict) and keywords:
            self._source.reserve(8 * len(args))
            args = (*args, keywords)
        self.append(self._called(function, args))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Pending):
            value = self.stack[-1] = target.fill(state, self._source)
            slots, target.slots = target.slots, []
            for slot in slots:
                if self.memo.get(slot) is target:
                    self.memo[slot] = value
        elif isinstance(target, Unknown):
            target.states.append(state)
        elif isinstance(target, list | tuple | set | frozenset | str | bytes | int | float):
            raise self._source.error("an object with attributes", short(target))
        # Other attributes are dropped: of an OrderedDict (versions of a state dict), of a tensor.

    # Containers: only lists, dicts, sets and records are filled

    def _extend(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, Unknown):
            target.items.extend(items)
        elif isinstance(target, set):
            target.update(map(as_key, items))
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise self._source.error("a list or set to add to", short(target))

    def _update(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise self._source.error("keys with values", "a key without")
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Unknown):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            target.update((as_key(key), value) for key, value in pairs)
        else:
            raise self._source.error("a dict to put values in", short(target))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

    def _frozenset(self) -> None:
        items = frozenset(map(as_key, self.pop_mark()))
        self.append(items)  # pop_mark replaces `append`

    # Sizes

    def _frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > len(self._source.data) - self._source.at:
            raise self._source.error(f"a frame of {size} bytes", "fewer")

    def _long_integer(self) -> None:
        size = int.from_bytes(self.read(4), "little")
        if size > _MAX_INTEGER:
            raise self._source.error(f"integers of at most {_MAX_INTEGER} bytes", size)
        self.append(int.from_bytes(self.read(size), "little", signed=True))

    def _bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _long_line(self, code: int) -> None:
        self._source.max_line = len(self._source.data)
        _Unpickler.dispatch[code](self)  # type: ignore[arg-type]
        self._source.max_line = _MAX_LINE

    def _refused(self) -> None:
        code = self._source.data[self._source.at - 1 : self._source.at]
        raise self._source.error("opcodes of a pickle that stands alone", f"{code!r}")

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **dict.fromkeys(range(256), _refused),
        **{code: _Unpickler.dispatch[code] for code in _INHERITED},
        ord("R"): _reduce,
        0x81: _reduce,  # NEWOBJ
        0x92: _new_with_keywords,
        ord("b"): _build,
        ord("a"): lambda self: self._extend([self.stack.pop()]),
        ord("e"): lambda self: self._extend(self.pop_mark()),
        0x90: lambda self: self._extend(self.pop_mark()),  # ADDITEMS
        ord("s"): _set_item,
        ord("u"): lambda self: self._update(self.pop_mark()),
        ord("d"): _dict,
        0x91: _frozenset,
        0x95: _frame,
        0x8B: _long_integer,
        0x96: _bytearray,
        ord("S"): lambda self: self._long_line(ord("S")),
        ord("V"): lambda self: self._long_line(ord("V")),
    }


def as_key(value: Value) -> Value:
    """The value as a dict key or element of a set.

    Strings, bytes, floats, records and 64-bit integers stay. A file could choose other values to
    make hashing slow or to overflow the stack (equal hashes, tuples nested without end): they
    become records, which are hashed by identity.
    """
    if value is None or isinstance(value, str | bytes | float | Unknown):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    return Unknown("builtins", type(value).__name__, (value,))
