"""Outcomes of attacks: commands in child processes with limits, and numbered inputs of readers."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import esv_jax as ej
from experiments.random_models import random_heads, with_names

COMMAND = (sys.executable, "-X", "faulthandler", "-c", "from esv_jax.cli import run; run()")
REFUSED = (ValueError, TypeError, KeyError, OSError, ImportError, MemoryError)
_LONGEST = 180.0  # seconds that a command may take
_WIDTH, _CLASSES = 6, 3
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect", "pty.spawn")
_MEMORY = 6 * 2**30  # bytes of address space
_START = 120.0  # seconds that a process may take to start


class Outcome(NamedTuple):
    """Result of an attack.

    Attributes:
      tried: number of attempts. faults: a description of each failed attempt.
      detail: counts as text.
    """

    tried: int
    faults: tuple[str, ...]
    detail: str = ""


class Ended(NamedTuple):
    """Exit code and stderr; the code is negative after a signal, 1000 after a timeout."""

    code: int
    said: str


def start(*words: Any, file_size: int | None = None) -> subprocess.Popen[str]:
    """Starts `esv-jax` with arguments; no file may grow beyond `file_size` bytes."""
    limits = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_size}, {file_size}))"
    code = "" if file_size is None else f"import resource; {limits}; "
    command = [*COMMAND[:-1], code + COMMAND[-1], *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], seconds: float = _LONGEST) -> Ended:
    """Waits for a command; kills it after `seconds`."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Ended(1000, f"no end after {seconds} s")
    return Ended(process.returncode, said)


def complete(*words: Any) -> None:
    """Runs `esv-jax` to its end; RuntimeError where it fails."""
    if (ended := finish(start(*words))).code:
        raise RuntimeError(f"an undisturbed {words[0]} fails: {ended.said}")


def refusal(ended: Ended) -> str:
    """Fault of an exit: "" after code 0, or after code 2 with one line."""
    said = ended.said
    short = said if len(said) < 1000 else f"{said[:400]} ... {said[-600:]}"
    lines = [line for line in said.splitlines() if line.startswith("esv-jax:")]
    if ended.code == 0 or (ended.code == 2 and len(lines) == 1):
        return "" if "Traceback" not in said else f"a traceback: {short}"
    return f"code {ended.code}: {short}"


def make_set(folder: Path, n: int, seed: int) -> None:
    """n labelled sequences of 3 to 6 elements, features.hdf, and a model, model.safetensors."""
    rng = np.random.default_rng(seed)
    items = [
        (f"v{k}", rng.normal(size=(3 + k % 4, _WIDTH)).astype(np.float32), {"action": k % _CLASSES})
        for k in range(n)
    ]
    ej.data.write_features(folder / "features.hdf", items, _WIDTH)
    model = with_names(random_heads(seed, 3, _WIDTH, 8, _CLASSES), "abc")
    ej.models.save_model(folder / "model.safetensors", model)


def sweep_words(folder: Path, out: Path) -> tuple[Any, ...]:
    """Arguments that sweep the set in a folder, two sequences a shard."""
    model = folder / "model.safetensors"
    return ("sweep", folder / "features.hdf", "--model", model, "--out", out, "--shard-size", 2)


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of all files in a folder, by path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def loaded(path: Path) -> Any:
    """Stored results in memory."""
    with ej.results.open(path) as dataset:
        return dataset.load()


def same_values(left: Any, right: Any) -> bool:
    """True where two datasets have equal variables and dtypes."""
    return left.equals(right) and all(left[name].dtype == right[name].dtype for name in left)


def sweep_differs(found: Path, whole: Path) -> str:
    """Difference of a sweep from an undisturbed one; "" where there is none.

    Compares file names, bytes of shards and all arrays; records and the manifest contain times.
    """
    ours, theirs = files_in(found), files_in(whole)
    if ours.keys() != theirs.keys():
        return f"other files: {sorted(ours.keys() ^ theirs.keys())[:5]}"
    shards = [name for name in theirs if name.startswith("shards/") and name.endswith(".nc")]
    wrong = [name for name in shards if ours[name] != theirs[name]]
    if wrong:
        return f"other bytes in {wrong[:5]}"
    return "" if same_values(loaded(found), loaded(whole)) else "other values"


# Inputs of readers


@dataclasses.dataclass(frozen=True)
class Attempts:
    """Numbered inputs of a reader; picklable, since they are sent to the process.

    Subclasses have `begin()`, which imports everything the reader needs, `make(k)`, which writes
    input k, and `read(k)`, which reads it; an error other than `REFUSED` is a fault.

    Attributes:
      folder: the folder that they are written to.
      seed: with its number it determines an input.
      seconds: seconds that one input may take.
    """

    folder: Path
    seed: int
    seconds: float = 10.0

    @property
    def own(self) -> str:
        """Prefix of the paths that may be opened beside those of the interpreter."""
        return str(self.folder)

    def reached(self) -> list[str]:
        """Accesses of `read` that the audit hook does not report."""
        return []


class Tried(NamedTuple):
    """Counts of outcomes, and number, outcome and text of each fault."""

    counts: collections.Counter[str]
    wrong: list[tuple[int, str, str]]

    def outcome(self, name: Callable[[int], str] = lambda k: "") -> Outcome:
        """The same as texts; `name` describes an input."""
        faults = [f"{name(k)} input {k}: {end} {text}".strip() for k, end, text in self.wrong]
        detail = ", ".join(f"{count} {end}" for end, count in self.counts.items())
        return Outcome(self.counts.total(), tuple(faults), detail)


def attempt_all(attempts: Attempts, n: int) -> Tried:
    """Outcomes of n inputs.

    Each process has limits of memory and time; after a crash or a hang a new one continues.
    """
    tried, context, at = Tried(collections.Counter(), []), multiprocessing.get_context("spawn"), 0

    def count(outcome: str, text: str = "") -> None:
        tried.counts[outcome.split(" (")[0]] += 1
        if outcome not in ("read", "refused"):
            tried.wrong.append((at, outcome, text))

    while at < n:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(attempts, range(at, n), theirs))
        process.start()
        theirs.close()
        is_ready, end = False, "hang"
        try:
            while at < n and ours.poll(attempts.seconds if is_ready else _START):
                outcome, text = ours.recv()
                if is_ready:
                    count(outcome, text)
                    at += 1
                is_ready = True
        except EOFError:
            process.join()
            end = f"crash ({process.exitcode})"
        process.kill()
        process.join()
        if at < n:
            if not is_ready:
                raise RuntimeError(f"{attempts}: the process did not start ({end})."[:300])
            count(end)
            at += 1
    return tried


def _work(attempts: Any, numbers: range, pipe: Any) -> None:
    """Sends "ready", then the outcome of each input, from its own process."""
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
    pipe.send(("ready", ""))
    warnings.simplefilter("ignore")
    for k in numbers:
        attempts.make(k)
        beyond.clear()
        is_on = True
        outcome, text = "read", ""
        try:
            attempts.read(k)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:300]
            outcome = "traceback"
            if isinstance(error, REFUSED):
                said = str(error).strip()
                outcome = "refused" if said and "\n" not in said else "unclear"
        is_on = False
        beyond += attempts.reached()
        pipe.send(("reached outside", beyond[0]) if beyond else (outcome, text))
