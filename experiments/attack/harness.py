"""Outcomes of attacks: commands in child processes with limits, and numbered inputs of readers."""

from __future__ import annotations

import collections
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

import esv_jax as ej

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


def outcome_of(result: dict[str, Any]) -> Outcome:
    """Outcome of the counts of `attempt_all`."""
    counts = {k: v for k, v in result.items() if k not in ("inputs", "wrong", "seconds")}
    n_wrong = sum(v for k, v in counts.items() if k not in ("read", "refused"))
    faults = [f"input {w['input']}: {w['outcome']} {w['text']}".strip() for w in result["wrong"]]
    faults += ["(not listed)"] * (n_wrong - len(faults))
    detail = ", ".join(f"{v} {k}" for k, v in counts.items())
    return Outcome(result["inputs"], tuple(faults), detail)


class Ended(NamedTuple):
    """Exit code and stderr; the code is negative after a signal, 1000 after a timeout."""

    code: int
    said: str


def start(*words: Any, file_size: int | None = None) -> subprocess.Popen[str]:
    """Starts `esv-jax` with arguments; no file may grow beyond `file_size` bytes."""
    limits = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_size}, {file_size}))"
    code = "" if file_size is None else f"import resource; {limits}; "
    return subprocess.Popen(
        [*COMMAND[:-1], code + COMMAND[-1], *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = _LONGEST) -> Ended:
    """Waits for a command; kills it after `seconds`."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Ended(1000, f"no end after {seconds} s")
    return Ended(process.returncode, said)


def refusal(ended: Ended) -> str:
    """Fault of an exit: "" after code 0, or after code 2 with one line."""
    lines = [line for line in ended.said.splitlines() if line.startswith("esv-jax:")]
    if ended.code == 0 or (ended.code == 2 and len(lines) == 1):
        return "" if "Traceback" not in ended.said else f"a traceback: {_short(ended.said)}"
    return f"code {ended.code}: {_short(ended.said)}"


def _short(said: str) -> str:
    """Beginning and end of a text."""
    return said if len(said) < 1000 else f"{said[:400]} ... {said[-600:]}"


def make_set(folder: Path, n: int, seed: int) -> None:
    """n labelled sequences of 3 to 6 elements, features.hdf, and a model, model.safetensors."""
    rng = np.random.default_rng(seed)
    items = [
        (f"v{k}", rng.normal(size=(3 + k % 4, _WIDTH)).astype(np.float32), {"action": k % _CLASSES})
        for k in range(n)
    ]
    ej.data.write_features(folder / "features.hdf", items, _WIDTH)
    heads = [
        {
            "w1": rng.normal(size=(s * _WIDTH, 8)).astype(np.float32),
            "b1": np.zeros(8, np.float32),
            "w2": rng.normal(size=(8, _CLASSES)).astype(np.float32),
            "b2": np.zeros(_CLASSES, np.float32),
        }
        for s in (1, 2, 3)
    ]
    prior = np.full(_CLASSES, 1 / _CLASSES, np.float32)
    model = ej.models.TrainedModel(ej.models.stack_heads(heads), prior, ("a", "b", "c"))
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


class Attempts(Protocol):
    """Inputs of a reader; picklable, since they are sent to the process."""

    @property
    def seconds(self) -> float:
        """Seconds that one input may take."""

    @property
    def own(self) -> str:
        """Prefix of the paths that may be opened beside those of the interpreter."""

    def begin(self) -> None:
        """Imports everything the reader needs."""

    def make(self, k: int) -> None:
        """Writes input k."""

    def read(self, k: int) -> None:
        """Reads input k; an error other than `REFUSED` is a fault."""

    def reached(self) -> list[str]:
        """Accesses of `read` that the audit hook does not report."""


def _work(attempts: Attempts, span: tuple[int, int], progress: Any, pipe: Any) -> None:
    """Tries the inputs of a span, in its own process."""
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
    """Counts of the outcomes of n inputs, and the first 20 faults.

    Each process has limits of memory and time; after a crash or a hang a new one continues.
    """
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
        done, patience = False, _START
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
            raise RuntimeError(f"{attempts}: the process did not start ({end})."[:300])
        counts[end.split()[0]] += 1
        wrong.append({"input": int(progress.value), "outcome": end, "text": ""})
        start = int(progress.value) + 1
    seconds = time.monotonic() - began
    return {"inputs": n, **counts, "seconds": round(seconds, 1), "wrong": wrong[:20]}
