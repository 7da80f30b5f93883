"""Position of selective and discriminative relevance relative to motion in synthetic videos.

The small 3D network that comes with the package sees 16 frames of held-out clips. Two scores of
each are explained. Motion: the logit of the class minus that of its partner, the same run
backwards. Appearance: the mean logit of the pair minus that of the others. Relevance is compared
with the pixels of the objects and the hand that carry the evidence, dilated by 3 pixels.

  mass      share of the positive relevance on the evidence
  pointing  share of clips whose highest voxel is on the evidence

Methods: LRP (epsilon for the last layer, z+ for the others, z-box for the first), its selection at
sigma 1 and 2, temporal and spatial parts of discriminative relevance; for comparison gradient x
input, the difference of frames, which uses no network, and uniform, the share of the evidence in
the volume.

The frozen-video test measures the scores of clips whose frames are shuffled, or are all one frame
of the evidence, and the share of their relevance that is motion.

Claims: for the motion score, selected (sigma 2) and temporal relevance have more mass on the
evidence than LRP, and temporal more than spatial; for the appearance score spatial more than
temporal (paired differences with 95 % bootstrap intervals); frozen clips leave the direction to
chance and the pair above chance; less of the relevance of frozen clips is motion.

    python -m experiments.relevance
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import esv_jax as ej
from esv_jax import relevance as rules
from esv_jax.checks import expect_int
from esv_jax.files import make_folder
from esv_jax.models.clip_model import clip_model_digest
from experiments.harness import (
    Finding,
    above,
    as_json,
    as_rows,
    below,
    command,
    finding,
    findings_table,
    markdown,
    surroundings,
    write_json,
    write_text,
)
from experiments.relevance import pictures
from experiments.relevance.measures import (
    METHODS,
    SCORES,
    SIGMAS,
    contrasted,
    maps_of,
    measure_maps,
    without_motion,
)
from experiments.statistics import mean_of, plain, written

MEASURES = ("mass", "pointing")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/relevance")
    """Folder for the results; files of an earlier run are replaced."""
    model: Path | None = None
    """A model written by `save_clip_model` for these classes; default the one in the package."""
    composite: str = "epsilon_plus"
    """Preset of the layers' rules, see `relevance.preset`; the first layer has z-box."""
    seed: int = 30_000
    """Seed of the clips, the shuffling and the bootstrap; not a seed of training."""
    n_clips: int = 108
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip; the network sees 16."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        for name in ("n_clips", "n_resamples"):
            expect_int(name, getattr(self, name), minimum=1)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(Settings, lambda s: table(run(s)), module="relevance", about=__doc__, args=args)


