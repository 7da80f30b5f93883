"""Does selective and discriminative relevance point at motion? Synthetic videos know where it is.

The small 3D network that comes with the package sees 16 frames of held-out clips. It is asked two
questions of each: which way does it run (the logit of the class minus that of its partner, the
same run backwards: motion alone tells them apart), and what happens at all (the mean logit of the
pair minus that of the others: appearance helps). Relevance of the answer is compared with the
pixels of the objects and the hand that carry the evidence, 3 pixels around included.

  mass      share of the positive relevance that lies in the evidence
  pointing  how often the highest place lies in it

Methods: LRP (epsilon for the last layer, z+ for the others, z-box for the first), what of it is
selected at sigma 1 and 2, temporal and spatial parts of discriminative relevance. Beside them:
gradient x input; the difference of frames, which knows motion and no network; uniform, the share
of the evidence in the volume.

Then the frozen-video test: what the network still knows of clips whose frames are shuffled, or are
all one frame of the evidence; and how much of its relevance is motion.

Claims: of the motion question, selected (sigma 2) and temporal relevance have more of their mass
in the evidence than LRP has, and temporal more than spatial, of the appearance question spatial
more than temporal: the paired difference has a 95 % bootstrap interval on that side of 0; frozen
clips leave the direction to chance and keep what happens; less of the relevance of frozen clips is
motion.

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

import tyro

import esv_jax as ej
from esv_jax import relevance as rules
from esv_jax.checks import expect_int
from esv_jax.files import make_folder
from esv_jax.models.clip_model import clip_model_digest
from experiments.intervals import interval, points, share
from experiments.records import as_json, surroundings, write_json, write_text
from experiments.relevance import pictures
from experiments.relevance.measures import (
    METHODS,
    QUESTIONS,
    SIGMAS,
    maps_of,
    measure_maps,
    questioned,
    without_motion,
)

MEASURES = ("mass", "pointing")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/relevance")
    """Folder for the results; files of an earlier run are replaced."""
    model: Path | None = None
    """A model written by `save_clip_model` for these classes; default the one in the package."""
    composite: str = "epsilon_plus"
    """Which rules the layers have, see `relevance.preset`; the first has z-box."""
    seed: int = 30_000
    """Seed of the clips, of the shuffling and of the bootstrap; not a seed of training."""
    n_clips: int = 108
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip, of which the network sees 16."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Refuse counts below 1; the library asks about the rest."""
        for name in ("n_clips", "n_resamples"):
            expect_int(name, getattr(self, name), minimum=1)


def main(args: Sequence[str] | None = None) -> int:
    settings = tyro.cli(
        Settings, prog="python -m experiments.relevance", description=__doc__, args=args
    )
    print(table(run(settings)))
    return 0


def run(settings: Settings) -> dict[str, Any]:
    """Measure, draw, write `summary.json` and `table.md`; what the former holds."""
    make_folder(settings.out)
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_clip_model(chosen) if chosen else ej.models.load_synthetic_clips()
    composite = rules.preset(settings.composite, *model.bounds)
    frames = ej.data.segment_centres(settings.n_frames, model.n_frames)
    videos = ej.data.synthetic_videos(
        settings.n_clips, seed=settings.seed, n_frames=settings.n_frames, frames=frames
    )
    maps = maps_of(questioned(model), composite)
    found = measure_maps(model, videos, maps)
    still = without_motion(model, videos, settings.seed, composite)
    ends = functools.partial(interval, seed=settings.seed, resamples=settings.n_resamples)
    measures = {
        question: {
            name: {
                method: ends(row)
                for method, row in zip(METHODS, found[question][name], strict=True)
            }
            for name in MEASURES
        }
        for question in QUESTIONS
    }
    differences = {
        question: {
            method: ends(row - found[question]["mass"][0])
            for method, row in zip(METHODS[1:5], found[question]["mass"][1:5], strict=True)
        }
        for question in QUESTIONS
    }
    temporal, spatial = METHODS.index("temporal"), METHODS.index("spatial")
    ahead = {
        question: ends(found[question]["mass"][temporal] - found[question]["mass"][spatial])
        for question in QUESTIONS
    }
    shares = {
        question: [ends(row) for row in found[question]["motion share"].T] for question in QUESTIONS
    }
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
    summary["claims"] = claims(summary)
    summary["wall_seconds"] = round(time.perf_counter() - start, 1)
    summary |= surroundings()
    write_json(settings.out / "summary.json", summary)
    write_text(settings.out / "table.md", table(summary))
    pictures.draw(settings.out, summary, model, videos, maps)
    return summary


def by_class(videos: ej.data.SyntheticVideos, found: dict[str, Any]) -> dict[str, Any]:
    """Motion share at sigma 2 by class, for both questions; None where there are no clips."""
    at = SIGMAS.index(2.0)
    return {
        name: {
            question: float(found[question]["motion share"][videos.labels == c, at].mean())
            if (videos.labels == c).any()
            else None
            for question in QUESTIONS
        }
        for c, name in enumerate(videos.class_names)
    }


def claims(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What should hold, with its numbers."""
    rows = []
    for method in ("selective, sigma 2", "temporal"):
        row = summary["mass_minus_lrp"]["motion"][method]
        rows.append(
            (
                f"motion question: more of the mass of {method} than of LRP is in the evidence",
                points(row),
                row["low"] > 0,
            )
        )
    texts = {
        "motion": "motion question: temporal relevance has more of its mass there than spatial",
        "appearance": "appearance question: spatial relevance has more of it than temporal",
    }
    for question, text in texts.items():
        row = summary["temporal_minus_spatial"][question]
        holds = row["low"] > 0 if question == "motion" else row["high"] < 0
        rows.append((text, f"temporal - spatial {points(row)}", holds))
    frozen, moving = (summary["without_motion"][way] for way in ("frozen", "as it is"))
    direction, pair = frozen["direction"], frozen["pair"]
    chance = direction["low"] <= 0.5 <= direction["high"]
    rows.append(("frozen clips leave the direction to chance", share(direction), chance))
    kept = pair["low"] > 2 / len(summary["motion_share_by_class"])
    rows.append(("frozen clips keep what happens (above chance)", share(pair), kept))
    less = summary["frozen_minus_moving_share"]
    text = f"{share(frozen['motion share'])}, of moving clips {share(moving['motion share'])}"
    rows.append(("less of the relevance of frozen clips is motion", text, less["high"] < 0))
    return [{"claim": c, "measured": m, "holds": bool(h)} for c, m, h in rows]


def table(summary: dict[str, Any]) -> str:
    """The numbers for people, in Markdown."""
    lines = [
        f"Relevance of {summary['n_clips']} synthetic clips, seed {summary['seed']};"
        f" {summary['n_without_evidence']} without evidence are left out of mass and pointing.",
        "",
        "| method | mass, motion | mass, appearance | pointing, motion | pointing, appearance |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        cells = [
            share(summary["measures"][question][name][method])
            for name in MEASURES
            for question in QUESTIONS
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| clips | class right | pair right | ahead of its partner | motion share, sigma 2 |",
        "|---|---|---|---|---|",
    ]
    for way, row in summary["without_motion"].items():
        lines.append(f"| {way} | " + " | ".join(share(cell) for cell in row.values()) + " |")
    lines.append("")
    for found in summary["claims"]:
        verdict = "holds" if found["holds"] else "FAILS"
        lines.append(f"- {verdict}: {found['claim']}: {found['measured']}")
    if "wall_seconds" in summary:
        lines += ["", f"{summary['wall_seconds']:.0f} s, compilation included."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
