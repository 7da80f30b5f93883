"""Figures of Element Shapley Values and of relevance.

They need the `plots` extra. Figures have no window and change no global setting; `save_figure`
writes them, of axes `ax.figure`. Other figures of single methods (`plots.perturbation`,
`plots.curves`, ...) are in their modules.
"""

from esv_jax.plots import perturbation as perturbation
from esv_jax.plots.curves import plot_discard_curves
from esv_jax.plots.elements import (
    plot,
    plot_contrast,
    plot_elements,
    plot_sequence,
    plot_timeline,
)
from esv_jax.plots.heat_maps import plot_interactions, plot_scale_profile
from esv_jax.plots.interactions import plot_interaction_arcs
from esv_jax.plots.positions import plot_positions
from esv_jax.plots.relevance import plot_relevance_strip
from esv_jax.plots.strips import plot_frame_strip
from esv_jax.plots.style import save_figure
from esv_jax.plots.video import render_overlay

__all__ = [
    "plot",
    "plot_contrast",
    "plot_discard_curves",
    "plot_elements",
    "plot_frame_strip",
    "plot_interaction_arcs",
    "plot_interactions",
    "plot_positions",
    "plot_relevance_strip",
    "plot_scale_profile",
    "plot_sequence",
    "plot_timeline",
    "render_overlay",
    "save_figure",
]
