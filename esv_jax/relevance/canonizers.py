"""Canonizers: variables of a model -> variables of an equivalent model that rules suit better.

`lrp` folds a batch norm that follows a layer directly by itself. These functions do it once and
for all, for use elsewhere, and show what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from esv_jax.checks import expect, nearest


def fold_batch_norm(
    variables: Mapping[str, Any], pairs: Sequence[tuple[str, str]], epsilon: float = 1e-5
) -> dict[str, Any]:
    """Linen variables whose batch norms do nothing, folded into the layers before them.

        kernel' = kernel * scale / sqrt(var + epsilon)
        bias'   = (bias - mean) * scale / sqrt(var + epsilon) + norm's bias

    The batch norm is left with mean 0, variance 1 - epsilon, scale 1 and bias 0: the outputs of
    the model at evaluation are the same to rounding.

    Args:
      variables: {"params": ..., "batch_stats": ...}; left as it is.
      pairs: paths of a layer and of the batch norm right after it, e.g. ("conv1", "bn1") or
        ("block/conv", "block/bn"). The layer has a kernel with the output channels as its last
        axis, and a bias.
      epsilon: of the batch norms.
    Raises:
      ValueError: a path that is not there, a layer without a bias (there would be no place for
      the norm's), another number of channels.
    """
    folded = _copied(variables)
    params, stats = folded.get("params", {}), folded.get("batch_stats", {})
    for layer_path, norm_path in pairs:
        layer = _at(params, layer_path, "params")
        norm, stat = _at(params, norm_path, "params"), _at(stats, norm_path, "batch_stats")
        way_out = "Build the model with use_bias=True, the bias zero."
        got = f"only {sorted(layer)}"
        expect({"kernel", "bias"} <= set(layer), layer_path, "a kernel and a bias", got, way_out)
        channels, known = layer["kernel"].shape[-1], stat["mean"].shape
        expect(known == (channels,), norm_path, f"({channels},) channels", known)
        scale = norm.get("scale", jnp.ones_like(stat["mean"])) / jnp.sqrt(stat["var"] + epsilon)
        layer["kernel"] = layer["kernel"] * scale.reshape((1,) * (layer["kernel"].ndim - 1) + (-1,))
        layer["bias"] = (layer["bias"] - stat["mean"]) * scale + norm.get("bias", 0)
        stat["mean"] = jnp.zeros_like(stat["mean"])
        stat["var"] = jnp.full_like(stat["var"], 1 - epsilon)
        for name, value in (("scale", jnp.ones_like), ("bias", jnp.zeros_like)):
            if name in norm:
                norm[name] = value(norm[name])
    return folded


def _copied(tree: Any) -> Any:
    """The dictionaries copied, the arrays shared."""
    if isinstance(tree, Mapping):
        return {name: _copied(part) for name, part in tree.items()}
    return tree


def _at(tree: Any, path: str, collection: str) -> Any:
    """The part of a tree at a path like "block/conv"."""
    seen = ""
    for part in path.split("/"):
        known = list(tree) if isinstance(tree, Mapping) else []
        name = f"{collection}/{path}"
        way_out = nearest(part, known) or f"There are: {', '.join(map(str, known))}."
        expect(part in known, name, "a module of the model", f"no {part!r} in {seen!r}", way_out)
        tree, seen = tree[part], f"{seen}/{part}".strip("/")
    return tree
