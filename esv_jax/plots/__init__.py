"""Figures of Element Shapley Values, of relevance and of masks.

They need the `plots` extra; no display, no global settings.
"""

from esv_jax.plots.elements import plot_contrast, plot_elements, plot_sequence
from esv_jax.plots.figures import save_figure
from esv_jax.plots.frame_strip import plot_frame_strip
from esv_jax.plots.overlay import render_overlay
from esv_jax.plots.perturbation import (
    overlay_mask,
    plot_descent,
    plot_perturbation_strip,
    render_clips,
    render_perturbation,
)
from esv_jax.plots.relevance import (
    overlay_relevance,
    plot_relevance_strip,
    render_relevance,
)

__all__ = [
    "overlay_mask",
    "overlay_relevance",
    "plot_contrast",
    "plot_descent",
    "plot_elements",
    "plot_frame_strip",
    "plot_perturbation_strip",
    "plot_relevance_strip",
    "plot_sequence",
    "render_clips",
    "render_overlay",
    "render_perturbation",
    "render_relevance",
    "save_figure",
]
