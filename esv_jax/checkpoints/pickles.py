"""Result pickles of other programs: plain containers, numbers, text and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

from esv_jax.checkpoints.files import mapped
from esv_jax.checkpoints.inert import expect
from esv_jax.checkpoints.machine import Draft
from esv_jax.checkpoints.opcodes import interpret
from esv_jax.checkpoints.plain import PLAIN

_MAX_DEPTH = 100
_MAX_UNFOLDED = 100_000_000


def load_pickle(path: str | PathLike[str]) -> Any:
    """Read a pickle without running any code of it.

    The results of play-fair are such files: a dict of arrays, or of lists of arrays.

    Args:
      path: the file, of any pickle protocol from 0 to 5.
    Returns:
      dicts (an OrderedDict too), lists, tuples, sets, numbers, text, bytes, NumPy arrays and
      scalars of numbers, booleans and text. Any other object is an `Unknown` record of its name
      and parts; so is a dict key that is no string, bytes, float or 64-bit integer.
    Raises:
      FileNotFoundError: no such file.
      CheckpointError: (a ValueError) a damaged file, one with bytes after its end, nesting deeper
        than 100 levels, containers that hold themselves, or that would unfold to more than
        100 million values.
    Cost: linear in the size of the file.
    """
    with mapped(path) as data:
        name = str(path)
        value, end = interpret(data, name, PLAIN)
        got = f"{len(data) - end} more"
        way_out = "A torch checkpoint is read by load_torch."
        expect(end == len(data), name, "no bytes after the pickle", got, way_out)
    expect_modest(name, value)
    return value


def expect_modest(name: str, value: Any) -> None:
    """Refuse what is small in a file but has no end when it is walked through.

    Each container is visited once, without recursion; `Unknown` records are not entered.
    """
    depth: dict[int, int] = {}  # levels below, of containers that were left again
    unfolded: dict[int, int] = {}  # values below, counting shared ones as often as they occur
    path: list[tuple[Any, Iterator[Any]]] = [((value,), iter((value,)))]
    entered = {id(path[0][0])}
    while path:
        container, rest = path[-1]
        for item in rest:
            expect(not isinstance(item, Draft), name, "arrays with their data", "one without")
            if id(item) in depth or not isinstance(item, dict | list | tuple | set | frozenset):
                continue
            expect(id(item) not in entered, name, "containers in order", "one that holds itself")
            expect(len(path) <= _MAX_DEPTH, name, f"at most {_MAX_DEPTH} levels", "more")
            entered.add(id(item))
            path.append((item, iter(_held(item))))
            break
        else:
            path.pop()
            items = _held(container)
            levels = 1 + max((depth.get(id(item), 0) for item in items), default=0)
            total = 1 + sum(unfolded.get(id(item), 1) for item in items)
            expect(levels <= _MAX_DEPTH, name, f"at most {_MAX_DEPTH} levels", levels)
            got = "shared parts that unfold to more"
            expect(total <= _MAX_UNFOLDED, name, f"at most {_MAX_UNFOLDED} values", got)
            depth[id(container)], unfolded[id(container)] = levels, total


def _held(container: Any) -> Any:
    """Return the items of a container; of a dict its values."""
    return container.values() if isinstance(container, dict) else container
