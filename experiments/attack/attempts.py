"""Numbered inputs of a reader, tried one by one in processes with limits of memory and time."""

from __future__ import annotations

import collections
import multiprocessing
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Protocol

import esv_jax as ej

REFUSED = (ValueError, TypeError, KeyError, OSError, ImportError, MemoryError)
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect", "pty.spawn")
_MEMORY = 6 * 2**30  # bytes of address space
_BEGINNING = 120.0  # seconds that a process may take to begin


class Attempts(Protocol):
    """What is tried; sent to the process, so that it has to be picklable."""

    @property
    def seconds(self) -> float:
        """That one input may take."""

    @property
    def own(self) -> str:
        """Beginning of all paths that may be opened beside those of the interpreter."""

    def begin(self) -> None:
        """Import what is needed."""

    def make(self, k: int) -> None:
        """Write input k."""

    def read(self, k: int) -> None:
        """Read it; any error beyond `REFUSED` is a fault."""

    def reached(self) -> list[str]:
        """What `read` reached that the audit hook does not see."""


def _work(attempts: Attempts, span: tuple[int, int], progress: Any, pipe: Any) -> None:
    """Try the inputs of a span, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    attempts.begin()
    beyond: list[str] = []
    is_on = False
    python = (sys.prefix, sys.base_prefix, str(Path(ej.__file__).parent))
    known = (attempts.own, *python, "/proc/", "/sys/", "/dev/null")

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if not is_on:
            return
        ours = event == "subprocess.Popen" and "hdf5_inspection" in str(args[1])
        if event in _FORBIDDEN and not ours:  # the package's own reader of doubtful HDF5 files
            beyond.append(f"{event} {args[:1]}"[:200])
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            opened = os.fsdecode(args[0])
            if not opened.startswith(known) and os.path.isabs(opened):
                beyond.append(f"open {opened}"[:200])

    sys.addaudithook(audit)
    pipe.send((-1, "ready", ""))
    warnings.simplefilter("ignore")
    for k in range(*span):
        attempts.make(k)
        beyond.clear()
        with progress.get_lock():
            progress.value = k
        is_on = True
        outcome, text = "read", ""
        try:
            attempts.read(k)
        except REFUSED as error:
            outcome = "refused"
            if "\n" in str(error).strip() or not str(error).strip():
                outcome, text = "unclear", f"{type(error).__name__}: {error}"[:300]
        except Exception as error:
            outcome, text = "traceback", f"{type(error).__name__}: {error}"[:300]
        is_on = False
        beyond += attempts.reached()
        if beyond:
            outcome, text = "reached outside", beyond[0]
        pipe.send((k, outcome, text))
    pipe.send(None)


def attempt_all(attempts: Attempts, n: int) -> dict[str, Any]:
    """Counts of the outcomes of n inputs, and the first few that went wrong."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    start, began = 0, time.monotonic()
    while start < n:
        progress = context.Value("q", -1)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(attempts, (start, n), progress, theirs))
        process.start()
        theirs.close()
        done, patience = False, _BEGINNING
        while True:
            try:
                if not ours.poll(patience):
                    end = "hang"
                    break
                message = ours.recv()
            except EOFError:
                process.join()
                end = f"crash ({process.exitcode})"
                break
            if message is None:
                done = True
                break
            k, outcome, text = message
            patience = attempts.seconds
            if outcome == "ready":
                continue
            counts[outcome] += 1
            start = k + 1
            if outcome not in ("read", "refused"):
                wrong.append({"input": k, "outcome": outcome, "text": text})
        process.kill()
        process.join()
        if done:
            break
        if progress.value < start:
            raise RuntimeError(f"{attempts}: the process did not begin ({end})."[:300])
        counts[end.split()[0]] += 1
        wrong.append({"input": int(progress.value), "outcome": end, "text": ""})
        start = int(progress.value) + 1
    seconds = time.monotonic() - began
    return {"inputs": n, **counts, "seconds": round(seconds, 1), "wrong": wrong[:20]}
