"""Figures of Element Shapley Values. Needs the `plots` extra; no display, no global settings."""

from esv_jax.plots.elements import plot_contrast, plot_elements, plot_sequence
from esv_jax.plots.figures import save_figure

__all__ = ["plot_contrast", "plot_elements", "plot_sequence", "save_figure"]
