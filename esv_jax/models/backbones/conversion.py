"""State dicts of the public PyTorch models to Linen variables, and back.

A name of a state dict is a path of the module, written differently: `layer1.0.bn1.running_mean` is
`batch_stats / layer1_0 / bn1 / mean`, `inception_3a_1x1.weight` is `params / inception_3a / 1x1 /
kernel`. Kernels (out, in, ...) turn to (..., in, out), last layers (out, in) to (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect, first_few, message

Variables = Mapping[str, Any]
Path = tuple[str, ...]

LAST = "last_linear"
LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_COUNTER = "num_batches_tracked"  # of no use in evaluation
_WRAPPERS = ("module", "model", "base_model", "backbone")
_LAST_NAMES = ("fc", "new_fc")
_HEADS = ("consensus.", "temporal_module.")
_SHOWN = 5  # names in a message


def torch_name(path: Path) -> str:
    """The state dict's name of a leaf of the variables, e.g. ("params", "conv1", "kernel")."""
    *modules, leaf = path[1:]
    if modules[0].startswith("inception_"):
        modules = ["_".join(modules)]
    modules = [re.sub(r"^(layer\d|downsample)_(\d+)$", r"\1.\2", name) for name in modules]
    return ".".join([*modules, LEAVES[path[0], leaf]])


def plain_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under the names that the backbone alone has.

    Leading `module.`, `model.`, `base_model.` and `backbone.` (of parallel training, and of models
    that hold a backbone) are taken off, in any number and order. Last layers called `fc` or
    `new_fc` become `last_linear`. What belongs to a head (`consensus.`, `temporal_module.`) and
    counters of batches are left out.

    Raises:
      ValueError: two entries that come to the same name.
    """
    plain: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for full, array in state.items():
        parts = full.split(".")
        while len(parts) > 1 and parts[0] in _WRAPPERS:
            parts = parts[1:]
        parts = [LAST if len(parts) == 2 and parts[0] in _LAST_NAMES else parts[0], *parts[1:]]
        name = ".".join(parts)
        if name.startswith(_HEADS) or parts[-1] == _COUNTER:
            continue
        if name in plain:
            got = f"{origin[name]!r} and {full!r}"
            raise ValueError(message("state dict", f"one entry for {name!r}", got))
        plain[name], origin[name] = array, full
    return plain


def variables_from_state(
    shapes: Variables,
    state: Mapping[str, np.ndarray],
    name_of: Callable[[Path], str] = torch_name,
) -> dict[str, Any]:
    """Linen variables filled from a state dict with plain names.

    Args:
      shapes: the variables of the module, or what `jax.eval_shape` gives for them.
      state: arrays by name, as of `plain_names`.
      name_of: the state dict's name of a leaf, by its path.
    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: unknown names, names missing, arrays of another shape or not finite.
      TypeError: arrays that are not floating-point.
    """
    leaves = flax.traverse_util.flatten_dict(dict(shapes))
    wanted = {name_of(path): path for path in leaves}
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    expect(
        not missing, "state dict", "an entry for every layer", f"no {first_few(missing, _SHOWN)}"
    )
    way_out = "Leave out what is no part of it."
    expect(not unknown, "state dict", "names of this model", first_few(unknown, _SHOWN), way_out)
    found = {path: _to_linen(state[name]) for name, path in wanted.items()}
    wrong = [
        f"{name} {np.shape(state[name])} for {_torch_shape(leaves[path].shape)}"
        for name, path in wanted.items()
        if found[path].shape != leaves[path].shape
    ]
    expect(not wrong, "state dict", "the shapes of this model", first_few(wrong, _SHOWN))
    for name, path in wanted.items():
        if not np.issubdtype(found[path].dtype, np.floating):
            raise TypeError(message(name, "floating-point weights", f"dtype {found[path].dtype}"))
        expect(bool(np.isfinite(found[path]).all()), name, "finite weights", "NaN or infinity")
    filled = {path: jnp.asarray(array, jnp.float32) for path, array in found.items()}
    return flax.traverse_util.unflatten_dict(filled)


def state_from_variables(
    variables: Variables, name_of: Callable[[Path], str] = torch_name
) -> dict[str, np.ndarray]:
    """The inverse: arrays by the names, and in the layout, of the public state dicts."""
    leaves = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)))
    return {name_of(path): _to_torch(leaf) for path, leaf in leaves.items()}


def _to_linen(array: np.ndarray) -> np.ndarray:
    """(out, in, ...) to (..., in, out)."""
    array = np.asarray(array)
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def _to_torch(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    last = array.ndim - 1
    moved = array.transpose(last, last - 1, *range(last - 1)) if array.ndim > 1 else array
    return np.ascontiguousarray(moved)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-3:-1], *shape[:-2])
