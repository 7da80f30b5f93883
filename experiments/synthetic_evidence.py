"""Ranking of the frames that carry the evidence by exact ESVs, on synthetic videos.

The exact ESVs of 8 frames (segment centres) of held-out clips for the true class, under the model
that comes with the package, are ranked against the truth: the frames that show the action. The
other frames show the empty scene, another shot or a flash, alike for every class.

  precision@k   share of evidence frames among the k highest, k = evidence frames of the clip
  Spearman      rank correlation with the indicator of evidence frames

Baselines do not use the clip: uniform (all frames alike), centre-out (frames nearer to the middle
rank higher), random (one draw per clip). Ties are resolved in expectation; a constant has rank
correlation 0. Intervals are 95 % percentile bootstrap over clips. Clips in which all or none of the
frames carry evidence are left out.

Claim: ESVs are ahead of every baseline in both measures; the interval of the paired difference to
the nearest lies above 0.

    python -m experiments.synthetic_evidence
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from esv_jax.files import make_folder
from esv_jax.models.video_model import video_model_digest
from experiments import synthetic_world as world
from experiments.harness import (
    Finding,
    above,
    as_json,
    as_rows,
    check_counts,
    command,
    finding,
    findings_table,
    markdown,
    surroundings,
    write_json,
)
from experiments.statistics import mean_of, rank_correlation, written

METHODS = ("ESV", "uniform", "centre-out", "random")  # the last three do not use the clip
MEASURES = ("precision@k", "Spearman")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_evidence")
    """Folder for the results; files of an earlier run are replaced."""
    model: Path | None = None
    """A model written by `save_video_model`; default the one in the package."""
    seed: int = 20_000
    """Seed of the clips, the random ranks and the bootstrap; not a seed of training."""
    n_clips: int = 500
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip; 8 are explained."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        check_counts(self, "n_clips", "n_resamples")


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(
        Settings, lambda s: table(run(s)), module="synthetic_evidence", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Explains, ranks, writes `summary.json` to `settings.out`; returns its content."""
    make_folder(settings.out)
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_video_model(chosen) if chosen else ej.models.load_synthetic_world()
    videos, batch = world.held_out(model, settings.n_clips, settings.n_frames, settings.seed)
    rows = np.arange(len(videos))
    esv = np.asarray(batch.values)[rows, :, videos.labels].astype(float)  # (V, n)
    right = np.asarray(batch.scores).argmax(-1) == videos.labels
    truth = videos.evidence_frames
    mixed = truth.any(1) & ~truth.all(1)

    n = esv.shape[1]
    scores = {
        "ESV": esv,
        "uniform": np.zeros_like(esv),
        "centre-out": np.broadcast_to(-np.abs(np.arange(n) - (n - 1) / 2), esv.shape),
        "random": np.random.default_rng(settings.seed).random(esv.shape),
    }
    values = {
        measure: np.stack([rank(scores[m][mixed], truth[mixed]) for m in METHODS])
        for measure, rank in zip(MEASURES, (precision_at_k, spearman), strict=True)
    }  # (methods, V) each
    ordered = np.arange(n) / n  # ranks without ties, truth first
    intervals = {name: summarise(v, settings) for name, v in values.items()}
    summary = {
        "experiment": "synthetic_evidence",
        "findings": as_rows(nearest(name, intervals[name]) for name in MEASURES),
        "seed": settings.seed,
        "settings": as_json(settings),
        "weights_digest": video_model_digest(model),
        "n_clips": int(mixed.sum()),
        "n_left_out": int((~mixed).sum()),
        "accuracy": float(right.mean()),
        "mean_evidence_frames": float(truth[mixed].sum(1).mean()),
        "measures": intervals,
        "highest_spearman": float(spearman(truth[mixed] + ordered, truth[mixed]).mean()),
        "of_right_clips": means(values, right[mixed]),
        "of_wrong_clips": means(values, ~right[mixed]),
        "mean_esv": {
            "evidence": float(esv[truth].mean()),
            "other": float(esv[~truth].mean()),
        },
        "by_class": {
            name: means(values, videos.labels[mixed] == c)
            for c, name in enumerate(videos.class_names)
        },
        "wall_seconds": round(time.perf_counter() - start, 1),
        **surroundings(),
    }
    write_json(settings.out / "summary.json", summary)
    return summary


def precision_at_k(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of true elements among the k highest, k = number of true ones; ties in expectation.

    Args:
      scores: (V, n). truth: (V, n) bool, each row with at least one True.
    Returns:
      (V,), 0..1.
    """
    k = truth.sum(1)
    last = np.take_along_axis(-np.sort(-scores, axis=1), k[:, None] - 1, axis=1)
    higher, tied = scores > last, scores == last
    left = k - higher.sum(1)  # positions of the tied elements
    found = (higher & truth).sum(1) + left * (tied & truth).sum(1) / tied.sum(1)
    return found / k


def spearman(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank correlation with the indicator of true elements, (V,); 0 where scores are constant.

    Tied elements share the mean of their ranks. Each row of `truth` holds both values.
    """
    return np.nan_to_num(rank_correlation(scores, truth))


def summarise(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means of each method and of ESV - each baseline, from (methods, V)."""
    esv, *_ = values
    pairs = list(zip(METHODS, values, strict=True))
    return {
        "methods": {name: mean_of(row, settings) for name, row in pairs},
        "differences": {f"ESV - {name}": mean_of(esv - row, settings) for name, row in pairs[1:]},
    }


def means(values: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Mean measures over some of the clips; None where there are none."""
    if not rows.any():
        return {"n_clips": 0, **dict.fromkeys(values)}
    found = {name: v[:, rows].mean(1).tolist() for name, v in values.items()}
    by_method = {name: dict(zip(METHODS, v, strict=True)) for name, v in found.items()}
    return {"n_clips": int(rows.sum()), **by_method}


def nearest(measure: str, found: dict[str, Any]) -> Finding:
    """The least difference of ESV and a baseline in one measure."""
    name, least = min(found["differences"].items(), key=lambda item: item[1]["mean"])
    agrees = all(above(row) for row in found["differences"].values())
    return finding(f"{measure}, ESV - nearest baseline", least, agrees, "> 0", scale=1, note=name)


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    rows = [
        (name, *(written(summary["measures"][m]["methods"][name], 1, 3) for m in MEASURES))
        for name in METHODS
    ]
    rows.append(("highest without ties", "-", f"{summary['highest_spearman']:.3f}"))
    by_class = [
        (name, *(f"{row[measure]['ESV']:.3f}" for measure in MEASURES))
        for name, row in summary["by_class"].items()
        if row["n_clips"]
    ]
    esv = summary["mean_esv"]
    return "\n\n".join(
        [
            f"synthetic evidence, seed {summary['seed']}: {summary['n_clips']} clips,"
            f" {summary['mean_evidence_frames']:.2f} of {world.N} frames are evidence,"
            f" accuracy {100 * summary['accuracy']:.1f} %",
            markdown(("method", *MEASURES), rows),
            markdown(("class", *(f"{measure} of ESV" for measure in MEASURES)), by_class),
            f"mean ESV: evidence {esv['evidence']:.4f}, other frames {esv['other']:.4f}",
            findings_table(summary["findings"]),
            f"{summary['wall_seconds']:.0f} s, with compilation",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
