"""Figures of Element Shapley Values, of relevance and of masks.

They need the `plots` extra; no display, no global settings.
"""

from esv_jax.plots.approximation import plot_approximation
from esv_jax.plots.comparison import plot_method_grid
from esv_jax.plots.curves import plot_discard_curves
from esv_jax.plots.elements import plot_contrast, plot_elements, plot_sequence
from esv_jax.plots.figures import save_figure
from esv_jax.plots.frame_strip import plot_frame_strip
from esv_jax.plots.glance import plot
from esv_jax.plots.interactions import plot_interaction_arcs, plot_interactions
from esv_jax.plots.masks import overlay_mask
from esv_jax.plots.overlay import render_overlay
from esv_jax.plots.perturbation import (
    plot_descent,
    plot_perturbation_strip,
    render_perturbation,
)
from esv_jax.plots.pictures import render_clips
from esv_jax.plots.positions import plot_pairwise_matrix, plot_positions
from esv_jax.plots.relevance import (
    overlay_relevance,
    plot_relevance_strip,
    render_relevance,
)
from esv_jax.plots.scales import plot_scale_profile
from esv_jax.plots.timeline import plot_timeline

__all__ = [
    "overlay_mask",
    "overlay_relevance",
    "plot",
    "plot_approximation",
    "plot_contrast",
    "plot_descent",
    "plot_discard_curves",
    "plot_elements",
    "plot_frame_strip",
    "plot_interaction_arcs",
    "plot_interactions",
    "plot_method_grid",
    "plot_pairwise_matrix",
    "plot_perturbation_strip",
    "plot_positions",
    "plot_relevance_strip",
    "plot_scale_profile",
    "plot_sequence",
    "plot_timeline",
    "render_clips",
    "render_overlay",
    "render_perturbation",
    "render_relevance",
    "save_figure",
]
