"""Heads that map element features to class logits: one per scale, or average consensus.

The head of scale s maps s elements, concatenated in temporal order, to class logits:

    f_s(x_1 .. x_s) = relu(concat(x_1 .. x_s) @ W1_s + b1_s) @ W2_s + b2_s

The product with the concatenation is a sum over positions, so all scales fit in arrays with a
leading scale axis, padded with zeros: one `vmap` evaluates them all. Average consensus is

    f(X) = mean over x in X of (x @ w + b)

Source: Price & Damen (2020), Section 3.2; Zhou et al. (2018), TRN; Wang et al. (2016), TSN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax import checks
from esv_jax.checks import message
from esv_jax.records import register_record, static_field

_IN_ORDER = "Heads must be given for every scale 1..n_max in order."
_REQUIRED = ("w1", "b1", "w2", "b2")
_LAYER = ("w", "b")
_LETTERS = {
    "w1": "(s*D, H)",
    "b1": "(H,)",
    "w2": "(H, C)",
    "b2": "(C,)",
    "w": "(H, H)",
    "b": "(H,)",
}


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class HiddenLayer:
    """A further hidden layer of every scale, `relu(h @ w + b)`.

    Attributes:
      w: (n_max, H, H).
      b: (n_max, H).
    """

    w: Array
    b: Array


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class HeadStack:
    """The heads of scales 1..n_max; row s - 1 of every array belongs to scale s.

    Attributes:
      w1: first layer, (n_max, n_max, D, H). `w1[s - 1, p]` maps the element at position p of a
        length-s subsequence; zero for p >= s.
      b1: (n_max, H).
      hidden: further hidden layers, possibly none.
      w2: last layer, (n_max, H, C).
      b2: (n_max, C).
      input_relu: whether features pass a ReLU before the first layer.
    """

    w1: Array
    b1: Array
    hidden: tuple[HiddenLayer, ...]
    w2: Array
    b2: Array
    input_relu: bool = static_field(default=False)

    @property
    def n_max(self) -> int:
        """Largest scale that has its own head."""
        return self.w1.shape[0]

    @property
    def feature_dim(self) -> int:
        """Feature width D."""
        return self.w1.shape[2]

    @property
    def hidden_dim(self) -> int:
        """Hidden width H."""
        return self.w1.shape[3]

    @property
    def n_classes(self) -> int:
        """Classes C."""
        return self.w2.shape[2]


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class TsnHead:
    """An average-consensus model on features.

    Attributes:
      w: (D, C).
      b: (C,).
      input_relu: whether features pass a ReLU before the layer.
    """

    w: Array
    b: Array
    input_relu: bool = static_field(default=False)

    @property
    def feature_dim(self) -> int:
        """Feature width D."""
        return self.w.shape[0]

    @property
    def n_classes(self) -> int:
        """Classes C."""
        return self.w.shape[1]


HeadArrays: TypeAlias = dict[str, Any]
"""The head of scale s: w1 (s*D, H), b1 (H,), w2 (H, C), b2 (C,), "hidden": layers {"w", "b"}."""


def head_logits(stack: HeadStack, s: int, x_sub: Array) -> Array:
    """Logits of one subsequence under the head of its length.

    Args:
      stack: the heads.
      s: scale, a Python int in 1..n_max.
      x_sub: the s elements in temporal order, (s, D).
    Returns:
      (C,).
    """
    s = checks.expect_int("s", s, minimum=1)
    checks.expect(s <= stack.n_max, "s", f"a scale in 1..{stack.n_max}", s)
    x_sub = checks.expect_floating("x_sub", x_sub)
    checks.expect_shape("x_sub", x_sub, (s, stack.feature_dim), f"({s}, {stack.feature_dim})")
    head = jax.tree.map(lambda leaf: leaf[s - 1], stack)
    return _logits(dataclasses.replace(head, w1=head.w1[:s]), x_sub)


def scale_logits(stack: HeadStack, elements: Array, mask: Array) -> Array:
    """Logits of one padded subsequence of each scale, all heads at once.

    Args:
      stack: the heads.
      elements: (n_max, n_max, D). Row s - 1 is a subsequence of s elements, then padding.
      mask: (n_max, n_max) bool, False for padding.
    Returns:
      (n_max, C).
    """
    return jax.vmap(_logits)(stack, jnp.where(mask[:, :, None], elements, 0))


def tsn_logits(head: TsnHead, x: Array, mask: Array) -> Array:
    """Logits of one sequence, the mean over its elements.

    Args:
      head: the model.
      x: (n, D).
      mask: (n,) bool, False for padding; at least one is True.
    Returns:
      (C,).
    """
    x = jnp.where(mask[:, None], x, 0)
    x = jax.nn.relu(x) if head.input_relu else x
    mean = x.sum(axis=0) / jnp.maximum(mask.sum(), 1).astype(x.dtype)  # linear: average first
    return jnp.matmul(mean, head.w, precision="highest") + head.b


def _logits(head: HeadStack, elements: Array) -> Array:
    """Logits of the head of one scale (no scale axis) on elements (p, D), padded with zeros."""
    if head.input_relu:
        elements = jax.nn.relu(elements)
    # Accelerators shorten float32 products by default, and differences of scores break first.
    h = jax.nn.relu(jnp.einsum("pd,pdh->h", elements, head.w1, precision="highest") + head.b1)
    for layer in head.hidden:
        h = jax.nn.relu(jnp.matmul(h, layer.w, precision="highest") + layer.b)
    return jnp.matmul(h, head.w2, precision="highest") + head.b2


def stack_heads(
    heads: Sequence[Mapping[str, object]] | Mapping[int, Mapping[str, object]],
    input_relu: bool = False,
) -> HeadStack:
    """Check per-scale heads and stack them into one `HeadStack`.

    Args:
      heads: one mapping per scale 1..n_max in order, or a mapping from scale to it: "w1"
        (s*D, H) whose rows are the concatenated elements in temporal order, "b1" (H,), "w2"
        (H, C), "b2" (C,), and optionally "hidden", a list of {"w": (H, H), "b": (H,)}.
      input_relu: whether features pass a ReLU before the first layer.
    Returns:
      The stack, in the precision of the arrays (double precision needs JAX's x64 mode).
    Raises:
      ValueError: missing scales or keys, wrong shapes, values that are not finite.
      TypeError: heads that are not mappings of floating-point arrays.
    """
    plain: list[HeadArrays] = []
    for s, (name, head) in enumerate(_in_scale_order(heads).items(), start=1):
        plain.append(_checked_head(name, head, s, plain[0] if plain else None))
    n_max, (d, h) = len(plain), plain[0]["w1"].shape
    dtype = np.result_type(*jax.tree.leaves(plain))  # one for all, so that layers compose
    for s, arrays in enumerate(plain, start=1):
        arrays["w1"] = np.pad(arrays["w1"].reshape(s, d, h), [(0, n_max - s), (0, 0), (0, 0)])
    stacked = jax.tree.map(lambda *each: jax.device_put(np.stack(each).astype(dtype)), *plain)
    return stack_of(stacked, bool(input_relu))


def stack_of(arrays: HeadArrays, input_relu: bool) -> HeadStack:
    """The stack of arrays that have the scale axis."""
    hidden = tuple(HiddenLayer(**layer) for layer in arrays["hidden"])
    return HeadStack(**(arrays | {"hidden": hidden}), input_relu=input_relu)


def head_arrays(tensors: Mapping[str, Any], prefix: str = "") -> HeadArrays:
    """The arrays of one head, or of a stack, from their names in a file, e.g. "hidden.0.w"."""
    head: HeadArrays = {name: tensors[prefix + name] for name in _REQUIRED}
    layers = range(sum(name.startswith(f"{prefix}hidden.") for name in tensors) // 2)
    head["hidden"] = [{k: tensors[f"{prefix}hidden.{i}.{k}"] for k in _LAYER} for i in layers]
    return head


def unstack_heads(stack: HeadStack) -> list[HeadArrays]:
    """The per-scale heads of a stack as NumPy arrays: the inverse of `stack_heads`."""
    arrays = jax.tree.map(np.asarray, stack)
    return [
        {
            "w1": arrays.w1[s - 1, :s].reshape(s * stack.feature_dim, stack.hidden_dim),
            "b1": arrays.b1[s - 1],
            "w2": arrays.w2[s - 1],
            "b2": arrays.b2[s - 1],
            "hidden": [{"w": layer.w[s - 1], "b": layer.b[s - 1]} for layer in arrays.hidden],
        }
        for s in range(1, stack.n_max + 1)
    ]


def _in_scale_order(heads: object) -> dict[str, object]:
    """The heads of scales 1..n_max, by their names in messages."""
    if isinstance(heads, Mapping) and not any(isinstance(key, str) for key in heads):
        missing = [s for s in range(1, len(heads) + 1) if s not in heads]
        if missing:
            expected = f"a head for every scale 1..{max(heads)}"
            got = f"none for scale {missing[0]} (scales {sorted(heads)})"
            raise ValueError(message("heads", expected, got))
        named = {f"heads[{s}]": heads[s] for s in range(1, len(heads) + 1)}
    elif isinstance(heads, Sequence) and not isinstance(heads, str):
        named = {f"heads[{i}]": head for i, head in enumerate(heads)}
    else:
        got, way_out = f"one {type(heads).__name__}", "One head alone is written [head]."
        raise TypeError(message("heads", "a list with one dict per scale", got, way_out))
    checks.expect(bool(named), "heads", "at least the head of scale 1", "none", _IN_ORDER)
    return named


def _checked_head(name: str, head: object, s: int, first: HeadArrays | None) -> HeadArrays:
    """The arrays of the head of scale s, with the sizes of `first`, the head of scale 1."""
    if not isinstance(head, Mapping):
        raise TypeError(message(name, "a dict of arrays", type(head).__name__))
    for key in head:
        checks.expect_choice(f"{name} key", key, (*_REQUIRED, "hidden"))
    checked = _arrays(name, head, _REQUIRED)
    checks.expect_shape(f"{name}.w1", checked["w1"], (None, None), "(s*D, H)")
    checks.expect_shape(f"{name}.w2", checked["w2"], (None, None), "(H, C)")
    groups = {f"{name}.hidden[{i}]": layer for i, layer in enumerate(head.get("hidden", ()))}
    groups = {place: _arrays(place, layer, _LAYER) for place, layer in groups.items()}
    checked["hidden"] = [*groups.values()]
    first = checked if first is None else first
    (d, h), c, n = first["w1"].shape, first["w2"].shape[-1], len(first["hidden"])
    expected = f"{n} further hidden layers, as at scale 1"
    checks.expect(len(groups) == n, f"{name}.hidden", expected, len(groups))
    shapes = {"w1": (s * d, h), "b1": (h,), "w2": (h, c), "b2": (c,), "w": (h, h), "b": (h,)}
    for place, group in (groups | {name: checked}).items():
        for key in (key for key in shapes if key in group):
            letters = f"{_LETTERS[key].replace('s', str(s))} = {shapes[key]}"
            way_out = _IN_ORDER if key == "w1" else "H and C are the same at every scale."
            checks.expect_shape(f"{place}.{key}", group[key], shapes[key], letters, way_out)
    return checked


def _arrays(name: str, group: Mapping[str, object], keys: Sequence[str]) -> HeadArrays:
    arrays: HeadArrays = {}
    for key in keys:
        if key not in group:
            got = f"no {key!r} ({', '.join(group)})"
            raise ValueError(message(name, "keys " + ", ".join(keys), got))
        array = checks.expect_floating(f"{name}.{key}", group[key])
        checks.expect_finite(f"{name}.{key}", array)
        arrays[key] = np.asarray(array)
    return arrays
