"""Ctrl-C at random moments of every command: one line, exit code 130, no traceback, no crash.

Each command runs once to its end, on small synthetic videos and features, then several times with
SIGINT after a time drawn uniformly from its duration. An interrupted command ends with code 130 and
the line "esv-jax: interrupted"; a finished one with code 0. Interrupts before the first line of the
package runs (a few hundredths of a second) end in Python's own traceback and code 130 or -2; they
are counted as "early".

    python -m experiments.attack --sections interrupts --interrupts 50
"""

from __future__ import annotations

import collections
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

import esv_jax as ej
from experiments.attack.harness import COMMAND, Outcome

_LONGEST = 60.0  # seconds that an interrupted command may take to end


def commands(folder: Path) -> dict[str, list[str]]:
    """Arguments of every command, on files written to `folder`."""
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
    """Outcome of one run, its duration, and its output where the outcome is a fault."""
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
    reported = lines[-1:] == ["esv-jax: interrupted"] or words[0] == "train"  # other message
    if code == 130 and reported and "Traceback" not in said:
        return "interrupted", seconds, ""
    if code in (130, -signal.SIGINT) and "esv_jax/" not in said:
        return "early", seconds, said[-2000:]
    return f"code {code}", seconds, said[-3000:]


def interrupts(folder: Path, seed: int, n: int) -> Outcome:
    """n interrupts of each command; prints counts by command."""
    rng, faults, tried, early = np.random.default_rng(seed), [], 0, 0
    known = commands(folder)
    for command, words in known.items():
        outcome, duration, said = run_once(words, folder / f"{command}-whole", None)
        if outcome != "finished":
            raise RuntimeError(f"{command} fails without an interrupt: {said}")
        counts: collections.Counter[str] = collections.Counter()
        for k in range(n):
            delay = float(rng.uniform(0.05, duration))
            outcome, _, said = run_once(words, folder / f"{command}-{k}", delay)
            counts[outcome] += 1
            if outcome not in ("interrupted", "finished", "early"):
                faults.append(f"{command} after {delay:.2f} s: {outcome}\n{said}")
        tried, early = tried + counts.total(), early + counts["early"]
        print(f"{command:10} {duration:.2f} s, {dict(counts)}", flush=True)
    detail = f"{len(known)} commands, {early} before the first line of the package"
    return Outcome(tried, tuple(faults), detail)
