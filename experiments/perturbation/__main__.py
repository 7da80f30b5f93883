"""Coverage of known evidence by STEP masks, and evaluation of attribution maps of clips.

The small 3D network that comes with the package sees 16 frames of held-out synthetic clips, whose
evidence is known: the pixels of objects and hand. STEP optimises a mask of a tenth of the volume
that preserves the prediction: with its core (connected volumes), without, and with the difference
loss instead. Measured of each mask: share of the evidence covered, share of the probability kept,
flicker (mean change from frame to frame), area.

All methods of `maps.METHODS` are scored by all of `maps.METRICS`; each metric by its reliability,
Krippendorff's alpha and its agreement with the others.

Claims, with 95 % bootstrap intervals over clips: masks of a tenth of the volume cover at least 70 %
of the evidence; no other method has a better insertion score than STEP; the core lowers flicker at
equal area and probability; every method has a better insertion score than random. Probabilities
under masks made of the evidence explain the first.

Masks and scores are stored as they are computed: the same command continues a stopped run.

    python -m experiments.perturbation
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.files import make_folder
from esv_jax.maps import METHODS, METRICS
from esv_jax.maps.evaluation_record import Evaluation, combine_scores
from esv_jax.metrics.reliability import spearman
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
    within,
    write_json,
    write_text,
)
from experiments.perturbation import pictures
from experiments.perturbation.clips import (
    MASK_MEASURES,
    NEEDS,
    ClipMeasures,
    Subject,
    measure_clip,
    measure_masks,
)
from experiments.perturbation.masks import CORE, DIFFERENCE, MAIN, NO_CORE, VARIANTS
from experiments.statistics import Mean, mean_of, plain, written

OTHERS = tuple(name for name in VARIANTS if name not in MAIN)
KEEPS = 0.9  # share of its probability at which a prediction counts as kept
COVERED = 0.7  # share of the evidence
SAME = 0.01  # areas and shares of the probability that differ by less are equal
_STEP = ("step", "step_no_core")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the model they determine its numbers on one backend."""

    out: Path = Path("results/perturbation")
    """Folder for the results; masks of an earlier run with other settings are replaced."""
    model: Path | None = None
    """A model written by `save_clip_model` for these classes; default the one in the package."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods of `maps.METHODS`: "step", "random" and at least one more."""
    seed: int = 40_000
    """Seed of the clips, the methods and the bootstrap; not a seed of training."""
    n_clips: int = 8
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip; the network sees 16."""
    iterations: int = 200
    """Iterations of STEP."""
    steps: int = 16
    """Points of insertion and deletion curves."""
    ablation: tuple[str, ...] = OTHERS
    """Further variants of masks, see `masks.VARIANTS`."""
    n_ablation: int = 4
    """Clips for the further variants."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Checks counts and names; the library checks the rest."""
        for name in ("n_clips", "iterations", "n_ablation", "n_resamples"):
            expect_int(name, getattr(self, name), minimum=1)
        for name in self.ablation:
            expect_choice("ablation", name, OTHERS)
        enough = {"step", "random"} < set(self.methods) - {"step_no_core"}
        expect(enough, "methods", '"step", "random" and at least one more', self.methods)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(
        Settings, lambda s: table(run(s)), module="perturbation", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Measures, draws, writes `summary.json` and `table.md`.

    Returns:
      The content of `summary.json`.
    """
    make_folder(settings.out / "masks")
    start = time.perf_counter()
    chosen = settings.model
    model = ej.models.load_clip_model(chosen) if chosen else ej.models.load_synthetic_clips()
    frames = ej.data.segment_centres(settings.n_frames, model.n_frames)
    videos = ej.data.synthetic_videos(
        settings.n_clips, seed=settings.seed, n_frames=settings.n_frames, frames=frames
    )
    subject = Subject.of(model, videos, settings)
    found: list[ClipMeasures] = []
    for i in range(len(videos)):
        found.append(measure_clip(subject, i))
        _log(f"clip {i + 1} of {len(videos)}", start)
    ablation = {}
    for name in settings.ablation:
        ablation[name] = measure_masks(subject, name, min(settings.n_ablation, len(videos)))
        _log(name, start)
    evaluation = combine_scores(settings.methods, tuple(METRICS), [one.scores for one in found])
    summary = summarise(subject, evaluation, found, ablation)
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


def _log(text: str, start: float) -> None:
    print(f"{text}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def summarise(
    subject: Subject,
    evaluation: Evaluation,
    found: Sequence[ClipMeasures],
    ablation: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """All numbers and findings, as plain values."""
    settings = subject.settings
    ends = functools.partial(mean_of, settings=settings)
    judged = evaluation.summary(key=jax.random.key(settings.seed), resamples=settings.n_resamples)
    masks = {name: np.array([one.masks[name] for one in found]) for name in MAIN}
    rows = {name: _columns(table, ends) for name, table in masks.items()}
    core_minus = {name: _columns(masks[CORE] - masks[name], ends) for name in (NO_CORE, DIFFERENCE)}
    needed = np.array([one.needs for one in found])
    coverage, kept = masks[CORE][:, 0], masks[CORE][:, 1]
    insertion = evaluation.scores[evaluation.metrics.index("insertion")]
    step_minus, minus_random = _leads(evaluation.methods, insertion, ends)
    n = settings.n_ablation
    summary: dict[str, Any] = {
        "n_clips": len(found),
        "means": _means(judged.table()),
        "metrics": judged.metric_table(),
        "agreement": agreement(judged.mean, judged.higher_is_better),
        "seconds": dict(zip(judged.methods, judged.seconds.tolist(), strict=True)),
        "masks": rows,
        "mask_seconds": {
            name: float(np.median([one.seconds[name] for one in found])) for name in MAIN
        },
        "core_minus": core_minus,
        "wider": {name: ends([one.wider[name] for one in found]) for name in found[0].wider},
        "needs": {name: ends(column) for name, column in zip(NEEDS, needed.T, strict=True)},
        "kept_without_covering": float(((kept >= KEEPS) & (coverage < COVERED)).mean()),
        "step_minus": step_minus,
        "minus_random": minus_random,
        "ablation": {
            name: {"n": len(table)}
            | dict(zip(MASK_MEASURES, np.nanmean(table, axis=0), strict=True))
            for name, table in (
                {variant: masks[variant][:n] for variant in MAIN} | dict(ablation)
            ).items()
        },
        "clips": [
            {
                "class": subject.videos.class_names[int(label)],
                "clean": one.clean,
                **dict(zip(MASK_MEASURES, one.masks[CORE], strict=True)),
                **dict(zip(NEEDS, one.needs, strict=True)),
            }
            for label, one in zip(subject.videos.labels, found, strict=True)
        ],
        "warnings": list(evaluation.warnings),
    }
    summary["findings"] = as_rows(findings(summary))
    return plain(summary)


def agreement(mean: np.ndarray, higher_is_better: Sequence[bool]) -> list[list[float]]:
    """Rank correlation between metrics of the orders of methods by their means, (K, K).

    NaN for a metric without a mean of some method, or with equal means.
    """
    signed = np.where(np.array(higher_is_better)[:, None], mean, -mean)
    found = np.full((len(mean), len(mean)), np.nan)
    orders = np.flatnonzero(np.isfinite(signed).all(1) & (np.ptp(signed, axis=1) > 0))
    if orders.size:
        found[np.ix_(orders, orders)] = spearman(signed[orders])
    return found.tolist()


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """metric -> method -> mean and interval."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        kept = {name: row[name] for name in ("mean", "low", "high", "n_clips")}
        found.setdefault(row["metric"], {})[row["method"]] = kept
    return found


def _columns(values: np.ndarray, ends: Any) -> dict[str, Mean]:
    """Means with intervals of each measure, from (V, measures)."""
    return {name: ends(column) for name, column in zip(MASK_MEASURES, values.T, strict=True)}


def _leads(
    methods: Sequence[str], scores: np.ndarray, ends: Any
) -> tuple[dict[str, Mean], dict[str, Mean]]:
    """Paired differences of a metric (V, methods): STEP - others, others - random."""
    of = {name: scores[:, m] for m, name in enumerate(methods)}
    step = {name: ends(of["step"] - of[name]) for name in methods if name not in _STEP}
    random = {name: ends(of[name] - of["random"]) for name in methods if name != "random"}
    return step, random


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Numbers of the claims."""
    masks, paired = summary["masks"], summary["core_minus"]
    coverage = masks[CORE]["coverage"]
    agrees = bool(coverage["mean"] >= COVERED)
    name = "evidence covered by masks of a tenth of the volume (%)"
    rows = [finding(name, coverage, agrees, f">= {100 * COVERED:.0f}")]
    means = summary["means"]["insertion"]
    others = [name for name in means if name not in _STEP]
    best = max(others, key=lambda name: means[name]["mean"])
    lead = summary["step_minus"][best]
    name, agrees = (
        "insertion score of STEP - best other method",
        None if lead["low"] is None else not below(lead),
    )
    rows.append(finding(name, lead, agrees, ">= 0", scale=1, note=best))
    for other in (NO_CORE, DIFFERENCE):
        flicker, area, kept = (paired[other][part] for part in ("flicker", "area", "kept"))
        name = f"with core - {other}"
        rows.append(finding(f"flicker, {name}", flicker, below(flicker), "< 0", scale=1))
        equal = within(area, -SAME, SAME)
        rows.append(finding(f"area, {name}", area, equal, f"0 +- {SAME}", scale=1))
        no_less = above(kept, -SAME)
        rows.append(finding(f"probability kept, {name} (points)", kept, no_less, "> -1"))
    leads = summary["minus_random"]
    least = min(leads, key=lambda name: leads[name]["low"] or leads[name]["mean"])
    name = "least insertion score of a method - random"
    return [
        *rows,
        finding(name, leads[least], above(leads[least]), "> 0", scale=1, note=least),
    ]


def table(summary: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    settings = summary["settings"]
    parts = [
        f"STEP and other maps of {summary['n_clips']} synthetic clips, seed {settings['seed']},"
        f" {settings['iterations']} iterations."
    ]
    rows: list[Sequence[str]] = [
        (name, written(row["coverage"]), written(row["kept"]))
        + tuple(written(row[part], 1, 4) for part in ("flicker", "area"))
        for name, row in summary["masks"].items()
    ]
    head = ("masks of a tenth", "evidence covered (%)", "probability kept (%)", "flicker", "area")
    parts.append(markdown(head, rows))
    rows = [(name, written(row)) for name, row in summary["needs"].items()]
    for name, row in summary["wider"].items():
        rows.append((f"evidence covered by the mask of a fifth, {name}", written(row)))
    share = f"{100 * summary['kept_without_covering']:.0f}"
    text = f"clips kept to {100 * KEEPS:.0f} % with less than {100 * COVERED:.0f} % covered"
    rows.append((text, share))
    parts.append(markdown(("prediction under masks of the evidence", "mean over clips (%)"), rows))
    rows = [
        (name, *(_cell(summary["means"][metric][name]) for metric in METRICS), f"{seconds:.1f}")
        for name, seconds in summary["seconds"].items()
    ]
    parts.append(markdown(("method", *METRICS, "seconds"), rows))
    rows = [
        (row["metric"], _number(row["reliability"]), _number(row["alpha"]), str(row["n_ranked"]))
        for row in summary["metrics"]
    ]
    parts.append(markdown(("metric", "reliability", "alpha", "clips ranked"), rows))
    pairs = zip(METRICS, summary["agreement"], strict=True)
    rows = [(name, *map(_number, ranks)) for name, ranks in pairs]
    parts.append(markdown(("agreement", *METRICS), rows))
    rows = [
        (name, str(row["n"]))
        + tuple(f"{row[k]:.{d}f}" for k, d in zip(MASK_MEASURES, (2, 3, 4, 3), strict=True))
        for name, row in summary["ablation"].items()
    ]
    parts.append(markdown(("masks of a tenth", "clips", *MASK_MEASURES), rows))
    parts.append(findings_table(summary["findings"]))
    parts.append(f"{summary['wall_seconds']:.0f} s, without masks of an earlier run.")
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(row: Mapping[str, Any]) -> str:
    """`0.512 ±0.030`, half the width of the interval."""
    if row["mean"] is None:
        return "-"
    if row["low"] is None:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ±{(row['high'] - row['low']) / 2:.3f}"


if __name__ == "__main__":
    sys.exit(main())
