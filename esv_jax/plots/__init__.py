"""Figures of Element Shapley Values and of relevance.

They need the `plots` extra; no display, no global settings.
"""

from esv_jax.plots.elements import plot_contrast, plot_elements, plot_sequence
from esv_jax.plots.figures import save_figure
from esv_jax.plots.frame_strip import plot_frame_strip
from esv_jax.plots.overlay import render_overlay
from esv_jax.plots.relevance import (
    overlay_relevance,
    plot_relevance_strip,
    render_relevance,
)

__all__ = [
    "overlay_relevance",
    "plot_contrast",
    "plot_elements",
    "plot_frame_strip",
    "plot_relevance_strip",
    "plot_sequence",
    "render_overlay",
    "render_relevance",
    "save_figure",
]
