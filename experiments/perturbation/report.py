"""The numbers of all clips: means with intervals, the worth of the metrics, tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from esv_jax.maps import METRICS
from esv_jax.maps.evaluation_record import Evaluation
from esv_jax.metrics.reliability import spearman
from experiments.intervals import interval, number, share
from experiments.perturbation.claims import claims, leads
from experiments.perturbation.clips import Found, Subject
from experiments.perturbation.masks import CORE, DIFFERENCE, MAIN, NO_CORE
from experiments.perturbation.measures import KEEPS, MASK_MEASURES, NEEDS, WANTED


def summarised(
    subject: Subject,
    evaluation: Evaluation,
    found: Sequence[Found],
    ablation: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """All numbers and claims, as JSON holds them."""
    settings = subject.settings
    ends = partial(interval, seed=settings.seed, resamples=settings.n_resamples)
    judged = evaluation.summary(key=jax.random.key(settings.seed), resamples=settings.n_resamples)
    masks = {name: np.array([one.masks[name] for one in found]) for name in MAIN}
    rows = {name: _columns(table, ends) for name, table in masks.items()}
    core_minus = {name: _columns(masks[CORE] - masks[name], ends) for name in (NO_CORE, DIFFERENCE)}
    needed = np.array([one.needs for one in found])
    coverage, kept = masks[CORE][:, 0], masks[CORE][:, 1]
    insertion = evaluation.scores[evaluation.metrics.index("insertion")]
    step_minus, minus_random = leads(evaluation.methods, insertion, ends)
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
        "kept_without_covering": float(((kept >= KEEPS) & (coverage < WANTED)).mean()),
        "step_minus": step_minus,
        "minus_random": minus_random,
        "ablation": {
            name: {"n": len(table)} | dict(zip(MASK_MEASURES, _mean(table), strict=True))
            for name, table in ({way: masks[way][:n] for way in MAIN} | dict(ablation)).items()
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
    summary["claims"] = claims(summary)
    plain: dict[str, Any] = _plain(summary)
    return plain


def agreement(mean: np.ndarray, higher_is_better: Sequence[bool]) -> list[list[float]]:
    """Rank correlation of the orders in which metrics put methods by their means, (K, K).

    NaN beside a metric that has no mean of some method, or finds all the same.
    """
    signed = np.where(np.array(higher_is_better)[:, None], mean, -mean)
    found = np.full((len(mean), len(mean)), np.nan)
    orders = np.flatnonzero(np.isfinite(signed).all(1) & (np.ptp(signed, axis=1) > 0))
    if orders.size:
        found[np.ix_(orders, orders)] = spearman(signed[orders])
    return found.tolist()


def table(summary: Mapping[str, Any]) -> str:
    """The numbers for people, in Markdown."""
    settings = summary["settings"]
    lines = [
        f"STEP and other maps of {summary['n_clips']} synthetic clips, seed {settings['seed']},"
        f" {settings['iterations']} iterations.",
        "",
        *_header(["masks of a tenth", "evidence covered", "probability kept", "flicker", "area"]),
    ]
    for name, row in summary["masks"].items():
        cells = [share(row["coverage"]), share(row["kept"])]
        cells += [number(row["flicker"], 4), number(row["area"], 4)]
        lines.append(_row([name, *cells]))
    lines += ["", *_header(["what a prediction needs", "mean over clips"])]
    lines += [_row([name, share(row)]) for name, row in summary["needs"].items()]
    for name, row in summary["wider"].items():
        lines.append(_row([f"evidence covered by the mask of a fifth, {name}", share(row)]))
    lines.append(_row(["clips kept to 90 % with less covered than claimed", _percent(summary)]))
    lines += ["", *_header(["method", *METRICS, "seconds"])]
    for method, seconds in summary["seconds"].items():
        cells = [_cell(summary["means"][metric][method]) for metric in METRICS]
        lines.append(_row([method, *cells, f"{seconds:.1f}"]))
    lines += ["", *_header(["metric", "reliability", "alpha", "clips that count"])]
    for row in summary["metrics"]:
        worth = ["-" if row[k] is None else f"{row[k]:.2f}" for k in ("reliability", "alpha")]
        lines.append(_row([row["metric"], *worth, str(row["n_ranked"])]))
    lines += ["", *_header(["agreement", *METRICS])]
    for name, ranks in zip(METRICS, summary["agreement"], strict=True):
        lines.append(_row([name, *("-" if r is None else f"{r:.2f}" for r in ranks)]))
    lines += ["", *_header(["masks of a tenth", "clips", *MASK_MEASURES])]
    for name, row in summary["ablation"].items():
        digits = [2, 3, 4, 3]
        cells = [f"{row[k]:.{d}f}" for k, d in zip(MASK_MEASURES, digits, strict=True)]
        lines.append(_row([name, str(row["n"]), *cells]))
    lines.append("")
    for found in summary["claims"]:
        verdict = "holds" if found["holds"] else "FAILS"
        lines.append(f"- {verdict}: {found['claim']}: {found['measured']}")
    lines += ["", f"{summary['wall_seconds']:.0f} s, without masks found by an earlier run."]
    return "\n".join(lines)


def _columns(values: np.ndarray, ends: Any) -> dict[str, Any]:
    """Intervals of each measure, of (V, measures)."""
    return {name: ends(column) for name, column in zip(MASK_MEASURES, values.T, strict=True)}


def _mean(values: np.ndarray) -> list[float]:
    means: list[float] = np.nanmean(values, axis=0).tolist()
    return means


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """metric -> method -> mean and interval."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        kept = {name: row[name] for name in ("mean", "low", "high", "n_clips")}
        found.setdefault(row["metric"], {})[row["method"]] = kept
    return found


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _header(names: Sequence[str]) -> list[str]:
    return [_row(names), "|---" * len(names) + "|"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Mapping[str, Any]) -> str:
    """`0.512 ±0.030`, half the width of the interval."""
    if row["mean"] is None:
        return "-"
    if row["low"] is None:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ±{(row['high'] - row['low']) / 2:.3f}"


def _percent(summary: Mapping[str, Any]) -> str:
    return f"{100 * summary['kept_without_covering']:.0f} %"
