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

from esv_jax import relevance as rules
from esv_jax.files import make_folder
from esv_jax.models.clip_model import clip_model_digest
from experiments import harness
from experiments.harness import Finding, above, below, finding, markdown
from experiments.relevance import pictures
from experiments.relevance.measures import (
    MEASURES,
    METHODS,
    SCORES,
    SIGMAS,
    ClipSettings,
    contrasted,
    maps_of,
    measure_maps,
    network_and_clips,
    without_motion,
)
from experiments.statistics import Mean, mean_of, plain, written


@dataclasses.dataclass(frozen=True)
class Settings(ClipSettings):
    """Settings of one run."""

    out: Path = Path("results/relevance")
    """Folder for the results; files of an earlier run are replaced."""
    composite: str = "epsilon_plus"
    """Preset of the layers' rules, see `relevance.preset`; the first layer has z-box."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return harness.command(
        Settings, lambda s: table(run(s)), module="relevance", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Measures, draws, writes `summary.json` and `table.md`; returns the content of the former."""
    make_folder(settings.out)
    start = time.perf_counter()
    model, videos = network_and_clips(settings)
    composite = rules.preset(settings.composite, *model.bounds)
    maps = maps_of(contrasted(model), composite)
    found = measure_maps(model, videos, maps)
    still = without_motion(model, videos, settings.seed, composite)
    ends = functools.partial(mean_of, settings=settings)
    mass = {score: dict(zip(METHODS, found[score]["mass"].T, strict=True)) for score in SCORES}
    shares = {score: found[score]["motion share"] for score in SCORES}
    frozen, moving = (still[way]["motion share"] for way in ("frozen", "as it is"))
    right = {c: videos.labels == c for c in range(len(videos.class_names))}
    summary: dict[str, Any] = {
        "experiment": "relevance",
        "seed": settings.seed,
        "settings": harness.as_json(settings),
        "weights_digest": clip_model_digest(model),
        "n_clips": len(videos),
        "n_without_evidence": int((~videos.evidence_mask.any((1, 2, 3))).sum()),
        "measures": {
            score: {
                measure: dict(zip(METHODS, map(ends, found[score][measure].T), strict=True))
                for measure in MEASURES
            }
            for score in SCORES
        },
        "mass_minus_lrp": {
            score: {name: ends(rows[name] - rows["LRP"]) for name in METHODS[1:5]}
            for score, rows in mass.items()
        },
        "temporal_minus_spatial": {
            score: ends(rows["temporal"] - rows["spatial"]) for score, rows in mass.items()
        },
        "sigmas": list(SIGMAS),
        "motion_share": {score: [ends(row) for row in rows.T] for score, rows in shares.items()},
        "motion_share_by_class": {  # at sigma 2; None without clips
            name: {
                score: float(rows[right[c], SIGMAS.index(2.0)].mean()) if right[c].any() else None
                for score, rows in shares.items()
            }
            for c, name in enumerate(videos.class_names)
        },
        "without_motion": {
            way: {name: ends(row) for name, row in rows.items()} for way, rows in still.items()
        },
        "frozen_minus_moving_share": ends(frozen - moving),
    }
    summary["findings"] = harness.as_rows(findings(summary))
    summary = plain(summary) | {"wall_seconds": round(time.perf_counter() - start, 1)}
    summary |= harness.surroundings()
    harness.write_json(settings.out / "summary.json", summary)
    harness.write_text(settings.out / "table.md", table(summary))
    pictures.draw(settings.out, summary, model, videos, maps)
    return summary


def findings(summary: dict[str, Any]) -> list[Finding]:
    """Numbers of the claims."""
    more, ahead = summary["mass_minus_lrp"]["motion"], summary["temporal_minus_spatial"]
    frozen, fewer = summary["without_motion"]["frozen"], summary["frozen_minus_moving_share"]
    chance = 2 / len(summary["motion_share_by_class"])

    def about_half(row: Mean) -> bool | None:
        return None if row["low"] is None else bool(row["low"] <= 0.5 <= row["high"])

    def above_chance(row: Mean) -> bool | None:
        return above(row, chance)

    selective, bound = "selective, sigma 2", f"> {100 * chance:.0f}"
    claims = [
        (f"motion: mass of {selective} - LRP (points)", more[selective], above, "> 0"),
        ("motion: mass of temporal - LRP (points)", more["temporal"], above, "> 0"),
        ("motion: mass of temporal - spatial (points)", ahead["motion"], above, "> 0"),
        ("appearance: mass of temporal - spatial (points)", ahead["appearance"], below, "< 0"),
        ("frozen clips ahead of their partner (%)", frozen["direction"], about_half, "50"),
        ("frozen clips with the right pair (%)", frozen["pair"], above_chance, bound),
        ("motion share, frozen - moving (points)", fewer, below, "< 0"),
    ]
    return [finding(name, row, holds(row), expected) for name, row, holds, expected in claims]


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
    seconds = f"{summary['wall_seconds']:.0f} s, with compilation."
    return "\n\n".join([about, *tables, harness.findings_table(summary["findings"]), seconds])


if __name__ == "__main__":
    sys.exit(main())
