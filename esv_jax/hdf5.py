"""Opening of untrusted HDF5 files.

On a damaged or malicious file the HDF5 library may hang, crash, allocate gigabytes, or open other
files. A second process, reused for further files, therefore reads names, attributes and sizes
first, in bounded time and memory.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from esv_jax.checks import message
from esv_jax.extras import require

if TYPE_CHECKING:
    import h5py

_SECONDS, _RATE = 5, 20e6  # limit of CPU time: _SECONDS + bytes / _RATE
_WALL_FACTOR = 12  # limit of wall time / limit of CPU time, for slow disks and busy machines
_PROGRAM = Path(__file__).with_name("hdf5_inspection.py")


def open_hdf5(path: str | os.PathLike[str], expected: str, *, views: bool = False) -> h5py.File:
    """Open an HDF5 file for reading, if it refers to no other file.

    Args:
      path: the file.
      expected: its content, for messages.
      views: whether the sources of virtual datasets may be `shards/<number>.nc` beside the file.
    Raises:
      FileNotFoundError: no such file.
      ValueError: not an HDF5 file, external links or values, sizes that are declared but not
        stored, a file on which the library hangs or crashes; names the file.
      ImportError: h5py is not installed.
    Cost: reads names, attributes and one-dimensional datasets once more than the caller; the first
      call starts a process, about 0.3 seconds.
    """
    h5py, path = require("h5py", "files"), Path(path)
    if not path.is_file():
        raise FileNotFoundError(message(str(path), expected, "no such file"))
    with open(path, "rb"):  # raises without permission
        pass
    if reason := _INSPECTOR.reason_to_refuse(path, views):
        raise ValueError(message(str(path), expected, reason))
    try:
        return h5py.File(path, "r")
    except Exception as error:
        way_out = "It may be cut short or of another format."
        text = message(str(path), expected, "one that cannot be opened", way_out)
        raise ValueError(text) from error


@contextmanager
def naming(where: str, expected: str) -> Iterator[None]:
    """Convert errors of h5py, which may be of any type, to a ValueError that names `where`.

    The block should contain calls of h5py alone.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(message(where, expected, "damage")) from error


class _Inspector:
    """The process that inspects files one at a time; started on first use and after a crash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def reason_to_refuse(self, path: Path, views: bool) -> str:
        """The reason not to open a file, or ""."""
        seconds = _SECONDS + int(path.stat().st_size / _RATE)
        request = {"path": str(path.absolute()), "views": views, "seconds": seconds}
        with self._lock:
            process = self._running()
            timer = threading.Timer(_WALL_FACTOR * seconds, process.kill)
            timer.start()
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            finally:
                in_time = timer.is_alive()
                timer.cancel()
            if line:
                return str(json.loads(line)["refused"])
            self.end()  # keeps the exit status of a process that ended by itself
            if in_time and -process.returncode != getattr(signal, "SIGXCPU", None):
                return "damage (the HDF5 library crashes)"
            return f"damage (the HDF5 library takes more than {seconds} seconds)"

    def _running(self) -> subprocess.Popen[str]:
        """The process, started if there is none, or if it belongs to the parent of a fork."""
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **threads, **paths},
                text=True,
                encoding="utf-8",
            )
        return self._process

    def end(self) -> None:
        """End the process, unless it belongs to the parent of a fork."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            with process, suppress(OSError):  # closes its pipes and waits
                pass


_INSPECTOR = _Inspector()
atexit.register(_INSPECTOR.end)
