"""Figures of Element Shapley Values, of relevance and of masks.

They need the `plots` extra. No display is opened and no global setting changed. Figures of single
methods (`plots.relevance`, `plots.perturbation`, ...) are in their modules.
"""

from esv_jax.plots.curves import plot_discard_curves
from esv_jax.plots.elements import (
    plot,
    plot_contrast,
    plot_elements,
    plot_sequence,
    plot_timeline,
)
from esv_jax.plots.heat_maps import plot_method_grid, plot_scale_profile
from esv_jax.plots.interactions import plot_interaction_arcs, plot_interactions
from esv_jax.plots.perturbation import plot_perturbation_strip
from esv_jax.plots.positions import plot_positions
from esv_jax.plots.relevance import plot_relevance_strip
from esv_jax.plots.style import save_figure
from esv_jax.plots.video import plot_frame_strip, render_overlay

__all__ = [
    "plot",
    "plot_contrast",
    "plot_discard_curves",
    "plot_elements",
    "plot_frame_strip",
    "plot_interaction_arcs",
    "plot_interactions",
    "plot_method_grid",
    "plot_perturbation_strip",
    "plot_positions",
    "plot_relevance_strip",
    "plot_scale_profile",
    "plot_sequence",
    "plot_timeline",
    "render_overlay",
    "save_figure",
]
