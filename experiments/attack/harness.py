"""Commands in child processes with limits, a small set to explain, and what an attack found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import esv_jax as ej

COMMAND = (sys.executable, "-X", "faulthandler", "-c", "from esv_jax.cli import run; run()")
_LONGEST = 180.0  # seconds that a command may take
_WIDTH, _CLASSES = 6, 3


class Outcome(NamedTuple):
    """What an attack found.

    Attributes:
      tried: how many times. faults: what went wrong, one text a time.
      detail: counts in words.
    """

    tried: int
    faults: tuple[str, ...]
    detail: str = ""


def outcome_of(result: dict[str, Any]) -> Outcome:
    """Of what `attempts.attempt_all` counted."""
    counts = {k: v for k, v in result.items() if k not in ("inputs", "wrong", "seconds")}
    n_wrong = sum(v for k, v in counts.items() if k not in ("read", "refused"))
    faults = [f"input {w['input']}: {w['outcome']} {w['text']}".strip() for w in result["wrong"]]
    faults += ["(not listed)"] * (n_wrong - len(faults))
    detail = ", ".join(f"{v} {k}" for k, v in counts.items())
    return Outcome(result["inputs"], tuple(faults), detail)


class Ended(NamedTuple):
    """How a command ended; the code is negative after a signal, 1000 where it did not end."""

    code: int
    said: str


def start(*words: Any, file_size: int | None = None) -> subprocess.Popen[str]:
    """Begin `esv-jax` with some words; no file of it may grow beyond `file_size` bytes."""
    limits = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_size}, {file_size}))"
    code = "" if file_size is None else f"import resource; {limits}; "
    return subprocess.Popen(
        [*COMMAND[:-1], code + COMMAND[-1], *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = _LONGEST) -> Ended:
    """Wait for a command; killed after `seconds`."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Ended(1000, f"no end after {seconds} s")
    return Ended(process.returncode, said)


def refusal(ended: Ended) -> str:
    """What is wrong with the way a command ended: "" after code 0, or 2 with one line."""
    lines = [line for line in ended.said.splitlines() if line.startswith("esv-jax:")]
    if ended.code == 0 or (ended.code == 2 and len(lines) == 1):
        return "" if "Traceback" not in ended.said else f"a traceback: {_short(ended.said)}"
    return f"code {ended.code}: {_short(ended.said)}"


def _short(said: str) -> str:
    """Beginning and end of what a command printed."""
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
    """The command that sweeps the set in a folder, two sequences a shard."""
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
    """Whether two datasets have equal variables, dtypes included."""
    return left.equals(right) and all(left[name].dtype == right[name].dtype for name in left)


def sweep_differs(found: Path, whole: Path) -> str:
    """How a sweep differs from one that was never disturbed: "" where it does not.

    Names of files and bytes of shards are compared, and the arrays of the whole: records and the
    manifest hold times.
    """
    ours, theirs = files_in(found), files_in(whole)
    if ours.keys() != theirs.keys():
        return f"other files: {sorted(ours.keys() ^ theirs.keys())[:5]}"
    shards = [name for name in theirs if name.startswith("shards/") and name.endswith(".nc")]
    wrong = [name for name in shards if ours[name] != theirs[name]]
    if wrong:
        return f"other bytes in {wrong[:5]}"
    return "" if same_values(loaded(found), loaded(whole)) else "other values"
