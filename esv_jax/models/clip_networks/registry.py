"""The published 3D networks by name, and the way from their public weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect_choice, message
from esv_jax.data.preprocessing import Preprocessing
from esv_jax.models.backbones.conversion import (
    LEAVES,
    Path,
    Variables,
    state_from_variables,
    variables_from_state,
)
from esv_jax.models.clip_networks.c3d import C3D
from esv_jax.models.clip_networks.r2plus1d import R2Plus1D18

_WRAPPERS = ("module", "model", "base_model", "backbone", "net", "c3d")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ClipNetwork:
    """One architecture.

    Attributes:
      name: as in `CLIP_NETWORKS`. module: the Linen module; its arguments are `n_classes`, `dtype`.
      n_frames: of the clips that the published weights were trained on.
      preprocessing: what they expect to be done to frames; of C3D, that of the UCF-101 weights.
      last: the name of the last layer.
    """

    name: str
    module: Callable[..., nn.Module]
    n_frames: int
    preprocessing: Preprocessing
    last: str


_MEAN, _STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # of Kinetics
CLIP_NETWORKS: Mapping[str, ClipNetwork] = MappingProxyType(
    {
        "r2plus1d_18": ClipNetwork(
            "r2plus1d_18", R2Plus1D18, 16, Preprocessing(128, 112, 1.0, "RGB", _MEAN, _STD), "fc"
        ),
        "c3d": ClipNetwork(
            "c3d", C3D, 16, Preprocessing(128, 112, 255.0, "BGR", (90.0, 98.0, 102.0)), "fc8"
        ),
    }
)


def recognise_clip_network(state: Mapping[str, np.ndarray]) -> str:
    """The name of the network that a state dict belongs to, by its last layer and its first.

    Raises:
      ValueError: it is of none of them.
    """
    names = set(_plain(state))
    for name, mark in (("r2plus1d_18", "stem.0.weight"), ("c3d", "conv5b.weight")):
        if mark in names:
            return name
    expected = "a state dict of " + " or ".join(CLIP_NETWORKS)
    raise ValueError(message("state dict", expected, ", ".join([*state][:3]) or "an empty one"))


def clip_network_from_state_dict(
    name: str, state: Mapping[str, np.ndarray]
) -> tuple[nn.Module, dict[str, Any]]:
    """The module and its variables from the weights of a public PyTorch model.

        state = ej.checkpoints.load_torch("r2plus1d_18.pth")
        module, variables = clip_network_from_state_dict("r2plus1d_18", state)
        logits = module.apply(variables, clips)

    Args:
      name: "r2plus1d_18" (torchvision's layout) or "c3d" (`conv1` ... `conv5b`, `fc6` ... `fc8`);
        `recognise_clip_network` tells it.
      state: {name: array} as PyTorch has it. Leading `module.`, `model.` and the like are taken
        off; counters of batches may be there or not.
    Returns:
      The Linen module, with as many classes as the last layer has, and
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: an unknown name, unknown or missing entries, wrong shapes, values that are not
      finite; the entries are named. TypeError: arrays that are not floating-point.
    """
    expect_choice("name", name, CLIP_NETWORKS)
    network, plain = CLIP_NETWORKS[name], _plain(state)
    bias = np.shape(plain.get(f"{network.last}.bias", np.empty(1)))
    module = network.module(n_classes=bias[0] if len(bias) == 1 else 1)
    return module, variables_from_state(_shapes(module, network), plain, _torch_name)


def clip_network_to_state_dict(variables: Variables) -> dict[str, np.ndarray]:
    """Weights under the names, and in the layout, of the public PyTorch models."""
    return state_from_variables(variables, _torch_name)


def _torch_name(path: Path) -> str:
    """The state dict's name of a leaf, e.g. of ("params", "layer1_0", "conv1_1", "scale")."""
    *modules, leaf = path[1:]
    return ".".join([*modules, ""]).replace("_", ".") + LEAVES[path[0], leaf]


def _plain(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict without wrappers and counters."""
    plain: dict[str, np.ndarray] = {}
    for full, array in state.items():
        parts = full.split(".")
        while len(parts) > 1 and parts[0] in _WRAPPERS:
            parts = parts[1:]
        name = ".".join(parts)
        if parts[-1] == _COUNTER:
            continue
        if name in plain:
            raise ValueError(message("state dict", f"one entry for {name!r}", f"{full!r} too"))
        plain[name] = array
    return plain


@cache
def _shapes(module: nn.Module, network: ClipNetwork) -> dict[str, Any]:
    """Shapes of the variables of a network."""
    side = network.preprocessing.crop
    clip = (1, network.n_frames, side, side, 3)
    struct = jax.ShapeDtypeStruct(clip, jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), struct)
