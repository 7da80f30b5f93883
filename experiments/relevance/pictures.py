"""Pictures: mass on the evidence, motion share by sigma, two examples."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import plots
from esv_jax.models.clip_model import ClipModel
from esv_jax.plots import style
from experiments.relevance.measures import METHODS, SCORES, Maps, contrasted

COLOURS = (style.SUPPORTING, style.DISTRACTING)
_SHOWN = ("LRP", "selective, sigma 2", "spatial", "temporal")


def draw(
    folder: Path,
    summary: dict[str, Any],
    model: ClipModel,
    videos: ej.data.synthetic_video.SyntheticVideos,
    run: Maps,
) -> None:
    """Writes all pictures to a folder."""
    plots.save_figure(mass(summary), folder / "mass.png")
    plots.save_figure(motion_share(summary), folder / "motion_share.png")
    for k, score in enumerate(SCORES):
        figure = example(model, videos, run, k)
        plots.save_figure(figure, folder / f"example_{score}.png", dpi=80)


def ends(rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Mean, and distances from it to the ends of its interval, NaN for None; (3, rows)."""
    found = np.array([[row[name] for name in ("mean", "low", "high")] for row in rows], float).T
    return np.stack([found[0], found[0] - found[1], found[2] - found[0]])


def paired_bars(ax: Any, values: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
    """Two bars side by side for each name; values by the text of the legend."""
    for k, (label, heights) in enumerate(values.items()):
        at = np.arange(len(heights)) + 0.38 * (k - 0.5)
        ax.bar(at, np.nan_to_num(heights), 0.36, color=COLOURS[k], label=label)
    style.strip_down(ax)
    texts = [textwrap.fill(name, 11) for name in names]
    ax.set_xticks(range(len(texts)), texts, fontsize=7.5)


def mass(summary: dict[str, Any]) -> Any:
    """Share of positive relevance on the evidence by method, for both scores."""
    figure = style.new_figure(7.2, 3.4)
    ax = figure.subplots()
    found = {score: ends(summary["measures"][score]["mass"].values()) for score in SCORES}
    paired_bars(ax, {score: rows[0] for score, rows in found.items()}, METHODS)
    whiskers = {"fmt": "none", "ecolor": style.INK, "elinewidth": 0.9, "capsize": 2}
    for k, (means, *sides) in enumerate(found.values()):
        at = np.arange(len(METHODS)) + 0.38 * (k - 0.5)
        ax.errorbar(at, means, yerr=np.nan_to_num(sides), **whiskers)
    ax.set_ylabel("share of positive relevance\non the evidence", **style.TEXT)
    ax.legend(**style.LEGEND)
    ax.set_title("Where relevance lies", loc="left", fontsize=style.TITLE_SIZE)
    return figure


def motion_share(summary: dict[str, Any]) -> Any:
    """Motion share by sigma; the rest is spatial bias."""
    figure = style.new_figure(5.6, 3.2)
    ax = figure.subplots()
    for score, colour in zip(SCORES, COLOURS, strict=True):
        mean, below, above = ends(summary["motion_share"][score])
        ax.plot(summary["sigmas"], mean, "o-", color=colour, label=score)
        band = {"color": colour, "alpha": 0.2, "linewidth": 0}
        ax.fill_between(summary["sigmas"], mean - below, mean + above, **band)
    style.strip_down(ax)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("sigma, standard deviations of the temporal derivative", **style.TEXT)
    ax.set_ylabel("share of |relevance|\nthat is motion", **style.TEXT)
    ax.legend(**style.LEGEND)
    ax.set_title("Motion and spatial bias", loc="left", fontsize=style.TITLE_SIZE)
    return figure


def example(
    model: ClipModel, videos: ej.data.synthetic_video.SyntheticVideos, run: Maps, contrast: int
) -> Any:
    """Relevance of one contrast for the first clip with evidence in at least half of its frames."""
    shares = videos.evidence_frames.mean(1)
    i = int(np.flatnonzero(shares >= min(0.5, shares.max()))[0])
    label = int(videos.labels[i])
    target = label + contrast * len(model.class_names)
    clip = model.prepare(videos.clips[i])
    volumes = run(clip, jnp.asarray(target))
    name, partner = videos.class_names[label], videos.class_names[label ^ 1]
    title = f"{name} / {partner}, or another pair?" if contrast else f"{name} or {partner}?"
    lines = [f"logit difference {float(contrasted(model)(clip)[target]):.2f}"]
    parts = {name: np.asarray(volumes[name]) for name in _SHOWN}
    return plots.plot_relevance_strip(videos.clips[i], parts, title=title, lines=lines)
