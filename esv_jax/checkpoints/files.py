"""A foreign file as mapped bytes: nothing is read before it is asked for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from esv_jax.checkpoints.inert import expect
from esv_jax.checks import message


@contextmanager
def mapped(path: str | PathLike[str]) -> Iterator[mmap.mmap]:
    """The bytes of a file, for the time of a `with` block.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: a folder, a device, an empty file.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(message(str(path), "a file", "no such file"))
    expect(place.is_file(), str(path), "a file", "a folder, a pipe or a device")
    expect(place.stat().st_size > 0, str(path), "a file with content", "an empty file")
    with place.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
