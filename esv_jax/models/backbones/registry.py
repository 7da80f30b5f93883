"""The published image backbones by name, and the functions that extract features with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect, expect_choice, expect_floating, expect_int, expect_shape, message
from esv_jax.data.preprocessing import TRN_BNINCEPTION, TSN_RESNET50, Preprocessing
from esv_jax.models.backbones.bninception import BNInception
from esv_jax.models.backbones.conversion import (
    LAST,
    Variables,
    plain_names,
    state_from_variables,
    variables_from_state,
)
from esv_jax.models.backbones.resnet import ResNet50

SIDE = 224  # pixels, of the images that the published weights were trained on
N_OUTPUTS = 256  # features per frame of the paper's models


@dataclass(frozen=True)
class Backbone:
    """One architecture, as the paper's public code has it.

    Attributes:
      name: as in `BACKBONES`.
      module: the Linen module; its arguments are `n_outputs` and `dtype`.
      pooled_dim: features per frame where the last layer is left out.
      preprocessing: what the published weights expect to be done to frames.
      mark: an entry that state dicts of this architecture have, and others have not.
    """

    name: str
    module: Callable[..., nn.Module]
    pooled_dim: int
    preprocessing: Preprocessing
    mark: str


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "bninception": Backbone(
            "bninception", BNInception, 1024, TRN_BNINCEPTION, "conv1_7x7_s2.weight"
        ),
        "resnet50": Backbone("resnet50", ResNet50, 2048, TSN_RESNET50, "layer1.0.conv1.weight"),
    }
)


def build_backbone(
    name: str, n_outputs: int | None = N_OUTPUTS, dtype: Any = jnp.float32
) -> nn.Module:
    """The Linen module of a backbone; `init` and `apply` take images (n, 224, 224, 3).

    Args:
      name: "bninception" (the paper's TRN) or "resnet50" (its TSN).
      n_outputs: width of the last layer, 256 in the paper's models; None leaves it out.
      dtype: of the arithmetic, float32 or bfloat16; parameters are float32.
    Raises:
      ValueError: an unknown name, a width below 1, another dtype.
    """
    expect_choice("name", name, BACKBONES)
    if n_outputs is not None:
        n_outputs = expect_int("n_outputs", n_outputs, minimum=1)
    dtype = jnp.dtype(dtype)
    known = dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
    expect(known, "dtype", "float32 or bfloat16", dtype.name)
    return BACKBONES[name].module(n_outputs=n_outputs, dtype=dtype)


def recognise(state: Mapping[str, np.ndarray]) -> str:
    """The name of the backbone that a state dict belongs to, by the layers it has.

    Raises:
      ValueError: it is of none of them.
    """
    names = plain_names(state)
    for name, backbone in BACKBONES.items():
        if backbone.mark in names:
            return name
    expected = "a state dict of " + " or ".join(BACKBONES)
    raise ValueError(message("state dict", expected, ", ".join([*state][:3]) or "an empty one"))


def from_state_dict(
    name: str, state: Mapping[str, np.ndarray], *, last_layer: bool = True
) -> dict[str, Any]:
    """Linen variables from the weights of a public PyTorch model.

    The last layer is taken where the state dict has one, of whatever width; without it, features
    are the globally pooled channels. Wrappers and parts around the backbone are handled as
    `conversion.plain_names` says: prefixes such as `module.base_model.` are taken off, `fc` and
    `new_fc` are read as `last_linear`, `consensus.*` and `temporal_module.*` left out.

    Args:
      name: of the backbone; `recognise` tells it.
      state: {name: array} as PyTorch has it; counters of batches may be absent.
      last_layer: whether to take the last layer; to be refused where it only tells classes of
        images apart, as in weights trained on ImageNet.
    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: unknown or missing names, wrong shapes, values that are not finite; the entries
        are named.
      TypeError: arrays that are not floating-point.
    """
    plain = plain_names(state)
    if not last_layer:
        plain = {key: array for key, array in plain.items() if not key.startswith(f"{LAST}.")}
    n_outputs = None
    if any(key.startswith(f"{LAST}.") for key in plain):
        bias = np.shape(plain.get(f"{LAST}.bias", np.empty(N_OUTPUTS)))
        n_outputs = bias[0] if len(bias) == 1 else N_OUTPUTS
    return variables_from_state(_shapes(name, n_outputs), plain)


def to_state_dict(variables: Variables) -> dict[str, np.ndarray]:
    """Weights under the names, and in the layout, of the public PyTorch models."""
    return state_from_variables(variables)


def n_features(name: str, variables: Variables) -> int:
    """Features per frame, F: the width of the last layer, or of the pooled channels without it."""
    expect_choice("name", name, BACKBONES)
    return _n_outputs(variables) or BACKBONES[name].pooled_dim


def extractor(
    name: str, variables: Variables, dtype: Any = jnp.float32
) -> Callable[[jax.Array], jax.Array]:
    """A function from preprocessed frames (n, 224, 224, 3) to features (n, F) float32.

    Features are the outputs of the last layer where `variables` have one (256 in the paper's
    models, before any ReLU), and globally pooled channels (1024 or 2048) where not. The function
    is pure, and compiled once per n.

    Args:
      name: "bninception" or "resnet50".
      variables: of `from_state_dict`, `load_backbone` or the module's `init`.
      dtype: of the arithmetic. bfloat16 costs about 0.5 % of the largest feature.
    Raises:
      ValueError: an unknown name, variables of another architecture; from the function, frames of
        another shape.
      TypeError: from the function, frames that are not floating-point.
    """
    n_outputs = _n_outputs(variables)
    build_backbone(name, n_outputs, dtype)  # asks about the arguments
    wanted, found = (
        {"/".join(path): leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}
        for tree in (_shapes(name, n_outputs), dict(variables))
    )
    wrong = sorted({path for path, _ in wanted.items() ^ found.items()})
    got = f"others at {', '.join(wrong[:5])}"
    expect(not wrong, "variables", f"those of {name}", got)
    apply = _compiled(name, n_outputs, jnp.dtype(dtype))

    def extract(frames: jax.Array) -> jax.Array:
        frames = expect_floating("frames", frames, "Preprocess them first.")
        letters = f"(n, {SIDE}, {SIDE}, 3)"
        expect_shape("frames", frames, (None, SIDE, SIDE, 3), letters, "Channels come last.")
        return apply(variables, frames)

    return extract


def _n_outputs(variables: Variables) -> int | None:
    last = variables.get("params", {}).get(LAST)
    return None if last is None else int(last["bias"].shape[0])


@cache
def _shapes(name: str, n_outputs: int | None) -> dict[str, Any]:
    """Shapes of the variables of a backbone."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(build_backbone(name, n_outputs).init, jax.random.key(0), image)


@cache
def _compiled(name: str, n_outputs: int | None, dtype: Any) -> Callable[..., jax.Array]:
    return jax.jit(build_backbone(name, n_outputs, dtype).apply)
