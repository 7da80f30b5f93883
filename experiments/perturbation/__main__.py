"""Do masks of STEP hold the evidence? The experiment of attribution by perturbation.

The small 3D network that comes with the package sees 16 frames of held-out synthetic clips, of
which the pixels are known that carry the evidence: objects and hand. STEP looks for the tenth of
the volume that keeps the prediction, with its core (connected volumes), without, and with the
difference loss in its place. Of each mask: the share of the evidence that it covers, the share of
the probability that it keeps, how much it flickers (mean change from frame to frame), its area.

Beside it all methods of `maps.METHODS`, by all of `maps.METRICS`, and what the metrics are worth:
reliability and Krippendorff's alpha of each, agreement between them.

Claims, with 95 % bootstrap intervals over clips: masks of a tenth of the volume cover at least 70 %
of the evidence; STEP has the best insertion, or none is surely better; the core lowers flicker at
equal area and probability; every method has a better insertion than random. What a prediction
needs of the evidence says why the first holds or fails.

Masks and scores are kept as they come: the same command goes on where it was cut.

    python -m experiments.perturbation
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import esv_jax as ej
from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.files import make_folder
from esv_jax.maps import METHODS, METRICS
from esv_jax.maps.evaluation_record import combine_scores
from esv_jax.models.clip_model import clip_model_digest
from experiments.perturbation import pictures
from experiments.perturbation.clips import Found, Subject, measured, measured_ways
from experiments.perturbation.masks import MAIN, WAYS
from experiments.perturbation.report import summarised, table
from experiments.records import as_json, surroundings, write_json, write_text

OTHERS = tuple(name for name in WAYS if name not in MAIN)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/perturbation")
    """Folder for the results; files of an earlier run are replaced, where its masks do not fit."""
    model: Path | None = None
    """A model written by `save_clip_model` for these classes; default the one in the package."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods of `maps.METHODS`: "step", "random" and at least one more."""
    seed: int = 40_000
    """Seed of the clips, of what methods draw and of the bootstrap; not a seed of training."""
    n_clips: int = 8
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip, of which the network sees as many as it takes."""
    iterations: int = 200
    """Of STEP."""
    steps: int = 16
    """Points of insertion and deletion curves."""
    ablation: tuple[str, ...] = OTHERS
    """Further ways of finding masks, see `masks.WAYS`."""
    n_ablation: int = 4
    """Clips of these, the first of all."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Refuse what could not be compared; the library asks about the rest."""
        for name in ("n_clips", "iterations", "n_ablation", "n_resamples"):
            expect_int(name, getattr(self, name), minimum=1)
        for name in self.ablation:
            expect_choice("ablation", name, OTHERS)
        enough = {"step", "random"} < set(self.methods) - {"step_no_core"}
        expect(enough, "methods", '"step", "random" and at least one more', self.methods)


def main(args: Sequence[str] | None = None) -> int:
    settings = tyro.cli(
        Settings, prog="python -m experiments.perturbation", description=__doc__, args=args
    )
    print(table(run(settings)))
    return 0


def run(settings: Settings) -> dict[str, Any]:
    """Measure, draw, write `summary.json` and `table.md`; what the former holds."""
    make_folder(settings.out / "masks")
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_clip_model(chosen) if chosen else ej.models.load_synthetic_clips()
    frames = ej.data.segment_centres(settings.n_frames, model.n_frames)
    videos = ej.data.synthetic_videos(
        settings.n_clips, seed=settings.seed, n_frames=settings.n_frames, frames=frames
    )
    subject = Subject.of(model, videos, settings)
    found: list[Found] = []
    for i in range(len(videos)):
        found.append(measured(subject, i))
        _say(f"clip {i + 1} of {len(videos)}", start)
    ablation = {}
    for name in settings.ablation:
        ablation[name] = measured_ways(subject, name, min(settings.n_ablation, len(videos)))
        _say(name, start)
    evaluation = combine_scores(settings.methods, tuple(METRICS), [one.scores for one in found])
    summary = summarised(subject, evaluation, found, ablation)
    summary = {
        "experiment": "perturbation",
        "settings": as_json(settings),
        "weights_digest": clip_model_digest(model),
        **summary,
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
    summary |= surroundings()
    write_json(settings.out / "summary.json", summary)
    write_text(settings.out / "table.md", table(summary))
    pictures.draw(settings.out, summary, subject)
    return summary


def _say(what: str, start: float) -> None:
    print(f"{what}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
