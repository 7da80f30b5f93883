"""Published networks and their PyTorch state dicts, converted to Linen variables and back.

A name of a state dict is a path of the module, written differently: `layer1.0.bn1.running_mean` is
`batch_stats / layer1_0 / bn1 / mean`, `inception_3a_1x1.weight` is `params / inception_3a / 1x1 /
kernel`. Kernels (out, in, ...) become (..., in, out), dense layers (out, in) become (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect, first_few, message
from esv_jax.data.preprocessing import Preprocessing
from esv_jax.models.tensor_files import Tensors, Variables

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_NUMBERED = re.compile(r"(layer\d|conv\d|stem|downsample)(_\d+)+")
_COUNTER = "num_batches_tracked"  # unused in evaluation
_WRAPPERS = ("module", "model", "base_model", "backbone", "net", "c3d")
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class PublishedNetwork:
    """An architecture with published weights.

    Attributes:
      module: the Linen module; its arguments are `dtype`, and `n_outputs` or `n_classes`.
      preprocessing: of the frames that the published weights were trained on.
      mark: an entry that only state dicts of this architecture have.
      last: the name of the last layer.
      pooled_dim: features per frame of a backbone without the last layer.
      n_frames: of the clips that a 3D network was trained on.
    """

    module: Callable[..., nn.Module]
    preprocessing: Preprocessing
    mark: str
    last: str
    pooled_dim: int = 0
    n_frames: int = 1


def recognise_network(
    state: Tensors, networks: Mapping[str, PublishedNetwork], **names: Collection[str]
) -> str:
    """The name, in `networks`, of the network that a state dict belongs to.

    Args:
      state: as PyTorch has it.
      networks: candidates by name.
      names: arguments of `plain_names`.
    Raises:
      ValueError: a state dict of another network.
    """
    plain = plain_names(state, **names)
    found = [name for name, network in networks.items() if network.mark in plain]
    got = ", ".join([*state][:3]) or "an empty one"
    expect(bool(found), "state dict", "a state dict of " + " or ".join(networks), got)
    return found[0]


def plain_names(
    state: Tensors, last_names: Collection[str] = (), dropped: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """A state dict without the names of wrappers.

    Leading `module.`, `model.`, `base_model.` and similar (of parallel training, and of models
    that contain a backbone) are removed, in any number and order; so are counters of batches.

    Args:
      state: {name: array}.
      last_names: names of a last layer that become `last_linear`.
      dropped: prefixes, after removing wrappers, of entries to leave out.
    Raises:
      ValueError: two entries with the same plain name.
    """
    plain: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for full, array in state.items():
        parts = full.split(".")
        while len(parts) > 1 and parts[0] in _WRAPPERS:
            parts = parts[1:]
        if len(parts) == 2 and parts[0] in last_names:
            parts = ["last_linear", parts[1]]
        name = ".".join(parts)
        if name.startswith(tuple(dropped)) or parts[-1] == _COUNTER:
            continue
        if name in plain:
            got = f"{origin[name]!r} and {full!r}"
            raise ValueError(message("state dict", f"one entry for {name!r}", got))
        plain[name], origin[name] = array, full
    return plain


def last_width(plain: Tensors, last: str) -> int | None:
    """Width of the last layer of a state dict; None without a bias vector."""
    shape = np.shape(plain.get(f"{last}.bias", 0))
    return shape[0] if len(shape) == 1 else None


@cache
def variable_shapes(module: nn.Module, shape: tuple[int, ...]) -> Variables:
    """Shapes of the variables of a module with float32 input of this shape."""
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), inputs)


def torch_name(path: tuple[str, ...]) -> str:
    """The state dict's name of a leaf of the variables, e.g. ("params", "conv1", "kernel")."""
    *modules, leaf = path[1:]
    if modules[0].startswith("inception_"):
        modules = ["_".join(modules)]
    else:
        modules = [n.replace("_", ".") if _NUMBERED.fullmatch(n) else n for n in modules]
    return ".".join([*modules, _LEAVES[path[0], leaf]])


def variables_from_state(shapes: Variables, state: Tensors) -> dict[str, Any]:
    """Linen variables filled from a state dict with plain names.

    Args:
      shapes: the variables of the module, or their `jax.eval_shape`.
      state: arrays by name, as returned by `plain_names`.
    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: unknown names, missing names, arrays of another shape or not finite.
      TypeError: arrays that are not floating-point.
    """
    leaves = flax.traverse_util.flatten_dict(dict(shapes))
    paths = {torch_name(path): path for path in leaves}
    missing = [name for name in paths if name not in state]
    got = f"no {first_few(missing, _SHOWN)}"
    expect(not missing, "state dict", "an entry for every layer", got)
    unknown = first_few([name for name in state if name not in paths], _SHOWN)
    way_out = "Leave out what is no part of it."
    expect(not unknown, "state dict", "names of this model", unknown, way_out)
    wrong = [
        f"{name} {np.shape(state[name])} for {torch_shape(leaves[path].shape)}"
        for name, path in paths.items()
        if np.shape(state[name]) != torch_shape(leaves[path].shape)
    ]
    expect(not wrong, "state dict", "the shapes of this model", first_few(wrong, _SHOWN))
    filled = {}
    for name, path in paths.items():
        array = np.asarray(state[name])
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(message(name, "floating-point weights", f"dtype {array.dtype}"))
        expect(bool(np.isfinite(array).all()), name, "finite weights", "NaN or infinity")
        moved = array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array
        filled[path] = jnp.asarray(moved, jnp.float32)
    return flax.traverse_util.unflatten_dict(filled)


def to_state_dict(variables: Variables) -> dict[str, np.ndarray]:
    """Weights under the names, and in the layout, of the public PyTorch models."""
    leaves = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)))
    state = {}
    for path, leaf in leaves.items():
        array = np.asarray(leaf)
        axes = [*range(array.ndim)]
        moved = array.transpose(axes[:-3:-1] + axes[:-2])  # (..., in, out) to (out, in, ...)
        state[torch_name(path)] = np.ascontiguousarray(moved)
    return state


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in a state dict of an array of the variables."""
    return (*shape[:-3:-1], *shape[:-2])
