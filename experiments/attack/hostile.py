"""Hostile files: none may open another file, run code, hang, exhaust memory, or crash a reader.

File k depends on the seed and k alone. Beside it are files that must not be opened, one of them a
pipe on which opening never returns; inotify (on Linux) reports files opened by any library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import esv_jax as ej
from esv_jax.models import backbones
from experiments.attack import fuzz
from experiments.attack.harness import REFUSED, Attempts, Outcome, attempt_all
from experiments.attack.hostile_files import KINDS, zeros

_IN_OPEN = 0x20
_MOST = 2**30  # bytes of memory that a file may take


def _read_all(path: Path) -> None:
    """Reads a file by every reader of its suffix; raises the last refusal."""
    readers: dict[str, tuple[Callable[[Path], Any], ...]] = {
        **dict.fromkeys((".hdf", ".h5", ".npy", ".ts"), (fuzz.read_sequences,)),
        **dict.fromkeys((".nc", ".sweep"), (fuzz.read_results,)),
        **dict.fromkeys(
            (".pth", ".pt", ".pkl", ".npz"), (ej.checkpoints.load_torch, ej.checkpoints.load_pickle)
        ),
        ".safetensors": (ej.models.load_model, backbones.load_backbone),
        ".csv": (ej.data.classes.read_classes, ej.data.classes.read_class_priors),
    }
    refused: Exception | None = None
    for read in readers.get(path.suffix, (functools.partial(fuzz.read_video, n=8),)):
        try:
            read(path)
        except REFUSED as error:
            refused = error
            if "\n" in str(error):
                break
    if refused is not None:
        raise refused


class Hostile(Attempts):
    """Files of all kinds in turn."""

    @property
    def own(self) -> str:
        """Path of the input."""
        return str(self.folder / "input")

    def begin(self) -> None:
        """Writes the bait, and reads a valid file with every reader."""
        (self.folder / "bait.mp4").write_bytes(fuzz.valid("MP4 video"))
        (self.folder / "bait.raw").write_bytes(b"secret\n" * 99)
        with h5py.File(self.folder / "bait.h5", "w") as file:
            file["x"] = np.ones(4, np.float32)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.folder / "pipe")
        for name, reader in fuzz.READERS.items():
            path = self.folder / f"input{reader.suffix}"
            path.write_bytes(fuzz.valid(name))
            reader.read(path)
        zeros()
        _ = self._opened, self._peak

    def make(self, k: int) -> None:
        """Writes file k."""
        for path in self.folder.glob("input*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.folder / "ran").unlink(missing_ok=True)
        kind = list(KINDS.values())[k % len(KINDS)]
        kind(np.random.default_rng([self.seed, k]), self.folder)
        self._names_opened()

    def read(self, k: int) -> None:
        """Reads it."""
        (path,) = self.folder.glob("input*")
        _read_all(path)

    def reached(self) -> list[str]:
        """Bait that was opened, code that ran, memory that was allocated."""
        found = [f"opened {name}" for name in self._names_opened() if not name.startswith("input")]
        found += ["code ran"] if (self.folder / "ran").exists() else []
        before, self._peak[0] = self._peak[0], _peak()
        if self._peak[0] - before > _MOST:
            found.append(f"took {(self._peak[0] - before) >> 20} MiB")
        return found

    @functools.cached_property
    def _peak(self) -> list[int]:
        return [_peak()]

    @functools.cached_property
    def _opened(self) -> int:
        """File descriptor of inotify for the folder; -1 where the system has none."""
        library = ctypes.CDLL(None)
        if not hasattr(library, "inotify_init1"):
            return -1
        descriptor = int(library.inotify_init1(os.O_NONBLOCK))
        library.inotify_add_watch(descriptor, os.fsencode(self.folder), _IN_OPEN)
        return descriptor

    def _names_opened(self) -> list[str]:
        """Names of files in the folder that were opened since the last call."""
        content, names = b"", []
        with contextlib.suppress(BlockingIOError):
            while self._opened >= 0 and (more := os.read(self._opened, 2**16)):
                content += more
        while content:
            size = struct.unpack_from("<iIII", content)[3]
            name, content = content[16 : 16 + size].rstrip(b"\0"), content[16 + size :]
            names += [name.decode()] if name else []  # the folder itself has none
        return names


def _peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def hostile(folder: Path, seed: int, n: int) -> Outcome:
    """n files, of all kinds in turn."""
    names = list(KINDS)
    tried = attempt_all(Hostile(folder, seed), n)
    return tried.outcome(lambda k: f"{names[k % len(names)]},")
