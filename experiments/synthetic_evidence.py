"""Do exact ESVs point at the frames that carry the evidence? Synthetic videos know which these are.

For held-out clips the exact ESVs of 8 frames (segment centres) for the true class, under the model
that comes with the package, are ranked against the truth: which of the frames show what happens.
The other frames show the empty scene, another shot or a flash, alike for every class.

  precision@k   share of evidence frames among the k highest, k = evidence frames of the clip
  Spearman      rank correlation with the indicator of evidence frames

Baselines know nothing of the clip: uniform (all frames alike), centre-out (frames nearer to the
middle rank higher), random (one draw per clip). Where values tie, the expectation over random
orders of the tied frames is taken; a constant has rank correlation 0. Intervals are 95 %
percentile bootstrap over clips. Clips without evidence or with nothing else are left out.

Claim: ESVs are ahead of every baseline in both measures; the paired difference to the best has a
95 % interval above 0.

    python -m experiments.synthetic_evidence
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.files import make_folder
from esv_jax.models.video_model import video_model_digest
from experiments import synthetic_world as world
from experiments.records import as_json, surroundings, write_json

METHODS = ("ESV", "uniform", "centre-out", "random")
MEASURES = ("precision@k", "Spearman")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_evidence")
    """Folder for the results; files of an earlier run are replaced."""
    model: Path | None = None
    """A model written by `save_video_model`; default the one in the package."""
    seed: int = 20_000
    """Seed of the clips, of random ranks and of the bootstrap; not a seed of training."""
    n_clips: int = 500
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip, of which 8 are explained."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Refuse counts below 1; the library asks about the rest."""
        for name in ("n_clips", "n_resamples"):
            expect_int(name, getattr(self, name), minimum=1)


def main(args: Sequence[str] | None = None) -> int:
    settings = tyro.cli(
        Settings, prog="python -m experiments.synthetic_evidence", description=__doc__, args=args
    )
    print(table(run(settings)))
    return 0


