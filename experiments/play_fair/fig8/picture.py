"""The tables of figure 8 as heat maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm

from esv_jax.plots import style
from esv_jax.plots.figures import new_figure
from experiments.play_fair.fig8.words import TITLES, cell_text, per_cent

_FAR, _MANY = "Blues", "Greys"  # one hue each, so that colour vision does not matter
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (BT.709)
_DARK = 0.52  # luminance; on darker cells the text is white
_GAP = 0.35  # columns between Algorithm 1 and the surrogate
_FLOORS = {"relative_error": 1e-5, "lad_slope": 1e-3, "pearson": 1e-5}  # as exact as the text shows


def draw_tables(numbers: dict[str, Any], title: str) -> Any:
    """Error, slope and r, darker where further from exact; share of subsequences in grey."""
    ks = numbers["iterations"]
    figure = new_figure(2 * (1.5 + 0.72 * (len(ks) + 1)), 7.4)
    axes = figure.subplots(2, 2).ravel()
    for ax, (name, heading) in zip(axes, TITLES.items(), strict=False):
        values = _floats(numbers["true"][name])
        texts = [[cell_text(name, value) for value in row] for row in numbers["true"][name]]
        _draw(ax, _distance(name, values), texts, numbers, _FAR, surrogate=True)
        ax.set_title(heading, **_heading())
    shares = np.array(numbers["share_of_subsequences"])
    texts = [list(map(per_cent, row)) for row in shares]
    _draw(axes[3], shares, texts, numbers, _MANY, surrogate=False)
    axes[3].set_title(
        f"Distinct subsequences drawn (% of 2$^{{{numbers['n']}}}$ - 1)", **_heading()
    )
    text = (
        f"{title}: sampled and exact ESVs of {numbers['n']} elements, means of"
        f" {numbers['n_sequences']} sequences. Pale blue: close to exact."
    )
    style.head(figure, text)
    return figure


def _draw(
    ax: Any,
    shade: np.ndarray,
    texts: list[list[str]],
    numbers: dict[str, Any],
    colours: str,
    *,
    surrogate: bool,
) -> None:
    """One table: a coloured cell with its number for each m and k, and the surrogate's column."""
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    known = shade[np.isfinite(shade)]
    low, high = (known.min(), known.max()) if len(known) else (1.0, 1.0)
    norm, scale = LogNorm(low, max(high, 1.5 * low)), colormaps[colours]
    every = [*range(len(ks)), len(ks) + _GAP]
    places = every[: shade.shape[1]]
    edge = len(ms) - 0.5
    for j, place in enumerate(places):
        extent = (place - 0.5, place + 0.5, edge, -0.5)
        ax.imshow(shade[:, j : j + 1], extent=extent, norm=norm, cmap=scale, aspect="auto")
        for i in range(len(ms)):
            shown = (
                np.array(scale(norm(shade[i, j]))[:3]) if np.isfinite(shade[i, j]) else np.ones(3)
            )
            colour = "white" if shown @ _LUMINANCE < _DARK else style.INK
            where = {"ha": "center", "va": "center", "fontsize": style.TEXT_SIZE}
            ax.text(place, i, texts[i][j], color=colour, **where)
    labels = [str(k) for k in ks] + ["Surrogate"] * surrogate
    ax.set_xticks(places, labels)
    ax.set_yticks(range(len(ms)), [str(m) for m in ms])
    ax.set_xlim(-0.5, every[-1] + 0.5)
    ax.set_ylim(edge, -0.5)
    ax.tick_params(length=0, labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("iterations k of Algorithm 1", x=_middle(ks, every), **style.TEXT)
    ax.set_ylabel("subsequences per scale m", **style.TEXT)


def _middle(ks: list[int], every: list[float]) -> float:
    """The middle of the columns of Algorithm 1, as a share of the axes."""
    return len(ks) / 2 / (every[-1] + 1)


def _distance(name: str, values: np.ndarray) -> np.ndarray:
    """How far from exact: the error itself, |slope - 1|, 1 - r; no less than the text can show."""
    far = values if name == "relative_error" else np.abs(1 - values)
    return np.maximum(far, _FLOORS[name])


def _floats(rows: list[list[float | None]]) -> np.ndarray:
    return np.array(rows, dtype=float)  # None becomes NaN


def _heading() -> dict[str, Any]:
    return {
        "loc": "left",
        "fontsize": style.TITLE_SIZE,
        "fontweight": "bold",
        "color": style.INK,
    }
