"""Heads of every scale in one padded stack: what it holds, and what it predicts.

The head of scale s maps s elements, concatenated in temporal order, to class logits:

    f_s(x_1 .. x_s) = relu(concat(x_1 .. x_s) @ W1_s + b1_s) @ W2_s + b2_s

The product with the concatenation is a sum over positions, so all scales fit in arrays with a
leading scale axis and zeros where a position does not exist: one `vmap` evaluates them all.
Source: Price & Damen (2020), Section 3.2; the heads are those of Zhou et al. (2018), TRN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from esv_jax import checks

_IN_ORDER = "Heads must be given for every scale 1..n_max in order."
_REQUIRED = ("w1", "b1", "w2", "b2")


class HiddenLayer(struct.PyTreeNode):
    """A further hidden layer of every scale, `relu(h @ w + b)`.

    Attributes:
      w: (n_max, H, H).
      b: (n_max, H).
    """

    w: jax.Array
    b: jax.Array


class HeadStack(struct.PyTreeNode):
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

    w1: jax.Array
    b1: jax.Array
    hidden: tuple[HiddenLayer, ...]
    w2: jax.Array
    b2: jax.Array
    input_relu: bool = struct.field(pytree_node=False, default=False)

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


def head_logits(stack: HeadStack, s: int, x_sub: jax.Array) -> jax.Array:
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
    return _logits(head.replace(w1=head.w1[:s]), x_sub)


def padded_head_logits(
    stack: HeadStack, scale: jax.Array | int, elements: jax.Array, mask: jax.Array
) -> jax.Array:
    """Logits of one padded subsequence; `scale` may be traced, so this can be mapped over it.

    Args:
      stack: the heads.
      scale: () int in 1..n_max, the number of elements that are there.
      elements: (n_max, D), the elements in temporal order, then padding of any value.
      mask: (n_max,) bool, True for the first `scale` rows.
    Returns:
      (C,), `head_logits(stack, scale, elements[:scale])`. Padding has no gradient.
    Cost: mapped over `scale`, every subsequence gathers its head; `scale_logits` does not.
    """
    head = jax.tree.map(lambda leaf: leaf[scale - 1], stack)
    return _logits(head, jnp.where(mask[:, None], elements, 0))


def scale_logits(stack: HeadStack, elements: jax.Array, mask: jax.Array) -> jax.Array:
    """Logits of one padded subsequence of each scale, all heads at once.

    Args:
      stack: the heads.
      elements: (n_max, n_max, D). Row s - 1 is a subsequence of s elements, then padding.
      mask: (n_max, n_max) bool, True where an element is there.
    Returns:
      (n_max, C).
    """
    return jax.vmap(_logits)(stack, jnp.where(mask[:, :, None], elements, 0))


def _logits(head: HeadStack, elements: jax.Array) -> jax.Array:
    """The head of one scale (no scale axis) on its elements (p, D), zeros where none is there."""
    if head.input_relu:
        elements = jax.nn.relu(elements)
    # Accelerators shorten float32 products by default, and differences of scores break first.
    h = jax.nn.relu(jnp.einsum("pd,pdh->h", elements, head.w1, precision="highest") + head.b1)
    for layer in head.hidden:
        h = jax.nn.relu(jnp.matmul(h, layer.w, precision="highest") + layer.b)
    return jnp.matmul(h, head.w2, precision="highest") + head.b2


def stack_heads(
    heads: Sequence[Mapping[str, Any]] | Mapping[int, Mapping[str, Any]], input_relu: bool = False
) -> HeadStack:
    """Stack per-scale heads, checked, into one `HeadStack`.

    Args:
      heads: one mapping per scale 1..n_max in order, or a mapping from scale to it: "w1"
        (s*D, H) whose rows are the concatenated elements in temporal order, "b1" (H,), "w2"
        (H, C), "b2" (C,), and optionally "hidden", a list of {"w": (H, H), "b": (H,)}.
      input_relu: whether features pass a ReLU before the first layer.
    Returns:
      The stack, in the precision of the arrays (double precision needs JAX's x64 mode).
    """
    named = _in_scale_order(heads)
    plain = [_checked_arrays(name, head) for name, head in named]
    rows, hidden_dim = plain[0]["w1"].shape  # scale 1: the rows are D
    n_classes = plain[0]["w2"].shape[-1]
    n_hidden = len(plain[0]["hidden"])
    for s, ((name, _), head) in enumerate(zip(named, plain, strict=True), start=1):
        _expect_sizes(name, head, s, rows, hidden_dim, n_classes, n_hidden)

    n_max = len(plain)
    dtype = np.result_type(*jax.tree.leaves(plain))  # one for all, so that layers compose
    w1 = np.zeros((n_max, n_max, rows, hidden_dim), dtype)
    for s, head in enumerate(plain, start=1):
        w1[s - 1, :s] = head["w1"].reshape(s, rows, hidden_dim)

    def over_scales(arrays: Iterable[np.ndarray]) -> jax.Array:
        return jax.device_put(np.stack(list(arrays)).astype(dtype))

    return HeadStack(
        w1=jax.device_put(w1),
        b1=over_scales(head["b1"] for head in plain),
        hidden=tuple(
            HiddenLayer(
                w=over_scales(head["hidden"][i]["w"] for head in plain),
                b=over_scales(head["hidden"][i]["b"] for head in plain),
            )
            for i in range(n_hidden)
        ),
        w2=over_scales(head["w2"] for head in plain),
        b2=over_scales(head["b2"] for head in plain),
        input_relu=bool(input_relu),
    )


def unstack_heads(stack: HeadStack) -> list[dict[str, Any]]:
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


def _in_scale_order(heads: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The heads of scales 1..n_max with the name each has in messages."""
    if isinstance(heads, Mapping) and not any(isinstance(key, str) for key in heads):
        for s in range(1, len(heads) + 1):
            checks.expect(
                s in heads,
                "heads",
                f"a head for every scale 1..{max(heads)}",
                f"none for scale {s} (scales {sorted(heads)})",
            )
        named = [(f"heads[{s}]", heads[s]) for s in range(1, len(heads) + 1)]
    elif isinstance(heads, Sequence) and not isinstance(heads, str):
        named = [(f"heads[{i}]", head) for i, head in enumerate(heads)]
    else:
        got = f"one {type(heads).__name__}"
        way_out = "One head alone is written [head]."
        raise TypeError(checks.message("heads", "a list with one dict per scale", got, way_out))
    checks.expect(bool(named), "heads", "at least the head of scale 1", "none", _IN_ORDER)
    return named


def _checked_arrays(name: str, head: Any) -> dict[str, Any]:
    """The arrays of one head, each floating-point and finite, under the expected names."""
    if not isinstance(head, Mapping):
        raise TypeError(checks.message(name, "a dict of arrays", type(head).__name__))
    for key in head:
        checks.expect_choice(f"{name} key", key, (*_REQUIRED, "hidden"))
    arrays: dict[str, Any] = _arrays(name, head, _REQUIRED)
    arrays["hidden"] = [
        _arrays(f"{name}.hidden[{i}]", layer, ("w", "b"))
        for i, layer in enumerate(head.get("hidden", ()))
    ]
    checks.expect_shape(f"{name}.w1", arrays["w1"], (None, None), "(s*D, H)")
    checks.expect_shape(f"{name}.w2", arrays["w2"], (None, None), "(H, C)")
    return arrays


def _arrays(name: str, group: Mapping[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    arrays = {}
    for key in keys:
        expected = "keys " + ", ".join(keys)
        checks.expect(key in group, name, expected, f"no {key!r} ({', '.join(group)})")
        array = checks.expect_floating(f"{name}.{key}", group[key])
        checks.expect_finite(f"{name}.{key}", array)
        arrays[key] = np.asarray(array)
    return arrays


def _expect_sizes(
    name: str, head: Mapping[str, Any], s: int, d: int, h: int, c: int, n_hidden: int
) -> None:
    """Refuse a head whose shapes are not those of scale s with the sizes of scale 1."""
    of_scale_1 = "H and C are the same at every scale."
    letters = f"({s}*D, H) = ({s * d}, {h})"
    checks.expect_shape(f"{name}.w1", head["w1"], (s * d, h), letters, _IN_ORDER)
    checks.expect_shape(f"{name}.b1", head["b1"], (h,), f"(H,) = ({h},)", of_scale_1)
    checks.expect_shape(f"{name}.w2", head["w2"], (h, c), f"(H, C) = ({h}, {c})", of_scale_1)
    checks.expect_shape(f"{name}.b2", head["b2"], (c,), f"(C,) = ({c},)", of_scale_1)
    expected = f"{n_hidden} further hidden layers, as at scale 1"
    got = len(head["hidden"])
    checks.expect(got == n_hidden, f"{name}.hidden", expected, got)
    for i, layer in enumerate(head["hidden"]):
        place = f"{name}.hidden[{i}]"
        checks.expect_shape(f"{place}.w", layer["w"], (h, h), f"(H, H) = ({h}, {h})", of_scale_1)
        checks.expect_shape(f"{place}.b", layer["b"], (h,), f"(H,) = ({h},)", of_scale_1)
