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
from experiments.perturbation.clips import Subject, tenth
from experiments.perturbation.masks import CORE, NO_CORE
from experiments.relevance.pictures import ends, paired_bars

_SHOWN = ("insertion", "deletion", "mass", "pointing", "coverage", "temporal_grounding")
_MAPS = ("lrp", "occlusion")


def draw(folder: Path, summary: Mapping[str, Any], subject: Subject) -> None:
    """Writes all pictures to a folder; examples are the clips of median and least coverage."""
    coverage = np.array([row["coverage"] for row in summary["clips"]], np.float64)
    order = np.argsort(coverage, kind="stable").tolist()
    plots.save_figure(methods(summary), folder / "methods.png")
    plots.save_figure(reliability(summary), folder / "reliability.png")
    for name, i in (("example", order[len(order) // 2]), ("example_least", order[0])):
        plots.save_figure(example(subject, i), folder / f"{name}.png", dpi=65)


def methods(summary: Mapping[str, Any]) -> Any:
    """Means of the methods by the main metrics, with their intervals."""
    names = list(summary["seconds"])
    figure = style.new_figure(9.6, 1.6 + 0.42 * len(names))
    axes = figure.subplots(2, 3, sharey=True)
    y = np.arange(len(names))
    low_is_good = {row["metric"] for row in summary["metrics"] if not row["higher_is_better"]}
    colours = [style.DISTRACTING if n.startswith("step") else style.SUPPORTING for n in names]
    whiskers = {"fmt": "none", "ecolor": style.INK, "elinewidth": 0.9, "capsize": 2}
    for metric, ax in zip(_SHOWN, axes.flat, strict=True):
        mean, *sides = ends(summary["means"][metric][name] for name in names)
        style.strip_down(ax)
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x", color=style.GRID, linewidth=0.8)
        ax.tick_params(axis="y", length=0)
        ax.barh(y, mean, 0.7, color=colours)
        ax.errorbar(mean, y, xerr=np.nan_to_num(sides), **whiskers)
        good = "low is good" if metric in low_is_good else "high is good"
        ax.set_title(f"{metric.replace('_', ' ')}, {good}", loc="left", **style.TEXT)
    axes[0, 0].set_yticks(y, [name.replace("_", " ") for name in names])
    axes[0, 0].invert_yaxis()
    return figure


def reliability(summary: Mapping[str, Any]) -> Any:
    """Reliability and alpha of each metric."""
    rows = summary["metrics"]
    figure = style.new_figure(8, 3.2)
    ax = figure.subplots()
    labels = {"reliability": "weighted rank correlation", "alpha": "Krippendorff's alpha"}
    values = {text: np.array([row[k] for row in rows], float) for k, text in labels.items()}
    paired_bars(ax, values, [row["metric"].replace("_", " ") for row in rows])
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_ylabel("agreement of clips\non the order of methods", **style.TEXT)
    ax.legend(**style.LEGEND, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    ax.set_title("Reliability of metrics", loc="left", fontsize=style.TITLE_SIZE)
    return figure


def example(subject: Subject, i: int) -> Any:
    """Frames, evidence, masks and maps of clip i."""
    clip, label, evidence = subject.clip(i)
    seen = subject.videos.clips[i]
    masks = {"evidence": evidence.astype(np.float32)}
    masks |= {f"STEP, {v}": tenth(v, subject.masks(v, i))[0] for v in (CORE, NO_CORE)}
    rows = {"frames": seen}
    rows |= {name: plots.perturbation.overlay_mask(seen, mask) for name, mask in masks.items()}
    for name in (name for name in _MAPS if name in subject.settings.methods):
        volume = jax.device_get(clip_map(name, subject.model, clip, label))
        picture = plots.relevance.overlay_relevance(seen, volume)
        rows[name.upper() if name == "lrp" else name] = picture
    t, h, w = seen.shape[:3]
    figure = style.new_figure(1.2 + 0.75 * t, 0.4 + 0.78 * len(rows) * h / w)
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
