"""Figures of Element Shapley Values. Needs the `plots` extra; no display, no global settings."""

from esv_jax.plots.elements import plot_contrast, plot_elements, plot_sequence
from esv_jax.plots.figures import save_figure
from esv_jax.plots.frame_strip import plot_frame_strip
from esv_jax.plots.overlay import render_overlay

__all__ = [
    "plot_contrast",
    "plot_elements",
    "plot_frame_strip",
    "plot_sequence",
    "render_overlay",
    "save_figure",
]
