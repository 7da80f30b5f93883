"""Ctrl-C at random moments of every command: one line, exit code 130, no traceback, no crash.

Each command runs once to its end, on small synthetic videos and features, then several times with
SIGINT after a time drawn uniformly from its duration. An interrupted command ends with code 130 and
the line "esv-jax: interrupted"; a finished one with code 0. Interrupts before `esv_jax.cli.run` is
called (in the first tenth of a second) end in Python's own traceback and code 130 or -2, or 1 while
the interpreter itself starts; they are counted as "early".

    python -m experiments.attack --sections interrupts --interrupts 50
"""

from __future__ import annotations

import collections
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

import esv_jax as ej
from esv_jax.models import backbones
from experiments.attack.harness import Outcome, complete, finish, start
from experiments.browsing import free_port

_LONGEST = 60.0  # seconds that an interrupted command may take to end
_SERVED = 4.0  # seconds that the dashboard is left to serve
_PROJECT = Path(__file__).parents[2] / "tests" / "fixtures" / "play_fair_project"
_WORDS = {  # IN: inputs of `_made`; OUT: a folder of its own
    "demo": "--out OUT/demo",
    "train": "IN/features.hdf --out OUT/model.safetensors",
    "extract": "IN/clips --backbone IN/backbone.safetensors --out OUT/new.hdf",
    "explain": "IN/clips --frames 8 --out OUT",
    "sweep": "IN/features.hdf --model IN/model.safetensors --out OUT",
    "import-play-fair": "PROJECT --out OUT/model.safetensors",
    "dashboard": "IN/results --videos IN/clips --port PORT",
    "report": "IN/results -o OUT/report.html",
    "relevance": "IN/clips --out OUT",
    "perturb": "IN/clips --iterations 5 --out OUT",
    "evaluate": "--limit 2 --methods random --out OUT",
    "results": "IN/results --csv OUT/table.csv",
}
COMMANDS = tuple(_WORDS)


def _made(path: Path) -> Path:
    """An input of the commands, written on first use."""
    if path.exists():
        return path
    if path.name == "clips":  # three videos
        ej.data.synthetic_video.write_synthetic_videos(
            path, ej.data.synthetic_videos(3, seed=0, n_frames=16)
        )
    elif path.name == "features.hdf":  # of 60 videos in three classes
        rng = np.random.default_rng(0)
        videos = [rng.normal(size=(8, 16)).astype(np.float32) for _ in range(60)]
        items = [(f"v{k}", video, {"action": k % 3}) for k, video in enumerate(videos)]
        ej.data.write_features(path, items, 16)
    elif path.name == "backbone.safetensors":  # constant weights
        shapes = backbones._shapes("resnet50", 8)
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
        backbones.save_backbone(path, "resnet50", variables)
    elif path.name == "model.safetensors":
        complete("train", _made(path.with_name("features.hdf")), "--out", path)
    else:
        complete("explain", _made(path.with_name("clips")), "--frames", 8, "--out", path)
    return path


def words_of(command: str, folder: Path) -> list[str]:
    """A command with its arguments; OUT stands for a folder of its own."""
    known = {"PROJECT": str(_PROJECT), "PORT": str(free_port())}
    words = [known.get(word, word) for word in _WORDS[command].split()]
    return [command] + [str(_made(folder / w[3:])) if w.startswith("IN/") else w for w in words]


def run_once(words: list[str], out: Path, delay: float | None) -> tuple[str, float, str]:
    """Outcome of one run, its duration, and its output where the outcome is a fault."""
    out.mkdir(parents=True)
    began = time.monotonic()
    process = start(*(word.replace("OUT", str(out)) for word in words))
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    code, said = finish(process, _LONGEST + (600 if delay is None else 0))
    seconds, lines = time.monotonic() - began, said.strip().splitlines()
    reported = lines[-1:] == ["esv-jax: interrupted"] or words[0] == "train"  # other message
    if code == 0:
        return "finished", seconds, ""
    if code == 130 and reported and "Traceback" not in said:
        return "interrupted", seconds, ""
    own = code in (130, -signal.SIGINT) or (code == 1 and "init_import_site" in said)
    if own and ", in run" not in said:
        return "early", seconds, ""
    return "hang" if code == 1000 else f"code {code}", seconds, said[-3000:]


def interrupts(
    folder: Path,
    seed: int,
    n: int,
    commands: Sequence[str] = COMMANDS,
    within: float | None = None,
) -> Outcome:
    """n interrupts of each command in its first `within` seconds; prints counts by command.

    By default at any moment of its duration, which a run without an interrupt measures first.
    """
    rng, faults, tried, early = np.random.default_rng(seed), [], 0, 0
    for command in commands:
        words, duration = words_of(command, folder), within or _SERVED
        if within is None and command != "dashboard":  # which serves until it is interrupted
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
        print(f"{command:16} {duration:.2f} s, {dict(counts)}", flush=True)
    detail = f"{len(commands)} commands, {early} before the first line of the package"
    return Outcome(tried, tuple(faults), detail)
