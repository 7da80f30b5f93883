"""Masks of a clip: where they lie over its frames, as a strip and as a video; how they came about.

Masks are one on what a prediction needs and zero elsewhere, as `perturbation.step` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect, expect_choice
from esv_jax.plots import style
from esv_jax.plots.figures import fit_height, new_figure
from esv_jax.plots.masks import all_over, expect_masks, outlined, overlay_mask
from esv_jax.plots.overlay import Drawing, compose
from esv_jax.plots.pictures import beside, columns_of, expect_index, expect_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WANTED = {
    "preserve": "p kept",
    "delete": "1 - p left",
    "dual": "p kept x (1 - p left)",
}
"""Meaning of exp(-reward), by mode."""

_BARS_INCHES = 0.9
_PALEST = 0.65  # the same of the last of several colours


def plot_perturbation_strip(
    frames: Any,
    masks: Mapping[str, Any],
    *,
    frame_labels: Sequence[str] | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    max_columns: int = 16,
) -> Figure:
    """Frames in temporal order; below them each mask, the sum of all, and their share of frames.

    It makes a figure of its own, since frames keep their proportions only in one as high as they
    need.

    Args:
      frames: what the network saw, (t, h, w, 3) uint8 RGB.
      masks: names -> masks (t, h, w) in 0..1, e.g. {"area 0.05": ..., "area 0.1": ...}.
      frame_labels: t labels, e.g. frame numbers; default 0..t-1.
      title, lines: heading and text above the frames.
      max_columns: frames beside each other at most; more are thinned out evenly, the bars are not.
    Returns:
      A new figure that no window shows; `save_figure` writes it.
    Raises:
      ValueError, TypeError: no masks, or as `overlay_mask`; another number of labels.
    """
    frames, volumes = expect_masks(frames, masks)
    columns = columns_of(len(frames), frame_labels, max_columns)
    shown = columns.shown
    rows = {"frame": frames[shown]}
    rows |= {name: overlay_mask(frames[shown], mask[shown]) for name, mask in volumes.items()}
    rows["all masks"] = all_over(frames, volumes)[shown]

    figure = new_figure(columns.inches(), 1.5 * (len(rows) + 1))
    axes = figure.subplots(len(rows) + 1, squeeze=False)[:, 0]
    for ax in axes:
        ax.set_xlim(columns.limits)
        ax.set_xticks([])
    for (name, pictures), ax in zip(rows.items(), axes[:-1], strict=True):
        columns.draw(ax, pictures, name)
    _draw_shares(axes[-1], volumes)
    figure.draw_without_rendering()  # settles how wide the panels are
    columns.label(axes[0])
    _name_masks(axes[-1], list(volumes))
    meanings = ("in more masks, the darker", "outline of a mask")
    text = [*lines, "share: mean of a mask over a frame"]
    style.annotate(axes[0], title or "Masks", text, meanings)
    heights = [columns.tall(axes[0], frames)] * len(rows) + [_BARS_INCHES]
    axes[0].get_gridspec().set_height_ratios(heights)
    fit_height(figure, list(axes), sum(heights))
    return figure


def render_perturbation(
    frames: Any,
    masks: Mapping[str, Any],
    perturbed: Any,
    *,
    shown: str | None = None,
    index: Any = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    min_width: int = 640,
) -> Iterator[np.ndarray]:
    """A video: each frame, the sum of all masks over it, and what one of them leaves of it.

    Args:
      frames, masks, title, lines: as of `plot_perturbation_strip`.
      perturbed: what the mask `shown` leaves of the clip, (t, h, w, 3) uint8 RGB.
      shown: the mask whose outline and share of each frame are drawn; default that in the middle.
      index: frame numbers of the t frames, increasing; default 0..t-1.
      min_width: pixels, >= 160; frames are enlarged by a whole factor.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, as `write_video` takes them.
    Raises:
      ValueError, TypeError: as `plot_perturbation_strip`; numbers that are not one per frame, a
        name that no mask has, a perturbed clip of another shape.
    """
    frames, volumes = expect_masks(frames, masks)
    names = list(volumes)
    chosen = middle(names) if shown is None else shown
    expect_choice("shown", chosen, names)
    left = expect_pictures(perturbed, "(t, h, w, 3)")
    expect(left.shape == frames.shape, "perturbed", f"shape {frames.shape}", left.shape)
    numbers = expect_index(index, len(frames))
    over = outlined(all_over(frames, volumes), volumes[chosen])
    drawing = Drawing(
        heading=title or "Masks",
        lines=[*lines, "from left: frame, all masks, perturbed frame"],
        places=numbers,
        values=volumes[chosen].mean((1, 2), dtype=np.float64),
        half=np.full(len(frames), np.nan),
        label="share of\nthe frame",
        meanings=(f"masks; bars: {chosen}", f"outline of {chosen}"),
    )
    return compose(beside([frames, over, left]), numbers, drawing, min_width)


def plot_descent(
    energy: Any,
    reward: Any,
    names: Sequence[str],
    *,
    mode: str = "preserve",
    title: str | None = None,
) -> Figure:
    """Energy of masks and its parts by iteration, one line each.

    It makes a figure of its own: two panels, the names of the masks between them.

    Args:
      energy: what was descended, (A, iterations).
      reward: the part of the prediction in it, (A, iterations); drawn as exp(-reward), which is
        the probability of what the mode wants, in 0..1. NaN are gaps in both.
      names: A names of masks.
      mode: "preserve", "delete" or "dual".
      title: heading.
    Returns:
      A new figure that no window shows; `save_figure` writes it.
    Raises:
      ValueError: shapes that do not fit, another number of names, an unknown mode.
    """
    energy, reward = np.asarray(energy, np.float64), np.asarray(reward, np.float64)
    fits = energy.ndim == 2 and energy.size > 0 and reward.shape == energy.shape
    expect(fits, "energy, reward", "one shape (A, iterations)", (energy.shape, reward.shape))
    expect(len(names) == len(energy), "names", f"{len(energy)} names", len(names))
    count, iterations = energy.shape
    expect_choice("mode", mode, WANTED)
    figure: Any = new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    marker = "." if iterations == 1 else None
    for ax, rows in ((left, energy), (right, np.exp(-reward))):
        style.strip_down(ax)
        for k, (row, name) in enumerate(zip(rows, names, strict=True)):
            look = {"color": _colours(count)[k], "linewidth": 1.5, "marker": marker}
            ax.plot(row, label=str(name), zorder=3 - k / count, **look)
        style.count_ticks(ax, np.arange(iterations), 6)
        ax.set_xlabel("iteration", **style.TEXT)
    finite = energy[np.isfinite(energy)]
    if finite.size and finite.min() > 0:
        left.set_yscale("log")
        style.log_ticks(left.yaxis)
    right.set_ylim(-0.02, 1.02)
    left.set_ylabel("energy", **style.TEXT)
    right.set_ylabel(WANTED[mode], **style.TEXT)
    style.name_lines(left, left.lines)
    style.head(figure, title or "Descent")
    return figure


def middle(names: Sequence[str]) -> str:
    """That in the middle; of two the former."""
    return names[(len(names) - 1) // 2]


def _draw_shares(ax: Any, volumes: Mapping[str, np.ndarray]) -> None:
    """Bars of every mask's share of each frame, side by side."""
    style.strip_down(ax)
    shares = [volume.mean((1, 2), dtype=np.float64) for volume in volumes.values()]
    count, t = len(shares), len(shares[0])
    width = 0.8 / count
    for k, (name, share) in enumerate(zip(volumes, shares, strict=True)):
        at = np.arange(t) + (k - (count - 1) / 2) * width
        ax.bar(at, share, width, color=_colours(count)[k], label=name)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_ylim(0, 1.07 * np.max(shares) or 0.05)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel("share of\nthe frame", **style.TEXT)


def _name_masks(ax: Any, names: Sequence[str]) -> None:
    """Draw the legend of the bars' shades above them, in as many columns as fit."""
    inches = ax.get_window_extent().width / ax.figure.dpi
    columns = inches / (0.4 + style.text_inches(max(map(len, names))))
    drawn = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=int(np.clip(columns, 1, len(names))),
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
        columnspacing=1.2,
        **style.LEGEND,
    )
    style.as_written(drawn)


def _colours(n: int) -> list[tuple[float, ...]]:
    """n shades of one colour, from full to pale."""
    full = np.array(style.rgb(style.SUPPORTING)) / 255
    return [tuple(full + (1 - full) * _PALEST * k / max(n - 1, 1)) for k in range(n)]
