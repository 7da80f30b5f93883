"""Pickles, step by step, into plain values; nothing that the file names is called.

A pickle is a program: it pushes values, and asks for functions by name to be called on them.
Here a name is looked up in a table of our own constructors; one that is not in the table becomes
an `Unknown` record, and so does every call of it.

Opcodes: Python's `pickletools`, protocols 0 to 5. Refused: extension codes, out-of-band buffers,
and strings of protocol 0 with escapes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from esv_jax.checkpoints.inert import CheckpointError, short
from esv_jax.checkpoints.machine import (
    CUT,
    Budget,
    Buffer,
    Machine,
    PersistentLoad,
    Table,
    as_key,
)

_MAX_STEPS = 4_000_000  # of a large file; of a small one a million and one per 32 bytes
_MAX_STACK = 100_000
_MAX_INTEGER = 64  # bytes
_STOP = ord(".")
_COPIES = 4  # bytes that constructors may make per byte of the file


def interpret(
    data: Buffer,
    name: str,
    table: Table,
    *,
    start: int = 0,
    persistent: PersistentLoad | None = None,
) -> tuple[Any, int]:
    """The value that a pickle describes, and where it ends.

    Args:
      data: the bytes, possibly with others after the pickle.
      name: of the file, for messages.
      table: (module, name) -> `Constructor`, or a value that stands for the name itself.
      start: where the pickle begins.
      persistent: what stands for an object stored outside the pickle, from its identifier.
    Returns:
      Plain values, `Unknown` records, and what the table gives. Values may share parts.
    Raises:
      CheckpointError: a damaged file, or one that asks for more than the bounds.
    Cost: time linear in the bytes, some million steps a second; memory bounded by them.
    """
    budget = Budget(name, _COPIES * len(data) + 2**20)
    machine = Machine(data, name, table, start, budget, persistent)
    try:
        return _run(machine), machine.at
    except CheckpointError:
        raise
    except (ValueError, IndexError, OverflowError) as error:  # digits and letters that are none
        got = f"damage at byte {machine.at} ({short(str(error))})"
        raise CheckpointError(f"{name}: expected a readable pickle, got {got}. {CUT}") from error


def _run(machine: Machine) -> Any:
    """Take steps until the one that ends a pickle, and return the value on top."""
    data, size = machine.data, len(machine.data)
    most = min(1_000_000 + size // 32, _MAX_STEPS)
    for _ in range(most):
        if machine.at >= size:
            machine.expect(False, "an end of the pickle", "the end of the file")
        code = data[machine.at]
        machine.at += 1
        if code == _STOP:
            return machine.pop()
        step = _STEPS.get(code)
        if step is None:
            got = f"{bytes([code])!r}"
            raise CheckpointError(f"{machine.name}: expected a pickle opcode, got {got}. {CUT}")
        step(machine)
        if len(machine.stack) > _MAX_STACK:
            break
    expected = f"at most {most} steps and {_MAX_STACK} values at once"
    raise CheckpointError(f"{machine.name}: expected {expected} in a pickle, got more.")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _sized(width: int, make: Callable[[bytes], Any], signed: bool = False) -> Any:
    """A step that pushes what `make` gives for bytes whose number stands before them."""

    def step(m: Machine) -> None:
        size = m.number(width, signed)
        m.expect(size >= 0, "a size of 0 or more", size)
        m.push(make(m.take(size)))

    return step


def _integer(width: int) -> Any:
    def step(m: Machine) -> None:
        size = m.number(width)
        m.expect(size <= _MAX_INTEGER, f"integers of at most {_MAX_INTEGER} bytes", size)
        m.push(int.from_bytes(m.take(size), "little", signed=True))

    return step


def _digits(line: bytes) -> int | bool:
    """An integer as text; protocol 0 writes booleans as 00 and 01."""
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > 3 * _MAX_INTEGER:
        raise ValueError("too many digits")
    return int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"') or b"\\" in line:
        raise ValueError("a string with escapes, or without quotes")
    return line[1:-1].decode("latin-1")


def _constant(value: Any) -> Any:
    return lambda m: m.push(value)


def _tuple_of(n: int) -> Any:
    def step(m: Machine) -> None:
        m.expect(len(m.stack) >= n, f"{n} values on the stack", len(m.stack))
        items = tuple(m.stack[-n:])
        del m.stack[-n:]
        m.push_tuple(items)

    return step


def _dict(m: Machine) -> None:
    items = m.marked()
    m.push({})
    m.enter(items)


def _reduce(m: Machine) -> None:
    args, function = m.pop(), m.pop()
    m.call(function, args)


def _new_with_keywords(m: Machine) -> None:
    keywords, args, function = m.pop(), m.pop(), m.pop()
    m.expect(isinstance(args, tuple), "a tuple of arguments", short(args))
    m.call(function, (*args, keywords) if keywords else args)


def _instance(m: Machine) -> None:
    module, name = _text(m.line()), _text(m.line())
    args = tuple(m.marked())
    m.named(module, name)
    m.call(m.pop(), args)


def _object(m: Machine) -> None:
    items = m.marked()
    m.expect(bool(items), "a class after the mark", "nothing")
    m.call(items[0], tuple(items[1:]))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.named(module, name)


def _discard(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.marked()  # the mark itself


def _item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.enter([key, value])


def _append(m: Machine) -> None:
    value = m.pop()
    m.extend([value])


def _protocol(m: Machine) -> None:
    version = m.number(1)
    m.expect(version <= 5, "pickle protocol 0 to 5", version)


def _frame(m: Machine) -> None:
    size = m.number(8)
    m.expect(size <= len(m.data) - m.at, f"a frame of {size} bytes", f"{len(m.data) - m.at}")


def _refused(what: str) -> Any:
    return lambda m: m.expect(False, "a pickle that stands alone", what, "It is not read.")


_BY_LETTER: dict[bytes, Callable[[Machine], None]] = {
    # numbers and constants
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": lambda m: m.push(_digits(m.line())),
    b"L": lambda m: m.push(_digits(m.line())),
    b"F": lambda m: m.push(float(m.line())),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"\x8a": _integer(1),
    b"\x8b": _integer(4),
    # text and bytes; strings of Python 2 letter by byte, as NumPy asks for
    b"V": lambda m: m.push(m.text_line().decode("raw_unicode_escape")),
    b"S": lambda m: m.push(_quoted(m.text_line())),
    b"X": _sized(4, _text),
    b"\x8c": _sized(1, _text),
    b"\x8d": _sized(8, _text),
    b"T": _sized(4, lambda raw: raw.decode("latin-1"), signed=True),
    b"U": _sized(1, lambda raw: raw.decode("latin-1")),
    b"B": _sized(4, bytes),
    b"C": _sized(1, bytes),
    b"\x8e": _sized(8, bytes),
    b"\x96": _sized(8, bytearray),
    # containers
    b")": _constant(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(set()),
    b"(": Machine.mark,
    b"t": lambda m: m.push_tuple(tuple(m.marked())),
    b"l": lambda m: m.push(m.marked()),
    b"d": _dict,
    b"\x91": lambda m: m.push(frozenset(map(as_key, m.marked()))),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": _append,
    b"e": lambda m: m.extend(m.marked()),
    b"\x90": lambda m: m.extend(m.marked()),
    b"s": _item,
    b"u": lambda m: m.enter(m.marked()),
    # the stack and the memo
    b"0": _discard,
    b"1": lambda m: m.marked().clear(),
    b"2": lambda m: m.push(m.top()),
    b"p": lambda m: m.put(int(_digits(m.line()))),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(int(_digits(m.line()))),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    # names and calls: ours, or records
    b"c": lambda m: m.named(_text(m.line()), _text(m.line())),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_keywords,
    b"i": _instance,
    b"o": _object,
    b"b": Machine.build,
    # what lies outside, and how the rest is laid out
    b"P": lambda m: m.identified(_text(m.line())),
    b"Q": lambda m: m.identified(m.pop()),
    b"\x80": _protocol,
    b"\x95": _frame,
    b"\x82": _refused("an extension code"),
    b"\x83": _refused("an extension code"),
    b"\x84": _refused("an extension code"),
    b"\x97": _refused("a buffer outside of it"),
    b"\x98": _refused("a buffer outside of it"),
}
_STEPS = {letter[0]: step for letter, step in _BY_LETTER.items()}
