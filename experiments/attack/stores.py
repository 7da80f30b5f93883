"""Sweeps that are killed, disturbed, damaged or out of space; stored results stay correct."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from esv_jax.cli import main as esv_jax
from esv_jax.models.trained import model_digest
from experiments.attack.harness import (
    Attempts,
    Ended,
    Outcome,
    attempt_all,
    complete,
    files_in,
    finish,
    loaded,
    make_set,
    refusal,
    same_values,
    start,
    sweep_differs,
    sweep_words,
)


def _swept(folder: Path, n: int, seed: int) -> tuple[Path, float]:
    """Folder of a complete sweep of a set of n sequences, and its duration in seconds."""
    make_set(folder, n, seed)
    began = time.monotonic()
    complete(*sweep_words(folder, folder / "whole"))
    return folder / "whole", time.monotonic() - began


def kills(folder: Path, seed: int, n: int) -> Outcome:
    """SIGKILL at n random moments of a sweep, which is continued to its end, then restarted."""
    whole, seconds = _swept(folder, 240, seed)
    rng, faults, killed, ends, out = np.random.default_rng(seed), [], 0, 0, folder / "out"
    while killed < n or not ends or out.exists():
        delay = float(rng.uniform(0.2, 0.8 * seconds))
        process = start(*sweep_words(folder, out))
        if killed < n:
            time.sleep(delay)
            process.kill()
        ended = finish(process)
        if ended.code == -9:
            killed += 1
            continue
        ends += 1
        wrong = refusal(ended) if ended.code else sweep_differs(out, whole)
        if wrong:
            faults.append(f"after {killed} kills, the last delay {delay:.3f} s: {wrong}")
        shutil.rmtree(out, ignore_errors=True)
    return Outcome(killed, tuple(faults), f"{ends} sweeps ended")


def two_at_once(folder: Path, seed: int, n: int) -> Outcome:
    """Two sweeps into one folder, the second up to half a second later; one of them writes."""
    whole, _ = _swept(folder, 60, seed)
    rng, faults, refused = np.random.default_rng(seed), [], 0
    for k in range(n):
        out = folder / f"out-{k}"
        first = start(*sweep_words(folder, out))
        delay = float(rng.uniform(0, 0.5))
        time.sleep(delay)
        ends = [finish(process) for process in (start(*sweep_words(folder, out)), first)]
        codes = [ended.code for ended in ends]
        refused += codes.count(2)
        wrong = "".join(refusal(ended) for ended in ends)
        said = [ended.said for ended in ends if ended.code]
        if not wrong and (0 not in codes or not all("that no other sweep" in t for t in said)):
            wrong = f"codes {codes}: {said}"
        wrong = wrong or sweep_differs(out, whole)
        if wrong:
            faults.append(f"the second {delay:.3f} s after the first: {wrong}")
    return Outcome(n, tuple(faults), f"{refused} refused")


# No space left


def disk_full(folder: Path, seed: int, n: int) -> Outcome:
    """Commands whose files may not grow beyond a random size, n times each, then continued.

    The output folder contains results of an earlier run: half of the shards of the sweep, other
    values of explain, another model of train.
    """
    rng, faults, refused = np.random.default_rng(seed), [], 0
    whole, _ = _swept(folder, 24, seed)
    features, model = folder / "features.hdf", folder / "model.safetensors"
    explain = ("explain", features, "--model", model, "--figures", 1, "--overwrite", "--out")
    train = ("train", features, "--overwrite", "--n-max", 3, "--max-epochs", 5, "--out")
    commands: dict[str, Callable[[Path], tuple[Any, ...]]] = {
        "sweep": lambda out: sweep_words(folder, out),
        "explain": lambda out: (*explain, out),
        "train": lambda out: (*train, out / "model.safetensors"),
    }
    for name, words in commands.items():
        before, after = folder / f"{name}-before", folder / f"{name}-after"
        if name == "sweep":
            shutil.copytree(whole, before)
            for path in sorted((before / "shards").iterdir())[12:]:
                path.unlink()
        else:
            before.mkdir()
            other = ("--limit", 12) if name == "explain" else ("--seed", 1, "--batch-size", 4)
            complete(*words(before), *other)

        def run(
            out: Path, file_size: int | None = None, name: str = name, words: Any = words
        ) -> Ended:
            state = ("--checkpoint-dir", out / "state") if name == "train" else ()
            return finish(start(*words(out), *state, file_size=file_size))

        shutil.copytree(before, after)
        if (ended := run(after)).code:
            raise RuntimeError(f"{name} fails without a limit: {ended.said}")
        largest = max(map(len, files_in(after).values()))
        for k in range(n):
            out = folder / f"{name}-{k}"
            shutil.copytree(before, out)
            size = int(largest * rng.uniform(0, 1.05) ** 2)
            ended = run(out, size)
            refused += ended.code == 2
            wrong = [refusal(ended), _lost(out, before, after)]
            again = run(out)
            differs = sweep_differs(out, after) if name == "sweep" else _unlike(out, after)
            wrong += [f"not continued: {again}" if again.code else differs]
            if any(wrong):
                text = "; ".join(filter(None, wrong))
                faults.append(f"{name}, no file beyond {size} bytes: {text}")
            shutil.rmtree(out)
    return Outcome(3 * n, tuple(faults), f"{refused} ended with code 2")


def _values(folder: Path) -> dict[str, Any]:
    """Content of the files without times; of a sweep the shards, of training no state."""
    is_sweep = (folder / "shards").is_dir()
    values: dict[str, Any] = {}
    for path, content in files_in(folder).items():
        if is_sweep and path.startswith("shards/"):
            values[path] = content
        elif not is_sweep and not path.startswith("state/"):
            values[path] = content
            if path.endswith(".nc"):
                values[path] = str(loaded(folder / path).to_dict()["data_vars"])
            if path.endswith(".safetensors"):
                values[path] = model_digest(ej.models.load_model(folder / path))
    return values


def _lost(out: Path, before: Path, after: Path) -> str:
    """Files that differ from both the earlier and the complete run; "" where there are none."""
    found, old, new = map(_values, (out, before, after))
    lost = [path for path in old if path not in found]
    other = [path for path, value in found.items() if value not in (old.get(path), new.get(path))]
    return f"lost: {lost}; neither earlier nor new: {other}" if lost or other else ""


def _unlike(out: Path, after: Path) -> str:
    """Files that differ from those without a limit; "" where there are none."""
    found = _values(out)
    wrong = [path for path, value in _values(after).items() if found.get(path) != value]
    return f"other content: {wrong}" if wrong else ""


# Flipped bits


@dataclasses.dataclass(frozen=True)
class Flips(Attempts):
    """Flipped bits of every file of a sweep."""

    seconds: float = 60.0
    files: tuple[str, ...] = ()
    own = "/"

    def begin(self) -> None:
        """Runs the sweep once, with its imports and compilation."""
        self.make(0)
        self._command("sweep")

    def make(self, k: int) -> None:
        """Flips a bit of file k modulo the number of files."""
        shutil.rmtree(self._out, ignore_errors=True)
        shutil.copytree(self.folder / "whole", self._out)
        path = self._out / self._file(k)
        content, rng = bytearray(path.read_bytes()), np.random.default_rng([self.seed, k])
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)

    def read(self, k: int) -> None:
        """Opens, verifies and continues the sweep.

        Raises:
          ValueError: the damage was detected, and repaired or refused.
          RuntimeError: it was not detected and changes results.
        """
        whole, noticed = loaded(self.folder / "whole"), ""
        try:
            found = loaded(self._out)
        except (ValueError, OSError) as error:
            noticed = f"opening: {error}"
        else:
            if not same_values(found, whole.sel(video=found["video"])):
                raise RuntimeError(f"{self._file(k)}: wrong values are shown")
            if found.sizes["video"] < whole.sizes["video"]:
                noticed = "some are not shown"
        if self._command("results"):
            noticed = noticed or "verifying"
        elif self._file(k).endswith(".nc"):
            raise RuntimeError(f"{self._file(k)}: not noticed by --verify")
        if self._command("sweep"):
            noticed = noticed or "continuing"
        elif not same_values(loaded(self._out), whole):
            raise RuntimeError(f"{self._file(k)}: other values after continuing")
        if noticed:
            raise ValueError(noticed.replace("\n", " "))

    def _command(self, name: str) -> int:
        """Exit code of a command, run without output."""
        words = (name, self._out, "--verify")
        if name == "sweep":
            cache = ("--compilation-cache", self.folder / "programs")
            words = (*sweep_words(self.folder, self._out), *cache)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return esv_jax([str(word) for word in words])

    def _file(self, k: int) -> str:
        return self.files[k % len(self.files)]

    @property
    def _out(self) -> Path:
        return self.folder / "out"


def flips(folder: Path, seed: int, n: int) -> Outcome:
    """n flipped bits, in turn in every file of a sweep."""
    whole, _ = _swept(folder, 10, seed)
    return attempt_all(Flips(folder, seed, files=tuple(files_in(whole))), n).outcome()
