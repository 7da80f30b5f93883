"""The state of a pickle's interpretation, and what a step may do to it.

Sizes that the file declares are compared with the bytes that are there before anything is made;
open marks, tuples in tuples and bytes copied are bounded. Names are looked up in a table of our
own constructors and nowhere else: no module is imported, no attribute looked up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from esv_jax.checkpoints.inert import Unknown, expect, short

_MAX_LEVELS = 1_000  # of open marks, and of tuples in tuples
_MAX_LINE = 1_024  # bytes of a name, and of a number written in digits

CUT = "The file may be damaged or cut short."


class Buffer(Protocol):
    """Bytes, or a mapped file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def find(self, sub: bytes, start: int, end: int, /) -> int:
        """Return the index at which `sub` begins, or -1."""


class Budget:
    """Bytes that constructors may still make of one file, so that no small file grows large."""

    def __init__(self, name: str, n_bytes: int) -> None:
        self.name = name
        self._left = n_bytes

    def take(self, n_bytes: int) -> None:
        """Count `n_bytes` that are about to be made."""
        self._left -= n_bytes
        got = "values that would take many times its size"
        expect(self._left >= 0, self.name, "values of about the size of the file", got)


@dataclass(frozen=True)
class Constructor:
    """A name on the allow-list with the function of ours that stands for it.

    `call` takes the arguments in the file, whatever they are, and the budget; it returns a plain
    value, or None where the arguments are none that it knows: then the result is `Unknown`.
    """

    module: str
    name: str
    call: Callable[[tuple[Any, ...], Budget], Any]


class Draft(ABC):
    """A value that a file announces and fills in later; it takes its own place when filled."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    @abstractmethod
    def filled(self, state: Any, budget: Budget) -> Any:
        """The value, from what the file says of it."""


Table: TypeAlias = Mapping[tuple[str, str], Any]
PersistentLoad: TypeAlias = Callable[[Any], Any]


@dataclass
class Machine:
    """State of an interpretation: the bytes left to read, and the stack."""

    data: Buffer
    name: str
    table: Table
    at: int
    budget: Budget
    persistent: PersistentLoad | None
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks under the open marks
    memo: dict[int, Any] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)  # of tuples that hold tuples, by id

    def expect(self, condition: bool, expected: str, got: object, way_out: str = CUT) -> None:
        """Raise `CheckpointError` with file and place unless `condition` holds."""
        if not condition:
            expect(False, self.name, expected, f"{got} before byte {self.at}", way_out)

    def take(self, n: int) -> bytes:
        """The next n bytes, once it is known that they are there."""
        end = self.at + n
        if end > len(self.data):
            got = f"{len(self.data) - self.at}"
            self.expect(False, f"{n} more bytes of a pickle", got)
        chunk: bytes = self.data[self.at : end]
        self.at = end
        return chunk

    def number(self, width: int, signed: bool = False) -> int:
        """The next `width` bytes as a little-endian integer."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self, longest: int = _MAX_LINE) -> bytes:
        """The bytes up to the next line feed, which is passed."""
        end = self.data.find(b"\n", self.at, self.at + longest)
        self.expect(end >= 0, f"a line of at most {longest} bytes", "a longer one")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def text_line(self) -> bytes:
        """A line of any length."""
        return self.line(len(self.data))

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the value on top."""
        self.expect(bool(self.stack), "a value on the stack", "none")
        return self.stack.pop()

    def top(self) -> Any:
        """The value on top, which stays."""
        self.expect(bool(self.stack), "a value on the stack", "none")
        return self.stack[-1]

    def mark(self) -> None:
        """Begin a new stack above the present one."""
        self.expect(len(self.below) < _MAX_LEVELS, f"at most {_MAX_LEVELS} levels", "more")
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """The values above the last mark, which is taken away."""
        self.expect(bool(self.below), "an open mark", "none")
        items, self.stack = self.stack, self.below.pop()
        return items

    def push_tuple(self, items: tuple[Any, ...]) -> None:
        """Push a tuple: the one container that a byte of the file can put a level deeper."""
        below = [self.levels.get(id(item), 1) for item in items if type(item) is tuple]
        self.levels.pop(id(items), None)  # left by a former tuple in the same place
        if below:
            level = 1 + max(below)
            self.expect(level <= _MAX_LEVELS, f"at most {_MAX_LEVELS} levels", "more")
            self.levels[id(items)] = level
        self.push(items)

    def put(self, slot: int) -> None:
        """Store the value on top in the memo."""
        value = self.top()
        if isinstance(value, Draft):
            value.slots.append(slot)
        self.memo[slot] = value

    def get(self, slot: int) -> None:
        """Push a value of the memo."""
        self.expect(slot in self.memo, "a value stored before", f"none in slot {slot}")
        self.push(self.memo[slot])

    def named(self, module: Any, name: Any) -> None:
        """Push what stands for a name; only the table is asked."""
        fits = all(isinstance(part, str) and len(part) <= _MAX_LINE for part in (module, name))
        self.expect(fits, "the name of a class or function", "something else")
        found = self.table.get((module, name))
        self.push(Unknown(module, name) if found is None else found)

    def call(self, function: Any, args: Any) -> None:
        """Push the result of one of our constructors, or a record of the call."""
        self.expect(isinstance(args, tuple), "a tuple of arguments", short(args))
        known = isinstance(function, Constructor | Unknown)
        self.expect(known, "a class or function", short(function))
        result = None
        if isinstance(function, Constructor):
            result = function.call(args, self.budget)
        self.push(Unknown(function.module, function.name, args) if result is None else result)

    def build(self) -> None:
        """Give the object under the top the state on top."""
        state, target = self.pop(), self.top()
        if isinstance(target, Draft):
            value = target.filled(state, self.budget)
            self.stack[-1] = value
            for slot in target.slots:
                if self.memo.get(slot) is target:
                    self.memo[slot] = value
        elif isinstance(target, Unknown):
            target.states.append(state)
        else:  # attributes of an OrderedDict or tensor, e.g. the versions of a state dict
            plain = isinstance(target, list | tuple | set | frozenset | str | bytes | int | float)
            self.expect(not plain, "an object with attributes", short(target))

    def extend(self, items: list[Any]) -> None:
        """Put elements into the list, set or record on top."""
        target = self.top()
        if isinstance(target, Unknown):
            target.items.extend(items)
        elif isinstance(target, set):
            target.update(map(as_key, items))
        else:
            self.expect(isinstance(target, list), "a list or set to add to", short(target))
            target.extend(items)

    def enter(self, items: list[Any]) -> None:
        """Put the (key, value) pairs of a flat list into the dict on top."""
        target = self.top()
        self.expect(len(items) % 2 == 0, "keys with values", "a key without")
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Unknown):
            target.items.extend(pairs)
            return
        self.expect(isinstance(target, dict), "a dict to put values in", short(target))
        for key, value in pairs:
            target[as_key(key)] = value

    def identified(self, identifier: Any) -> None:
        """Push what stands for an object outside the pickle."""
        self.expect(
            self.persistent is not None,
            "values inside the pickle",
            "a reference to a store outside of it",
            "A torch checkpoint is read by load_torch.",
        )
        if self.persistent is not None:
            self.push(self.persistent(identifier))


def as_key(value: Any) -> Any:
    """A value as a dict key or element of a set.

    Strings, bytes, floats, records and 64-bit integers stay. Hashing anything else is up to the
    file (equal hashes, tuples nested without end): it becomes a record, which is hashed by
    identity.
    """
    if value is None or isinstance(value, str | bytes | float | Unknown):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    return Unknown("builtins", type(value).__name__, (value,))
