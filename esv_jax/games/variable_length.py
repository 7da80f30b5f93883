"""Any JAX function that takes a sequence with a mask."""

from __future__ import annotations

import dataclasses
import math
import warnings as python_warnings
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import (
    AnyArray,
    Link,
    Shaped,
    check_link,
    class_scores,
    expect_int,
    message,
    wider,
)
from esv_jax.games.protocol import Cost, SubsetGame
from esv_jax.games.scoring import compiled, memory_of
from esv_jax.records import Function, register_record, static_field

_LEAK = 1e-4  # share of the largest logit by which rounding may move it
_ROUNDINGS = 4  # the same in units of the logits' precision


@register_record
@dataclasses.dataclass(frozen=True)
class VariableLength(SubsetGame):
    """A game from `apply_fn(features, mask) -> logits`.

    Attributes:
      apply_fn: (n, D) features and (n,) bool mask -> (C,) logits, floating point; or () for one
        class, or an object or dict with such `logits`. Elements whose mask is False must not
        affect the result: this is probed once per model and shape, and a leak, or a mask without
        effect, is a warning in the result. Pass `jax.tree_util.Partial(fn, params)` to have
        parameters traced (new parameters then compile nothing); otherwise what `apply_fn` closes
        over is compiled in. Compiled programs are freed with the function.
      link: "softmax" (default), "sigmoid" or "identity".
      batch_size: subsequences given to the model at once; default by their size.
    Raises:
      TypeError: if `apply_fn` is not callable. ValueError: on another link or batch_size < 1.
    """

    auto_exact: ClassVar[int] = 12  # elements; 2**n evaluations of a large model take long

    apply_fn: Callable[[Array, Array], Any]
    link: Link = static_field(default="softmax")
    batch_size: int | None = static_field(default=None)

    def __post_init__(self) -> None:
        check_link(self.link)
        if self.batch_size is not None:
            expect_int("batch_size", self.batch_size, 1)
        if not callable(self.apply_fn):
            got = type(self.apply_fn).__name__
            raise TypeError(message("apply_fn", "a function of (features, mask)", got))
        if not isinstance(self.apply_fn, Function):
            object.__setattr__(self, "apply_fn", Function(self.apply_fn))

    @property
    def owner(self) -> Any:
        """The model's function, or the object that it is a method of."""
        function: Any = self.apply_fn  # a Function, see __post_init__
        return function.owner

    def _logits(self, x: Array, mask: Array) -> Array:
        logits = self.apply_fn(x, mask)
        if isinstance(logits, jax.Array) and logits.shape == ():  # of one class
            logits = logits[None]
        return class_scores(logits, None, "logits", "apply_fn")

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """(C,), in the dtype of apply_fn's logits, float32 at least."""
        leaves, structure = jax.tree.flatten(self.apply_fn)
        shapes = tuple(map(jax.typeof, leaves))
        kept, name = memory_of(self), ("output", structure, shapes, x.shape, x.dtype)
        if name not in kept:
            mask = jax.ShapeDtypeStruct((x.shape[0],), jnp.bool_)
            found = jax.eval_shape(self._logits, jax.ShapeDtypeStruct(x.shape, x.dtype), mask)
            kept[name] = jax.ShapeDtypeStruct(found.shape, wider(found.dtype))
        check_link(self.link, kept[name].shape[0])
        return kept[name]

    def warnings(self, x: AnyArray, prior: AnyArray) -> tuple[str, ...]:
        """Return the warnings of a probe of the mask, made once per model and shape."""
        if x.shape[0] < 2:
            return ()
        structure = jax.tree.structure(self.apply_fn)
        kept, name = memory_of(self), ("probe", structure, x.shape, x.dtype)
        if name not in kept:
            # Every second element is absent; then its content is another's.
            mask = np.arange(x.shape[0]) % 2 == 0
            other = np.array(x)
            other[~mask] = np.roll(np.asarray(x)[::-1], 1, axis=0)[~mask] * 2 + 1
            inputs = np.stack([x, other, x]), np.stack([mask, mask, ~mask])
            precision = jax.eval_shape(self._logits, x, mask).dtype
            probe = compiled(self, "probe", lambda: _logits_each)
            logits = np.asarray(probe(self, *inputs), np.float64)
            kept[name] = _mask_warnings(logits, float(jnp.finfo(precision).eps))
            for text in kept[name]:
                python_warnings.warn(text, stacklevel=4)
        return kept[name]

    def subset_logits(self, x: Array, member: Array) -> Array:
        """Logits (m, C) of the subsequences `member` (m, n)."""
        if self.batch_size is None or self.batch_size >= member.shape[0]:
            return jax.vmap(self._logits, (None, 0))(x, member)
        return lax.map(lambda row: self._logits(x, row), member, batch_size=self.batch_size)

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """See `SubsetGame.subset_cost`; the model's own memory is not known."""
        out = self.output(x)
        row = 4 * out.shape[0] * out.dtype.itemsize + 2 * math.prod(x.shape) * x.dtype.itemsize
        return Cost(m, m, min(m, self.batch_size or m) * row, None)


def _logits_each(game: VariableLength, xs: Array, masks: Array) -> Array:
    """Logits (m, C) of m sequences, each with its own mask."""
    return lax.map(lambda each: game.subset_logits(each[0], each[1][None])[0], (xs, masks))


def _mask_warnings(logits: np.ndarray, eps: float) -> tuple[str, ...]:
    """Warnings from logits (3, C): of a mask, of other absent content, of the other mask."""
    if not np.isfinite(logits).all():
        return ()  # refused with the values themselves
    rounding = max(_LEAK, _ROUNDINGS * eps) * max(np.abs(logits).max(), 1e-30)
    leak, effect = (np.abs(logits[k] - logits[0]).max() for k in (1, 2))
    if effect == 0:
        return (
            "apply_fn: the mask has no effect on the logits, so all elements get equal values. "
            "Use the mask in the model.",
        )
    if leak > rounding:
        return (
            f"apply_fn: absent elements still affect the logits, by up to {leak:.3g} where the "
            "content of every second element was replaced. The values measure what the model's "
            "mask removes, not the frames. Mask such elements in every layer that mixes frames.",
        )
    return ()
