"""Atomic writing of files, and locks on folders."""

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
    """Write to a temporary file, which replaces `path` once it is complete.

        with atomic_path("results.nc") as temporary:
            dataset.to_netcdf(temporary)

    On entering, before the work begins, `path` is checked to be writable. If anything then fails,
    Ctrl-C included, the temporary file is removed and `path` stays as it was. If `path` is a link,
    the file it points to is replaced.

    Args:
      path: the file, in a folder that exists.
      overwrite: replace an existing file.
      within: a folder on the same disk for the temporary file, whose name then holds host and
        process; see `remove_leftovers`. Default: hidden, beside `path`.
    Yields:
      The temporary file: empty, of the same suffix, with the permissions of any new file. Write it
      and close it; it is then synced and moved.
    Raises:
      FileNotFoundError: no such folder.
      FileExistsError: the file exists, on entering or at the end, and `overwrite` is False.
      ValueError: a path that is a folder or a device.
      PermissionError, OSError: a path that cannot be written, a full disk. Other errors of the
        block are not changed.
    """
    target = Path(os.path.realpath(path))
    _expect_file(target)
    _expect_free(target, overwrite)
    ending = f"{secrets.token_hex(4)}{target.suffix}"
    temporary = target.with_name(f".{target.stem[:40]}.{ending}")
    if within is not None:
        make_folder(within)
        temporary = Path(os.path.realpath(within)) / f"{_host()}.{os.getpid()}.{ending}"
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
        with suppress(OSError):  # moved or never made; else the first error tells more
            temporary.unlink()


def expect_writable(path: str | os.PathLike[str]) -> None:
    """Check before long work that a file can be written; raises as `atomic_path` does."""
    with suppress(_DryRun), atomic_path(path):
        raise _DryRun


def make_folder(path: str | os.PathLike[str]) -> None:
    """Create a folder, and those above it, if missing.

    Raises:
      OSError: (a subclass) naming the folder, if it cannot be created or is a file.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(message(str(path), "a folder that can be made", reason.lower())) from None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes of this host from a folder.

    Call it while holding `locked_folder`. Files of other names, of running processes, and of other
    hosts for a day stay.
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
    """Lock a folder while this process writes to it; create it, and remove it at the end if empty.

    The system releases the lock whenever the process ends. On a disk without file locks the lock
    file itself is the lock: it is stale if it names a process of this host that no longer runs; one
    of another host has to be removed by hand, as the error says.

    Args:
      folder: contains only temporary files and the lock file.
      name, expected: for the message.
    Raises:
      FileExistsError: another process holds the lock; names it.
      OSError: a folder that cannot be created.
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
    """Open and lock a file; return None if it was removed meanwhile: call again."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        created = True
    except FileExistsError:
        created = False
    except FileNotFoundError:  # the folder was removed by a process that ended meanwhile
        return None
    try:
        file = file if created else os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if not _lock(file) and not created:
            holder = _holder(file)
            if holder is None or holder[0] != _host() or _runs(holder[1]):
                raise BlockingIOError
            path.unlink()  # stale: its process, of this host, has ended
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
    """Lock an open file; return False if the disk has no locks. BlockingIOError: it is locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _holder(file: int) -> tuple[str, int] | None:
    """Host and process in a lock file; None if it names none."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        about = json.loads(os.read(file, 1000))
        return str(about["host"]), int(about["process"])
    except (ValueError, KeyError, TypeError, OSError):
        return None


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
    except OSError:  # it runs, as another user
        return True
    return True


class _DryRun(Exception):
    """Raised to leave `atomic_path` before anything is replaced."""


def _expect_file(target: Path) -> None:
    """Refuse a path that cannot be a file."""
    folder = target.parent
    if not folder.is_dir():
        got, way_out = f"no {str(folder)!r}", "Make it first."
        raise FileNotFoundError(message("path", "an existing folder", got, way_out))
    try:
        mode = target.stat().st_mode  # read once: another process may replace the file meanwhile
    except OSError:  # no file yet; a folder without permission raises on writing
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
    """Name the file in errors of the system; with `only`, in those of some numbers."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        got = f"{str(target)!r} ({error})"
        way_out = "Free some space there, change its permissions, or choose another path."
        raise type(error)(message("path", "a path that can be written", got, way_out)) from error
