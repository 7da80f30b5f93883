"""Pictures: scores of methods, reliability of metrics, masks and maps of two clips."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esv_jax import plots
from esv_jax.maps import clip_map
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.perturbation.clips import Subject
from experiments.perturbation.masks import AREA, CORE, NO_CORE, VARIANTS

_SHOWN = ("insertion", "deletion", "mass", "pointing", "coverage", "temporal_grounding")
_MAPS = ("lrp", "occlusion")


def draw(folder: Path, summary: Mapping[str, Any], subject: Subject) -> list[Path]:
    """Writes all pictures to a folder; returns their paths."""
    coverage = np.array([row["coverage"] for row in summary["clips"]], np.float64)
    order = np.argsort(coverage, kind="stable")
    shown = {"example": order[len(order) // 2], "example_least": order[0]}
    return [
        plots.save_figure(methods(summary), folder / "methods.png"),
        plots.save_figure(reliability(summary), folder / "reliability.png"),
        *(
            plots.save_figure(example(subject, int(i)), folder / f"{name}.png", dpi=65)
            for name, i in shown.items()
        ),
    ]


def methods(summary: Mapping[str, Any]) -> Any:
    """Means of the methods by the main metrics, with their intervals."""
    names = list(summary["seconds"])
    figure = new_figure(9.6, 1.6 + 0.42 * len(names))
    axes = figure.subplots(2, 3, sharey=True)
    y = np.arange(len(names))
    low_is_good = {row["metric"] for row in summary["metrics"] if not row["higher_is_better"]}
    for metric, ax in zip(_SHOWN, axes.flat, strict=True):
        rows = [summary["means"][metric][name] for name in names]
        mean, low, high = (
            np.array([row[k] for row in rows], np.float64) for k in ("mean", "low", "high")
        )
        colours = [style.DISTRACTING if n.startswith("step") else style.SUPPORTING for n in names]
        _strip_down(ax)
        ax.barh(y, mean, 0.7, color=colours)
        whiskers = np.nan_to_num(np.stack([mean - low, high - mean]))
        ax.errorbar(mean, y, xerr=whiskers, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=2)
        good = "low is good" if metric in low_is_good else "high is good"
        text = f"{metric.replace('_', ' ')}, {good}"
        ax.set_title(text, loc="left", fontsize=style.TEXT_SIZE, color=style.INK)
    axes[0, 0].set_yticks(y, [name.replace("_", " ") for name in names])
    axes[0, 0].invert_yaxis()
    return figure


def reliability(summary: Mapping[str, Any]) -> Any:
    """Reliability and alpha of each metric."""
    rows = summary["metrics"]
    figure = new_figure(8, 3.2)
    ax = figure.subplots()
    x = np.arange(len(rows))
    bars = (("reliability", style.SUPPORTING), ("alpha", style.DISTRACTING))
    for k, (name, colour) in enumerate(bars):
        values = np.array([row[name] for row in rows], np.float64)
        at = x + 0.38 * (k - 0.5)
        ax.bar(at, np.nan_to_num(values), 0.36, color=colour, label=_LABELS[name])
    style.strip_down(ax)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    labels = [textwrap.fill(row["metric"].replace("_", " "), 11) for row in rows]
    ax.set_xticks(x, labels, fontsize=7.5)
    ax.set_ylabel("agreement of clips\non the order of methods", **style.TEXT)
    position = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
    ax.legend(**style.LEGEND, **position)
    ax.set_title("Reliability of metrics", loc="left", fontsize=style.TITLE_SIZE)
    return figure


_LABELS = {"reliability": "weighted rank correlation", "alpha": "Krippendorff's alpha"}


def example(subject: Subject, i: int) -> Any:
    """Frames, evidence, masks and maps of clip i."""
    label, seen = int(subject.videos.labels[i]), subject.videos.clips[i]
    clip = subject.model.prepare(seen)
    rows = {"frames": seen}
    evidence = subject.videos.evidence_mask[i].astype(np.float32)
    rows["evidence"] = plots.perturbation.overlay_mask(seen, evidence)
    for variant in (CORE, NO_CORE):
        mask = subject.masks(variant, i).masks[VARIANTS[variant].areas.index(AREA)]
        rows[f"STEP, {variant}"] = plots.perturbation.overlay_mask(seen, mask)
    for name in (name for name in _MAPS if name in subject.settings.methods):
        volume = jax.device_get(clip_map(name, subject.model, clip, label))
        rows[name.upper() if name == "lrp" else name] = plots.relevance.overlay_relevance(
            seen, volume
        )
    t, h, w = seen.shape[:3]
    figure = new_figure(1.2 + 0.75 * t, 0.4 + 0.78 * len(rows) * h / w)
    axes = figure.subplots(len(rows), t, squeeze=False)
    for (name, pictures), line in zip(rows.items(), axes, strict=True):
        for picture, ax in zip(pictures, line, strict=True):
            ax.imshow(picture)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(textwrap.fill(name, 10), **style.TEXT)
    title = f"{subject.videos.class_names[label]}: masks of a tenth of the volume, and maps"
    figure.suptitle(title, x=0.01, ha="left", fontsize=style.TITLE_SIZE, color=style.INK)
    return figure


def _strip_down(ax: Any) -> None:
    """Pale lines at the x ticks, no frame."""
    style.strip_down(ax)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x", color=style.GRID, linewidth=0.8)
    ax.tick_params(axis="y", length=0)
