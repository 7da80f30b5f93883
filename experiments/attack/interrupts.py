"""Ctrl-C at random moments of every command: one line, exit code 130, no traceback, no crash.

    python -m experiments.attack.interrupts --tries 50 --out interrupts.json

Each command runs once to its end, on small synthetic videos and features, then `--tries` times with
SIGINT after a time drawn uniformly from its duration. An interrupted command ends with code 130 and
the line "esv-jax: interrupted"; one that had finished ends with code 0. Anything else is printed.
Moments before the first line of the package runs (a few hundredths of a second) belong to Python,
whose own answer is a traceback and code 130 or -2: they are counted as "early".
"""

from __future__ import annotations

import collections
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import esv_jax as ej
from experiments.attack.harness import COMMAND

_LONGEST = 60.0  # seconds that an interrupted command may take to end


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to try."""

    tries: int = 10
    """Of each command."""
    commands: tuple[str, ...] = ()
    """Some of them; default all."""
    seed: int = 0
    out: Path | None = None
    """JSON file for the numbers; default none."""


def commands(folder: Path) -> dict[str, list[str]]:
    """Words of every command, on files made in `folder`."""
    clips, features = folder / "clips", folder / "features.hdf"
    ej.data.write_synthetic_videos(clips, ej.data.synthetic_videos(3, seed=0, n_frames=16))
    rng = np.random.default_rng(0)
    items = [
        (f"v{k}", rng.normal(size=(8, 16)).astype(np.float32), {"action": k % 3}) for k in range(60)
    ]
    ej.data.write_features(features, items, 16)
    model = folder / "model.safetensors"
    subprocess.run(
        [*COMMAND, "train", str(features), "--out", str(model)], check=True, capture_output=True
    )
    results = folder / "results"
    explain = ["explain", str(clips), "--frames", "8"]
    subprocess.run([*COMMAND, *explain, "--out", str(results)], check=True, capture_output=True)
    return {
        "explain": [*explain, "--out", "OUT"],
        "train": ["train", str(features), "--out", "OUT/model.safetensors"],
        "sweep": ["sweep", str(features), "--model", str(model), "--out", "OUT"],
        "relevance": ["relevance", str(clips), "--out", "OUT"],
        "perturb": ["perturb", str(clips), "--iterations", "5", "--out", "OUT"],
        "report": ["report", str(results), "-o", "OUT/report.html"],
        "results": ["results", str(results), "--csv", "OUT/table.csv"],
    }


def run_once(words: list[str], out: Path, delay: float | None) -> tuple[str, float, str]:
    """Outcome of one run, its duration, and what it printed where that is wrong."""
    out.mkdir(parents=True)
    given = [word.replace("OUT", str(out)) for word in words]
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=_LONGEST + (600 if delay is None else 0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hang", time.monotonic() - began, ""
    seconds, code = time.monotonic() - began, process.returncode
    lines = said.strip().splitlines()
    if code == 0:
        return "finished", seconds, ""
    told = lines[-1:] == ["esv-jax: interrupted"] or words[0] == "train"  # has its own
    if code == 130 and told and "Traceback" not in said:
        return "interrupted", seconds, ""
    if code in (130, -signal.SIGINT) and "esv_jax/" not in said:
        return "early", seconds, said[-2000:]
    return f"code {code}", seconds, said[-3000:]


def attack_all(settings: Settings) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Counts of outcomes by command, printed as they come, and what went wrong."""
    rng, results, wrong = np.random.default_rng(settings.seed), {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = commands(folder)
        for command in settings.commands or tuple(known):
            outcome, duration, said = run_once(known[command], folder / f"{command}-whole", None)
            if outcome != "finished":
                raise RuntimeError(f"{command} fails without an interrupt: {said}")
            counts: collections.Counter[str] = collections.Counter()
            for k in range(settings.tries):
                delay = float(rng.uniform(0.05, duration))
                outcome, _, said = run_once(known[command], folder / f"{command}-{k}", delay)
                counts[outcome] += 1
                if outcome not in ("interrupted", "finished", "early"):
                    wrong.append(f"{command} after {delay:.2f} s: {outcome}\n{said}")
            results[command] = {"seconds": round(duration, 2), **counts}
            print(f"{command:10}", results[command], flush=True)
    return results, wrong


def main(settings: Settings) -> int:
    """Interrupt all commands and print a table; 1 where anything went wrong."""
    results, wrong = attack_all(settings)
    print(*wrong, sep="\n", file=sys.stderr)
    if settings.out:
        settings.out.write_text(json.dumps(results, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
