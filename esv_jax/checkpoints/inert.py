"""Inert records for objects of a foreign file, and the error of damaged files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esv_jax import checks

_SHOWN = 60  # characters of a foreign value in a message


class CheckpointError(ValueError):
    """A foreign file that cannot be read, or should not be; the message names the file."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """An object of a file whose class or function is not on the allow-list. Nothing was called.

    Attributes:
      module: where the file says the class or function is.
      name: its name there.
      args: what it was to be called with; empty for the class or function itself.
      states: what was to be set on the object, in order.
      items: what was to be put into it: elements, or (key, value) pairs.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    states: list[Any] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        """The name alone: what it holds may be large, or hold itself."""
        return f"<inert {self.path}>"

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


def expect(condition: bool, name: str, expected: str, got: object, way_out: str = "") -> None:
    """Raise `CheckpointError` with the house message unless `condition` holds."""
    checks.expect(condition, name, expected, got, way_out, kind=CheckpointError)


def short(value: object) -> str:
    """A foreign value in a message: strings and numbers cut to a line, anything else by kind."""
    if isinstance(value, bytes | str):
        cut = value[:_SHOWN]
        return repr(cut) + ("..." if len(value) > _SHOWN else "")
    if value is None or isinstance(value, bool | int | float | Unknown):
        return repr(value)[: 2 * _SHOWN]
    return f"a {type(value).__name__}"
