"""HDF5 files of any origin, inspected before they are opened.

On a damaged or malicious file the HDF5 library may never return, crash, take gigabytes, or open
other files. A second process, which is kept for further files, reads names, attributes and sizes
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
from typing import Any

from esv_jax.checks import expect, message
from esv_jax.extras import require

_SECONDS, _RATE = 5, 20e6  # of a processor, at most, for a file: this, and one for so many bytes
_PATIENCE = 12  # times as long by the clock, where a disk or a busy machine lets wait
_PROGRAM = Path(__file__).with_name("hdf5_inspection.py")


def open_hdf5(path: str | os.PathLike[str], expected: str, *, views: bool = False) -> Any:
    """An h5py file, open for reading, that leads to no other file.

    Args:
      path: the file.
      expected: what it should be, for messages.
      views: whether virtual datasets may lie in `shards/<number>.nc` beside the file.
    Raises:
      FileNotFoundError: no such file.
      ValueError: naming the file: no HDF5, external links or values, sizes that are declared but
        not stored, a file on which the library hangs or crashes.
      ImportError: h5py is not installed.
    Cost: reads names, attributes and one-dimensional datasets once more than the caller; the first
      call starts a process, about 0.3 seconds.
    """
    h5py, path = require("h5py", "files"), Path(path)
    expect(path.is_file(), str(path), expected, "no such file", kind=FileNotFoundError)
    with open(path, "rb"):  # the system says who may not
        pass
    refused = _INSPECTOR.refused(path, views)
    expect(not refused, str(path), expected, refused)
    try:
        return h5py.File(path, "r")
    except Exception as error:
        way_out = "It may be cut short or of another format."
        text = message(str(path), expected, "one that cannot be opened", way_out)
        raise ValueError(text) from error


@contextmanager
def naming(where: str, expected: str) -> Iterator[None]:
    """Turn errors of h5py into a ValueError of one line that says where they happened.

    Only calls of the library belong in the block: on a damaged file it raises nearly anything.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(message(where, expected, "damage")) from error


class _Inspector:
    """The process that inspects files, one at a time; started on first use and after a crash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def refused(self, path: Path, views: bool) -> str:
        """Why a file should not be opened, or ""."""
        seconds = _SECONDS + int(path.stat().st_size / _RATE)
        request = {"path": str(path.absolute()), "views": views, "seconds": seconds}
        with self._lock:
            process = self._running()
            late = threading.Timer(_PATIENCE * seconds, process.kill)
            late.start()
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            finally:
                in_time = late.is_alive()
                late.cancel()
            if line:
                return str(json.loads(line)["refused"])
            self.end()  # changes nothing of how it ended, where it did so by itself
            if in_time and -process.returncode != getattr(signal, "SIGXCPU", None):
                return "damage (the HDF5 library crashes)"
            return f"damage (the HDF5 library takes more than {seconds} seconds)"

    def _running(self) -> subprocess.Popen[str]:
        """The process; a new one where there is none, or only that of a parent process."""
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
        """End the process, if this one started it."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            with process, suppress(OSError):  # closes its pipes and waits
                pass


_INSPECTOR = _Inspector()
atexit.register(_INSPECTOR.end)
