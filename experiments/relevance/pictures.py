"""Pictures: mass on the evidence, motion share by sigma, two examples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import plots
from esv_jax.models import ClipModel
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.relevance.measures import METHODS, SCORES, Maps, contrasted

_COLOURS = (style.SUPPORTING, style.DISTRACTING)
_SHOWN = ("LRP", "selective, sigma 2", "spatial", "temporal")


def draw(
    folder: Path,
    summary: dict[str, Any],
    model: ClipModel,
    videos: ej.data.SyntheticVideos,
    run: Maps,
) -> list[Path]:
    """Writes all pictures to a folder; returns their paths."""
    return [
        plots.save_figure(mass(summary), folder / "mass.png"),
        plots.save_figure(motion_share(summary), folder / "motion_share.png"),
        *(
            plots.save_figure(
                example(model, videos, run, k), folder / f"example_{score}.png", dpi=80
            )
            for k, score in enumerate(SCORES)
        ),
    ]


def mass(summary: dict[str, Any]) -> Any:
    """Share of positive relevance on the evidence by method, for both scores."""
    figure = new_figure(7.2, 3.4)
    ax = figure.subplots()
    places = np.arange(len(METHODS))
    for k, (score, colour) in enumerate(zip(SCORES, _COLOURS, strict=True)):
        rows = [summary["measures"][score]["mass"][method] for method in METHODS]
        mean, low, high = (
            np.array([row[part] for row in rows], float) for part in ("mean", "low", "high")
        )
        ends = np.nan_to_num([mean - low, high - mean])
        at = places + 0.38 * (k - 0.5)
        ax.bar(at, mean, 0.36, color=colour, label=score)
        ax.errorbar(at, mean, yerr=ends, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=2)
    style.strip_down(ax)
    ax.set_xticks(places, [textwrap.fill(method, 11) for method in METHODS], fontsize=7.5)
    ax.set_ylabel("share of positive relevance\non the evidence", **style.TEXT)
    ax.legend(**style.LEGEND)
    ax.set_title("Where relevance lies", loc="left", fontsize=style.TITLE_SIZE)
    return figure


def motion_share(summary: dict[str, Any]) -> Any:
    """Motion share by sigma; the rest is spatial bias."""
    figure = new_figure(5.6, 3.2)
    ax = figure.subplots()
    for score, colour in zip(SCORES, _COLOURS, strict=True):
        rows = summary["motion_share"][score]
        low, mean, high = (
            np.array([row[part] for row in rows], float) for part in ("low", "mean", "high")
        )
        ax.plot(summary["sigmas"], mean, "o-", color=colour, label=score)
        ax.fill_between(summary["sigmas"], low, high, color=colour, alpha=0.2, linewidth=0)
    style.strip_down(ax)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("sigma, standard deviations of the temporal derivative", **style.TEXT)
    ax.set_ylabel("share of |relevance|\nthat is motion", **style.TEXT)
    ax.legend(**style.LEGEND)
    ax.set_title("Motion and spatial bias", loc="left", fontsize=style.TITLE_SIZE)
    return figure


def example(model: ClipModel, videos: ej.data.SyntheticVideos, run: Maps, contrast: int) -> Any:
    """Relevance of one contrast for the first clip with evidence in at least half of its frames."""
    shares = videos.evidence_frames.mean(1)
    i = int(np.flatnonzero(shares >= min(0.5, shares.max()))[0])
    label = int(videos.labels[i])
    target = label + contrast * len(model.class_names)
    clip = model.prepare(videos.clips[i])
    volumes = run(clip, jnp.asarray(target))
    parts = {name: np.asarray(volumes[name]) for name in _SHOWN}
    name = videos.class_names[label]
    partner = videos.class_names[label ^ 1]
    title = f"{name} or {partner}?" if contrast == 0 else f"{name} / {partner}, or another pair?"
    lines = [f"logit difference {float(contrasted(model)(clip)[target]):.2f}"]
    return plots.plot_relevance_strip(videos.clips[i], parts, title=title, lines=lines)