def run(settings: Settings) -> dict[str, Any]:
    """Explain, rank, write `summary.json` to `settings.out`; what it holds."""
    make_folder(settings.out)
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_video_model(chosen) if chosen else ej.models.load_synthetic_world()
    videos, features = world.held_out(model, settings.n_clips, settings.n_frames, settings.seed)
    batch = ej.explain_batch(
        ej.MultiScale(model.trained.heads),
        features,
        prior=model.trained.prior,
        estimator=ej.Exact(),
    )
    batch = jax.device_get(batch)
    rows = np.arange(len(videos))
    esv = np.asarray(batch.values)[rows, :, videos.labels].astype(float)  # (V, n)
    right = np.asarray(batch.scores).argmax(-1) == videos.labels
    truth = videos.evidence_frames
    mixed = truth.any(1) & ~truth.all(1)

    rng = np.random.default_rng(settings.seed)
    scores = baselines(*esv.shape, rng)
    scores["ESV"] = esv
    values = {
        measure: np.stack([rank(scores[m][mixed], truth[mixed]) for m in METHODS])
        for measure, rank in zip(MEASURES, (precision_at_k, spearman), strict=True)
    }  # (methods, V) each
    ordered = np.arange(esv.shape[1]) / esv.shape[1]  # a ranking without ties, truth first
    intervals = {name: summarise(v, settings) for name, v in values.items()}
    summary = {
        "experiment": "synthetic_evidence",
        "claims": [claim(name, intervals[name]) for name in MEASURES],
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


def baselines(n_clips: int, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Scores of frames that do not look at the clip, (V, n) each."""
    centre = -np.abs(np.arange(n) - (n - 1) / 2)
    return {
        "uniform": np.zeros((n_clips, n)),
        "centre-out": np.broadcast_to(centre, (n_clips, n)),
        "random": rng.random((n_clips, n)),
    }


def precision_at_k(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of true elements among the k highest, k = number of true ones; ties in expectation.

    Args:
      scores: (V, n). truth: (V, n) bool, each row with at least one True.
    Returns:
      (V,), 0..1.
    """
    k = truth.sum(1)
    last = np.take_along_axis(-np.sort(-scores, axis=1), k[:, None] - 1, axis=1)
    above, tied = scores > last, scores == last
    places = k - above.sum(1)  # that the tied share
    found = (above & truth).sum(1) + places * (tied & truth).sum(1) / tied.sum(1)
    return found / k


def spearman(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank correlation with the indicator of true elements, (V,); 0 where scores are constant.

    Tied elements share the mean of their ranks. Each row of `truth` holds both values.
    """
    a, b = _ranks(scores), _ranks(truth.astype(float))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(spread > 0, (a * b).sum(1) / np.where(spread > 0, spread, 1), 0.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks from 1, (V, n)."""
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    same = (values[:, None, :] == values[:, :, None]).sum(2)
    return below + (same + 1) / 2


def summarise(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Mean of each method with its interval, and ESV minus each baseline, (methods, V) given."""
    rng = np.random.default_rng(settings.seed)
    v = values.shape[1]
    resampled = rng.integers(v, size=(settings.n_resamples, v))

    def interval(row: np.ndarray) -> dict[str, float]:
        low, high = np.percentile(row[resampled].mean(1), (2.5, 97.5))
        return {"mean": float(row.mean()), "low": float(low), "high": float(high)}

    found = {name: interval(row) for name, row in zip(METHODS, values, strict=True)}
    ahead = {
        f"ESV - {name}": interval(values[0] - row)
        for name, row in zip(METHODS[1:], values[1:], strict=True)
    }
    return {"methods": found, "differences": ahead}


def means(values: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Mean measures over some of the clips; None where there are none."""
    if not rows.any():
        return {"n_clips": 0, **dict.fromkeys(values)}
    return {
        "n_clips": int(rows.sum()),
        **{
            measure: dict(zip(METHODS, v[:, rows].mean(1).tolist(), strict=True))
            for measure, v in values.items()
        },
    }


def claim(measure: str, found: dict[str, Any]) -> dict[str, Any]:
    """The claim about one measure, with its numbers."""
    name, least = min(found["differences"].items(), key=lambda item: item[1]["mean"])
    return {
        "claim": f"{measure} of ESVs is ahead of every baseline",
        "measured": f"{name}: {least['mean']:.3f} [{least['low']:.3f}, {least['high']:.3f}]",
        "holds": all(row["low"] > 0 for row in found["differences"].values()),
    }


def table(summary: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [
        f"synthetic evidence, seed {summary['seed']}: {summary['n_clips']} clips,"
        f" {summary['mean_evidence_frames']:.2f} of {world.N} frames are evidence,"
        f" accuracy {100 * summary['accuracy']:.1f} %",
        "",
        f"{'':12}" + "".join(f"{name:>26}" for name in MEASURES),
    ]
    for method in METHODS:
        line = f"{method:12}"
        for measure in MEASURES:
            row = summary["measures"][measure]["methods"][method]
            line += f"{row['mean']:10.3f} [{row['low']:.3f}, {row['high']:.3f}]".rjust(26)
        lines.append(line)
    lines.append(f"{'(highest without ties)':44}{summary['highest_spearman']:.3f}")
    esv = summary["mean_esv"]
    lines += ["", f"mean ESV: evidence {esv['evidence']:.4f}, other frames {esv['other']:.4f}", ""]
    for name, row in summary["by_class"].items():
        if row["n_clips"]:
            lines.append(f"  {name:28}" + "".join(f"{row[m]['ESV']:8.3f}" for m in MEASURES))
    for found in summary["claims"]:
        verdict = "holds" if found["holds"] else "FAILS"
        lines.append(f"{verdict}: {found['claim']}: {found['measured']}")
    lines.append(f"{summary['wall_seconds']:.0f} s, compilation included")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
