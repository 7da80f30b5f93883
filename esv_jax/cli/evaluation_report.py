"""Outputs of `esv-jax evaluate`: a long table, a summary, and two tables on screen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax.cli.printing import say, table
from esv_jax.files import atomic_path
from esv_jax.maps import Evaluation, EvaluationSummary
from esv_jax.results.provenance import provenance


def write_csv(path: Path, uids: tuple[str, ...], evaluation: Evaluation) -> None:
    """A line for each clip, method and metric; an undefined score is empty."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["uid", "method", "metric", "score"])
        for i, uid in enumerate(uids):
            for m, method in enumerate(evaluation.methods):
                for k, metric in enumerate(evaluation.metrics):
                    score = float(evaluation.scores[k, i, m])
                    writer.writerow([uid, method, metric, "" if np.isnan(score) else score])


def write_json(
    path: Path,
    evaluation: Evaluation,
    summary: EvaluationSummary,
    settings: dict[str, Any],
) -> None:
    """Means, reliabilities and warnings, with what they were made with."""
    title = "Attribution methods judged by metrics"
    content = provenance(title, "esv_jax.evaluation/1", None, settings)
    content |= {
        "settings": settings,
        "n_clips": evaluation.scores.shape[1],
        "summary": [_plain(row) for row in summary.table()],
        "metrics": [_plain(row) for row in summary.metric_table()],
        "warnings": evaluation.warnings,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(f"{json.dumps(content, indent=1, allow_nan=False)}\n", "utf-8")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON holds it, null for NaN."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in row.items()
    }


def print_summary(summary: EvaluationSummary, n: int) -> None:
    """Means of n clips, a row for each method; how reliable the metrics are."""
    better = ["↑" if higher else "↓" for higher in summary.higher_is_better]
    names = [name.replace("_", " ") for name in summary.metrics]
    columns = [f"{name} {sign}" for name, sign in zip(names, better, strict=True)]
    rows = [
        [
            method,
            *(_with_interval(summary, k, m) for k in range(len(names))),
            f"{summary.seconds[m]:.2f}",
        ]
        for m, method in enumerate(summary.methods)
    ]
    clips = "1 clip" if n == 1 else f"{n} clips, with 95 % intervals"
    table(f"Means over {clips} (↑ high is good, ↓ low)", ["method", *columns, "s / clip"], rows)
    rows = [
        [name, _number(row["reliability"]), _number(row["alpha"]), row["n_ranked"]]
        for name, row in zip(names, summary.metric_table(), strict=True)
    ]
    table("Reliability of the metrics", ["metric", "reliability", "alpha", "clips"], rows)
    say(
        "Near 1 a metric ranks the methods alike on every clip; near 0 its ranks are those of"
        "\nchance, and its means say little. Taken over the clips on which methods differ."
    )


def _with_interval(summary: EvaluationSummary, k: int, m: int) -> str:
    mean, low, high = (float(array[k, m]) for array in (summary.mean, summary.low, summary.high))
    if np.isnan(mean):
        return "-"
    return f"{mean:.2f}" if np.isnan(low) else f"{mean:.2f} [{low:.2f},{high:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
