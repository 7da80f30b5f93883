"""Coverage of known evidence by STEP masks, and evaluation of attribution maps of clips.

The small 3D network that comes with the package sees 16 frames of held-out synthetic clips, whose
evidence is known: the pixels of objects and hand. STEP optimises a mask of a tenth of the volume
that preserves the prediction: with its core (connected volumes), without, and with the difference
loss instead. Measured of each mask: share of the evidence covered, share of the probability kept,
flicker (mean change from frame to frame), area.

All methods of `maps.methods` are scored by all of `maps.map_metrics`; each metric by its
reliability, Krippendorff's alpha and its agreement with the others.

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

from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.files import make_folder
from esv_jax.maps.evaluation_record import Evaluation, combine_scores
from esv_jax.maps.map_metrics import METRICS
from esv_jax.maps.methods import METHODS
from esv_jax.metrics.reliability import spearman
from esv_jax.models.clip_model import clip_model_digest
from experiments import harness
from experiments.harness import Finding, above, below, finding, markdown, within
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
from experiments.relevance.measures import ClipSettings, network_and_clips
from experiments.statistics import Mean, mean_of, plain, written

OTHERS = tuple(name for name in VARIANTS if name not in MAIN)
KEEPS = 0.9  # share of its probability at which a prediction counts as kept
COVERED = 0.7  # share of the evidence
SAME = 0.01  # areas and shares of the probability that differ by less are equal
_STEP = ("step", "step_no_core")


@dataclasses.dataclass(frozen=True)
class Settings(ClipSettings):
    """Settings of one run."""

    out: Path = Path("results/perturbation")
    """Folder for the results; masks of an earlier run with other settings are replaced."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods of `maps.methods.METHODS`: "step", "random" and at least one more."""
    seed: int = 40_000
    n_clips: int = 8
    iterations: int = 200
    """Iterations of STEP."""
    steps: int = 16
    """Points of insertion and deletion curves."""
    ablation: tuple[str, ...] = OTHERS
    """Further variants of masks, see `masks.VARIANTS`."""
    n_ablation: int = 4
    """Clips for the further variants."""

    def __post_init__(self) -> None:
        """Checks counts and names; the library checks the rest."""
        super().__post_init__()
        for name in ("iterations", "n_ablation"):
            expect_int(name, getattr(self, name), minimum=1)
        for name in self.ablation:
            expect_choice("ablation", name, OTHERS)
        enough = {"step", "random"} < set(self.methods) - {"step_no_core"}
        expect(enough, "methods", '"step", "random" and at least one more', self.methods)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return harness.command(
        Settings, lambda s: table(run(s)), module="perturbation", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Measures, draws, writes `summary.json` and `table.md`; returns the content of the former."""
    make_folder(settings.out / "masks")
    start = time.perf_counter()

    def log(text: str) -> None:
        print(f"{text}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    model, videos = network_and_clips(settings)
    subject = Subject.of(model, videos, settings)
    found, ablation = [], {}
    for i in range(len(videos)):
        found.append(measure_clip(subject, i))
        log(f"clip {i + 1} of {len(videos)}")
    for name in settings.ablation:
        ablation[name] = measure_masks(subject, name, min(settings.n_ablation, len(videos)))
        log(name)
    evaluation = combine_scores(settings.methods, tuple(METRICS), [one.scores for one in found])
    summary = {
        "experiment": "perturbation",
        "settings": harness.as_json(settings),
        "weights_digest": clip_model_digest(model),
        **summarise(subject, evaluation, found, ablation),
        "wall_seconds": round(time.perf_counter() - start, 1),
        **harness.surroundings(),
    }
    harness.write_json(settings.out / "summary.json", summary)
    harness.write_text(settings.out / "table.md", table(summary))
    pictures.draw(settings.out, summary, subject)
    return summary


def summarise(
    subject: Subject,
    evaluation: Evaluation,
    found: Sequence[ClipMeasures],
    ablation: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """All numbers and findings, as plain values."""
    settings, videos = subject.settings, subject.videos
    ends = functools.partial(mean_of, settings=settings)

    def measured(values: np.ndarray) -> dict[str, Mean]:
        return dict(zip(MASK_MEASURES, map(ends, values.T), strict=True))

    judged = evaluation.summary(key=jax.random.key(settings.seed), resamples=settings.n_resamples)
    means: dict[str, dict[str, Any]] = {name: {} for name in judged.metrics}
    for row in judged.table():
        kept = {name: row[name] for name in ("mean", "low", "high", "n_clips")}
        means[row["metric"]][row["method"]] = kept
    masks = {name: np.array([one.masks[name] for one in found]) for name in MAIN}
    coverage, share_kept = masks[CORE][:, :2].T
    insertion = evaluation.scores[evaluation.metrics.index("insertion")]
    scores = dict(zip(evaluation.methods, insertion.T, strict=True))
    some = {variant: masks[variant][: settings.n_ablation] for variant in MAIN} | dict(ablation)
    summary: dict[str, Any] = {
        "n_clips": len(found),
        "means": means,
        "metrics": judged.metric_table(),
        "agreement": agreement(judged.mean, judged.higher_is_better),
        "seconds": dict(zip(judged.methods, judged.seconds.tolist(), strict=True)),
        "masks": {name: measured(rows) for name, rows in masks.items()},
        "mask_seconds": {
            name: float(np.median([one.seconds[name] for one in found])) for name in MAIN
        },
        "core_minus": {name: measured(masks[CORE] - masks[name]) for name in (NO_CORE, DIFFERENCE)},
        "wider": {name: ends([one.wider[name] for one in found]) for name in found[0].wider},
        "needs": dict(zip(NEEDS, map(ends, np.array([one.needs for one in found]).T), strict=True)),
        "kept_without_covering": float(((share_kept >= KEEPS) & (coverage < COVERED)).mean()),
        "step_minus": {
            name: ends(scores["step"] - row) for name, row in scores.items() if name not in _STEP
        },
        "minus_random": {
            name: ends(row - scores["random"]) for name, row in scores.items() if name != "random"
        },
        "ablation": {
            name: {"n": len(rows), **dict(zip(MASK_MEASURES, np.nanmean(rows, 0), strict=True))}
            for name, rows in some.items()
        },
        "clips": [
            {
                "class": videos.class_names[int(label)],
                "clean": one.clean,
                **dict(zip(MASK_MEASURES + NEEDS, one.masks[CORE] + one.needs, strict=True)),
            }
            for label, one in zip(videos.labels, found, strict=True)
        ],
        "warnings": list(evaluation.warnings),
    }
    summary["findings"] = harness.as_rows(findings(summary))
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


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Numbers of the claims."""
    coverage, means = summary["masks"][CORE]["coverage"], summary["means"]["insertion"]
    leads = summary["minus_random"]
    best = max((name for name in means if name not in _STEP), key=lambda name: means[name]["mean"])
    least = min(leads, key=lambda name: leads[name]["low"] or leads[name]["mean"])
    lead = summary["step_minus"][best]
    not_below = None if lead["low"] is None else not below(lead)
    enough = bool(coverage["mean"] >= COVERED)
    name = "evidence covered by masks of a tenth of the volume (%)"
    ahead = "insertion score of STEP - best other method"
    rows = [
        finding(name, coverage, enough, f">= {100 * COVERED:.0f}"),
        finding(ahead, lead, not_below, ">= 0", scale=1, note=best),
    ]
    for other, row in summary["core_minus"].items():
        name, flicker, area, kept = f"with core - {other}", row["flicker"], row["area"], row["kept"]
        equal = within(area, -SAME, SAME)
        rows += [
            finding(f"flicker, {name}", flicker, below(flicker), "< 0", scale=1),
            finding(f"area, {name}", area, equal, f"0 +- {SAME}", scale=1),
            finding(f"probability kept, {name} (points)", kept, above(kept, -SAME), "> -1"),
        ]
    name = "least insertion score of a method - random"
    worst = finding(name, leads[least], above(leads[least]), "> 0", scale=1, note=least)
    return [*rows, worst]


def table(summary: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    settings, means = summary["settings"], summary["means"]

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def cell(row: Mean) -> str:  # half the width of the interval
        if row["low"] is None:
            return "-" if row["mean"] is None else f"{row['mean']:.3f}"
        return f"{row['mean']:.3f} ±{(row['high'] - row['low']) / 2:.3f}"

    fifth = "evidence covered by the mask of a fifth"
    wider = {f"{fifth}, {name}": row for name, row in summary["wider"].items()}
    rows = [(name, written(row)) for name, row in (summary["needs"] | wider).items()]
    text = f"clips kept to {100 * KEEPS:.0f} % with less than {100 * COVERED:.0f} % covered"
    rows.append((text, f"{100 * summary['kept_without_covering']:.0f}"))
    tables: dict[tuple[str, ...], list[Sequence[Any]]] = {
        ("masks of a tenth", "evidence covered (%)", "probability kept (%)", "flicker", "area"): [
            (
                name,
                *(written(row[part]) for part in ("coverage", "kept")),
                *(written(row[part], 1, 4) for part in ("flicker", "area")),
            )
            for name, row in summary["masks"].items()
        ],
        ("prediction under masks of the evidence", "mean over clips (%)"): rows,
        ("method", *METRICS, "seconds"): [
            (name, *(cell(means[metric][name]) for metric in METRICS), f"{seconds:.1f}")
            for name, seconds in summary["seconds"].items()
        ],
        ("metric", "reliability", "alpha", "clips ranked"): [
            (row["metric"], number(row["reliability"]), number(row["alpha"]), row["n_ranked"])
            for row in summary["metrics"]
        ],
        ("agreement", *METRICS): [
            (name, *map(number, ranks))
            for name, ranks in zip(METRICS, summary["agreement"], strict=True)
        ],
        ("masks of a tenth", "clips", *MASK_MEASURES): [
            (
                name,
                row["n"],
                *(f"{row[k]:.{d}f}" for k, d in zip(MASK_MEASURES, (2, 3, 4, 3), strict=True)),
            )
            for name, row in summary["ablation"].items()
        ],
    }
    about = (
        f"STEP and other maps of {summary['n_clips']} synthetic clips, seed {settings['seed']},"
        f" {settings['iterations']} iterations."
    )
    seconds = f"{summary['wall_seconds']:.0f} s, without masks of an earlier run."
    parts = [markdown(head, rows) for head, rows in tables.items()]
    return "\n\n".join([about, *parts, harness.findings_table(summary["findings"]), seconds])


if __name__ == "__main__":
    sys.exit(main())
