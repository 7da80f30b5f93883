"""A small network with drawn weights for clips of 8 frames of 20 x 20 pixels and 4 classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.models.clip_model import ClipCNN, ClipModel


@pytest.fixture(scope="module")
def network():
    widths = (4, 4, 4, 4)
    module = ClipCNN(n_classes=4, widths=widths)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 20, 20, 3)))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )
    settings = {"n_classes": 4, "widths": list(widths)}
    return ClipModel("clip_cnn", settings, variables, tuple("abcd"), 8)