def run(settings: Settings) -> dict[str, Any]:
    """Measures, draws, writes `summary.json` and `table.md`.

    Returns:
      The content of `summary.json`.
    """
    make_folder(settings.out)
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_clip_model(chosen) if chosen else ej.models.load_synthetic_clips()
    composite = rules.preset(settings.composite, *model.bounds)
    frames = ej.data.segment_centres(settings.n_frames, model.n_frames)
    videos = ej.data.synthetic_videos(
        settings.n_clips, seed=settings.seed, n_frames=settings.n_frames, frames=frames
    )
    maps = maps_of(contrasted(model), composite)
    found = measure_maps(model, videos, maps)
    still = without_motion(model, videos, settings.seed, composite)
    ends = functools.partial(mean_of, settings=settings)
    measures = {
        score: {
            name: {
                method: ends(row) for method, row in zip(METHODS, found[score][name], strict=True)
            }
            for name in MEASURES
        }
        for score in SCORES
    }
    differences = {
        score: {
            method: ends(row - found[score]["mass"][0])
            for method, row in zip(METHODS[1:5], found[score]["mass"][1:5], strict=True)
        }
        for score in SCORES
    }
    temporal, spatial = METHODS.index("temporal"), METHODS.index("spatial")
    ahead = {
        score: ends(found[score]["mass"][temporal] - found[score]["mass"][spatial])
        for score in SCORES
    }
    shares = {score: [ends(row) for row in found[score]["motion share"].T] for score in SCORES}
    summary: dict[str, Any] = {
        "experiment": "relevance",
        "seed": settings.seed,
        "settings": as_json(settings),
        "weights_digest": clip_model_digest(model),
        "n_clips": len(videos),
        "n_without_evidence": int((~videos.evidence_mask.any((1, 2, 3))).sum()),
        "measures": measures,
        "mass_minus_lrp": differences,
        "temporal_minus_spatial": ahead,
        "sigmas": list(SIGMAS),
        "motion_share": shares,
        "motion_share_by_class": by_class(videos, found),
        "without_motion": {
            way: {name: ends(row) for name, row in rows.items()} for way, rows in still.items()
        },
    }
    paired = still["frozen"]["motion share"] - still["as it is"]["motion share"]
    summary["frozen_minus_moving_share"] = ends(paired)
    summary["findings"] = as_rows(findings(summary))
    summary = plain(summary)
    summary["wall_seconds"] = round(time.perf_counter() - start, 1)
    summary |= surroundings()
    write_json(settings.out / "summary.json", summary)
    write_text(settings.out / "table.md", table(summary))
    pictures.draw(settings.out, summary, model, videos, maps)
    return summary


def by_class(videos: ej.data.SyntheticVideos, found: dict[str, Any]) -> dict[str, Any]:
    """Motion share at sigma 2 by class, of both scores; None without clips."""
    at = SIGMAS.index(2.0)
    return {
        name: {
            score: float(found[score]["motion share"][videos.labels == c, at].mean())
            if (videos.labels == c).any()
            else None
            for score in SCORES
        }
        for c, name in enumerate(videos.class_names)
    }


def findings(summary: dict[str, Any]) -> list[Finding]:
    """Numbers of the claims."""
    rows = []
    for method in ("selective, sigma 2", "temporal"):
        row = summary["mass_minus_lrp"]["motion"][method]
        rows.append(finding(f"motion: mass of {method} - LRP (points)", row, above(row), "> 0"))
    for score, agree, expected in (("motion", above, "> 0"), ("appearance", below, "< 0")):
        row = summary["temporal_minus_spatial"][score]
        rows.append(
            finding(f"{score}: mass of temporal - spatial (points)", row, agree(row), expected)
        )
    frozen = summary["without_motion"]["frozen"]
    direction, pair = frozen["direction"], frozen["pair"]
    chance = (
        None if above(direction) is None else not (above(direction, 0.5) or below(direction, 0.5))
    )
    rows.append(finding("frozen clips ahead of their partner (%)", direction, chance, "50"))
    bound = 2 / len(summary["motion_share_by_class"])
    expected = f"> {100 * bound:.0f}"
    rows.append(finding("frozen clips with the right pair (%)", pair, above(pair, bound), expected))
    less = summary["frozen_minus_moving_share"]
    return [*rows, finding("motion share, frozen - moving (points)", less, below(less), "< 0")]


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    head = ["method (%)", *(f"{name}, {score}" for name in MEASURES for score in SCORES)]
    rows = [
        [method, *(written(summary["measures"][s][m][method]) for m in MEASURES for s in SCORES)]
        for method in METHODS
    ]
    names = ("class right", "pair right", "ahead of its partner", "motion share, sigma 2")
    still = [(way, *map(written, row.values())) for way, row in summary["without_motion"].items()]
    about = (
        f"Relevance of {summary['n_clips']} synthetic clips, seed {summary['seed']};"
        f" {summary['n_without_evidence']} without evidence are left out of mass and pointing."
    )
    tables = [markdown(head, rows), markdown(("clips (%)", *names), still)]
    parts = [about, *tables, findings_table(summary["findings"])]
    if "wall_seconds" in summary:
        parts.append(f"{summary['wall_seconds']:.0f} s, with compilation.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
