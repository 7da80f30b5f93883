"""Writing a file completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from esv_jax.checks import expect, message

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of `path` once it is complete.

        with atomic_path("results.nc") as temporary:
            dataset.to_netcdf(temporary)

    Whether the place can be written to is found out on entering, before the work begins. If
    anything then fails, Ctrl-C included, the temporary file is removed and `path` stays as it
    was. Where `path` is a link, the file it points to is replaced.

    Args:
      path: the file, in a folder that exists.
      overwrite: whether an existing file may be replaced.
    Yields:
      The temporary file: empty, hidden, in the same folder, of the same suffix, with the
      permissions of any new file. Write it and close it; it is then synced and moved.
    Raises:
      FileNotFoundError: no such folder.
      FileExistsError: the file exists, on entering or at the end, and `overwrite` is False.
      ValueError: a folder or a device in the place of a file.
      PermissionError, OSError: a place that cannot be written to, a disk that is full. Other
        errors of the block pass as they are.
    """
    target = Path(os.path.realpath(path))
    _expect_place(target)
    _expect_free(target, overwrite)
    temporary = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        with _naming(target):
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        with _naming(target, only=_FULL):
            yield temporary
        with _naming(target), open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        _expect_free(target, overwrite)
        with _naming(target):
            os.replace(temporary, target)
    finally:
        with suppress(OSError):  # moved, never made, or past helping: the first error tells more
            temporary.unlink()


def expect_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether a file could be written; raises as `atomic_path` does."""
    with suppress(_DryRun), atomic_path(path):
        raise _DryRun


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
      OSError: (a subclass) naming the folder, where it cannot be made or is a file.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(message(str(path), "a folder that can be made", reason.lower())) from None


class _DryRun(Exception):
    """Leaves `atomic_path` before anything is replaced."""


def _expect_place(target: Path) -> None:
    """Refuse a path where no file can be."""
    folder = target.parent
    if not folder.is_dir():
        got, way_out = f"no {str(folder)!r}", "Make it first."
        raise FileNotFoundError(message("path", "an existing folder", got, way_out))
    try:
        mode = target.stat().st_mode  # asked once: another writer may replace the file meanwhile
    except OSError:  # nothing there yet; a place that cannot be entered tells so on writing
        return
    got = f"the folder {str(target)!r}"
    expect(not stat.S_ISDIR(mode), "path", "a file", got, "Add a file name.")
    expect(stat.S_ISREG(mode), "path", "a file", f"the device or pipe {str(target)!r}")


def _expect_free(target: Path, overwrite: bool) -> None:
    """Refuse an existing file, unless it may be replaced."""
    got, way_out = f"the existing {str(target)!r}", "Pass overwrite=True to replace it."
    free = overwrite or not target.exists()
    expect(free, "path", "a new file", got, way_out, kind=FileExistsError)


@contextmanager
def _naming(target: Path, only: Container[int | None] | None = None) -> Iterator[None]:
    """Say in errors of the system (of some numbers only) which file they are about."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        got = f"{str(target)!r} ({error})"
        way_out = "Free some space there, ask for its permissions, or choose another place."
        raise type(error)(message("path", "a place to write to", got, way_out)) from error
