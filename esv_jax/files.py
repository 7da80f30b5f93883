"""Writing a file completely or not at all, and a folder by one run at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from esv_jax.checks import expect, message

JSONObject = dict[str, Any]  # as `json` reads and writes it
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_TEMPORARY = re.compile(r"(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d+)\.[0-9a-f]{8}(\.\w+)?")
_LOCK, _DAY = "lock", 86400.0


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, overwrite: bool = True, within: Path | None = None
) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of `path` once it is complete.

        with atomic_path("results.nc") as temporary:
            dataset.to_netcdf(temporary)

    Whether the place can be written to is found out on entering, before the work begins. If
    anything then fails, Ctrl-C included, the temporary file is removed and `path` stays as it
    was. Where `path` is a link, the file it points to is replaced.

    Args:
      path: the file, in a folder that exists.
      overwrite: whether an existing file may be replaced.
      within: a folder on the same disk for the temporary file, whose name then says which host and
        process writes it; see `remove_leftovers`. Default beside `path`, hidden.
    Yields:
      The temporary file: empty, of the same suffix, with the permissions of any new file. Write it
      and close it; it is then synced and moved.
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
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.stem[:40]}.{token}{target.suffix}")
    if within is not None:
        make_folder(within)
        temporary = (
            Path(os.path.realpath(within)) / f"{_host()}.{os.getpid()}.{token}{target.suffix}"
        )
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


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that processes of this host left in a folder when they were killed.

    Called by the one who holds `locked_folder`, before writing. Files of other names, of processes
    that run, or of other hosts within a day stay.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or not path.is_file() or path.is_symlink():
            continue
        with suppress(OSError):
            own = match["host"] == _host()
            old = time.time() - path.stat().st_mtime > _DAY
            if not _runs(int(match["process"])) if own else old:
                path.unlink()


@contextmanager
def locked_folder(folder: Path, name: str, expected: str) -> Iterator[None]:
    """Lock a folder while this process writes to it; made on entering, removed at the end if empty.

    The system releases the lock when the process ends, in whatever way. On a disk without file
    locks the lock file itself is the lock: it is stale where it names a process of this host that
    no longer runs; one of another host has to be removed by hand, as the error says.

    Args:
      folder: holds only temporary files and the lock file.
      name, expected: for the message.
    Raises:
      FileExistsError: another process holds the lock; names it.
      OSError: a folder that cannot be made.
    """
    file = None
    while file is None:
        make_folder(folder)
        file = _locked_file(folder / _LOCK, name, expected)
    try:
        with suppress(OSError):  # a full disk: the lock holds without naming its holder
            os.write(file, json.dumps({"host": _host(), "process": os.getpid()}).encode())
        yield
    finally:
        with suppress(OSError):
            (folder / _LOCK).unlink()
        os.close(file)
        with suppress(OSError):
            folder.rmdir()


def _locked_file(path: Path, name: str, expected: str) -> int | None:
    """Open and lock a file; None where it was removed meanwhile, for the caller to try again."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        made = True
    except FileExistsError:
        made = False
    except FileNotFoundError:  # the folder was removed by a process that ended meanwhile
        return None
    try:
        file = file if made else os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if not _lock(file) and not made:
            holder = _holder(file)
            if holder is None or not _is_stale(holder):
                raise BlockingIOError
            path.unlink()
        same = os.path.samestat(os.fstat(file), path.stat())
    except BlockingIOError:
        holder = _holder(file)
        os.close(file)
        got = f"process {holder[1]} on {holder[0]}" if holder else "another process"
        way_out = f"Wait until it ends, or choose another folder; if it has ended, remove {path}."
        text = message(name, expected, f"{got}, which is writing to it", way_out)
        raise FileExistsError(text) from None
    except FileNotFoundError:
        same = False
    if not same:
        os.close(file)
        return None
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _lock(file: int) -> bool:
    """Lock an open file; False where the system or the disk has no locks.

    Raises:
      BlockingIOError: another open of the file holds the lock.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _holder(file: int) -> tuple[str, int] | None:
    """Host and process in a lock file; None where it names none."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        about = json.loads(os.read(file, 1000))
        return str(about["host"]), int(about["process"])
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _is_stale(holder: tuple[str, int]) -> bool:
    """Return whether the process that wrote a lock file has ended, as far as this host can tell."""
    return holder[0] == _host() and not _runs(holder[1])


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:60]


def _runs(process: int) -> bool:
    """Return whether another process of this number runs here."""
    if process == os.getpid() or os.name != "posix":
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, and is not ours
        return True
    return True


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
