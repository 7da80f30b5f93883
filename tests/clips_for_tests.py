"""A tiny 3D network, for the commands that explain clips."""

import jax.numpy as jnp

from esv_jax.models.clip_model import ClipCNN, ClipModel
from tests.conftest import drawn_variables


def tiny_network(names, seed=1, n_frames=8):
    """A `ClipModel` of clips (8, 64, 64, 3) with these class names and drawn weights."""
    module = ClipCNN(n_classes=len(names), widths=(2, 2, 2, 2))
    variables = drawn_variables(module, jnp.zeros((1, n_frames, 64, 64, 3)), seed=seed)
    settings = {"n_classes": len(names), "widths": [2, 2, 2, 2]}
    return ClipModel("clip_cnn", settings, variables, tuple(names), n_frames)
