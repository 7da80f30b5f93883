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
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax import checks
from esv_jax.checks import message
from esv_jax.records import register_record, static_field

_IN_ORDER = "Heads must be given for every scale 1..n_max in order."
_REQUIRED = ("w1", "b1", "w2", "b2")


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


class LayerArrays(TypedDict):
    """A further hidden layer of one scale: w (H, H), b (H,)."""

    w: np.ndarray
    b: np.ndarray


class HeadArrays(TypedDict):
    """The head of scale s: w1 (s*D, H), b1 (H,), w2 (H, C), b2 (C,), further hidden layers."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    hidden: list[LayerArrays]


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
    named = _in_scale_order(heads)
    plain = [_checked_head(name, head) for name, head in named]
    for s, ((name, _), head) in enumerate(zip(named, plain, strict=True), start=1):
        _expect_sizes(name, head, s, plain[0])

    n_max, (d, h) = len(plain), plain[0]["w1"].shape
    dtype = np.result_type(*jax.tree.leaves(plain))  # one for all, so that layers compose
    for s, head in enumerate(plain, start=1):
        w1 = head["w1"].reshape(s, d, h)
        head["w1"] = np.pad(w1, [(0, n_max - s), (0, 0), (0, 0)])
    stacked = jax.tree.map(lambda *arrays: jax.device_put(np.stack(arrays).astype(dtype)), *plain)
    hidden = tuple(HiddenLayer(**layer) for layer in stacked["hidden"])
    arrays = {name: stacked[name] for name in _REQUIRED}
    return HeadStack(**arrays, hidden=hidden, input_relu=bool(input_relu))


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


def _in_scale_order(heads: object) -> list[tuple[str, object]]:
    """The heads of scales 1..n_max, each with its name in messages."""
    if isinstance(heads, Mapping) and not any(isinstance(key, str) for key in heads):
        for s in range(1, len(heads) + 1):
            if s not in heads:
                expected = f"a head for every scale 1..{max(heads)}"
                got = f"none for scale {s} (scales {sorted(heads)})"
                raise ValueError(message("heads", expected, got))
        named = [(f"heads[{s}]", heads[s]) for s in range(1, len(heads) + 1)]
    elif isinstance(heads, Sequence) and not isinstance(heads, str):
        named = [(f"heads[{i}]", head) for i, head in enumerate(heads)]
    else:
        got = f"one {type(heads).__name__}"
        way_out = "One head alone is written [head]."
        raise TypeError(message("heads", "a list with one dict per scale", got, way_out))
    checks.expect(bool(named), "heads", "at least the head of scale 1", "none", _IN_ORDER)
    return named


def _checked_head(name: str, head: object) -> HeadArrays:
    """The arrays of one head, each floating-point and finite, under the expected names."""
    if not isinstance(head, Mapping):
        raise TypeError(message(name, "a dict of arrays", type(head).__name__))
    for key in head:
        checks.expect_choice(f"{name} key", key, (*_REQUIRED, "hidden"))
    w1, b1, w2, b2 = _arrays(name, head, _REQUIRED)
    hidden: list[LayerArrays] = []
    for i, layer in enumerate(head.get("hidden", ())):
        w, b = _arrays(f"{name}.hidden[{i}]", layer, ("w", "b"))
        hidden.append({"w": w, "b": b})
    checks.expect_shape(f"{name}.w1", w1, (None, None), "(s*D, H)")
    checks.expect_shape(f"{name}.w2", w2, (None, None), "(H, C)")
    return {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "hidden": hidden}


def _arrays(name: str, group: Mapping[str, object], keys: Sequence[str]) -> list[np.ndarray]:
    """The arrays under `keys`, in this order."""
    arrays = []
    for key in keys:
        if key not in group:
            got = f"no {key!r} ({', '.join(group)})"
            raise ValueError(message(name, "keys " + ", ".join(keys), got))
        array = checks.expect_floating(f"{name}.{key}", group[key])
        checks.expect_finite(f"{name}.{key}", array)
        arrays.append(np.asarray(array))
    return arrays


def _expect_sizes(name: str, head: HeadArrays, s: int, first: HeadArrays) -> None:
    """Refuse a head whose shapes are not those of scale s with the sizes of scale 1, `first`."""
    (d, h), c = first["w1"].shape, first["w2"].shape[-1]
    shared = "H and C are the same at every scale."
    letters = f"({s}*D, H) = ({s * d}, {h})"
    checks.expect_shape(f"{name}.w1", head["w1"], (s * d, h), letters, _IN_ORDER)
    checks.expect_shape(f"{name}.b1", head["b1"], (h,), f"(H,) = ({h},)", shared)
    checks.expect_shape(f"{name}.w2", head["w2"], (h, c), f"(H, C) = ({h}, {c})", shared)
    checks.expect_shape(f"{name}.b2", head["b2"], (c,), f"(C,) = ({c},)", shared)
    n, got = len(first["hidden"]), len(head["hidden"])
    expected = f"{n} further hidden layers, as at scale 1"
    checks.expect(got == n, f"{name}.hidden", expected, got)
    for i, layer in enumerate(head["hidden"]):
        layer_name = f"{name}.hidden[{i}]"
        checks.expect_shape(f"{layer_name}.w", layer["w"], (h, h), f"(H, H) = ({h}, {h})", shared)
        checks.expect_shape(f"{layer_name}.b", layer["b"], (h,), f"(H,) = ({h},)", shared)
