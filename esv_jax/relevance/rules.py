"""Rules that distribute the relevance of the outputs of a linear layer to its inputs.

Notation: inputs x, weights w, biases b, outputs z_j = sum_i x_i w_ij + b_j, relevance R_j of the
outputs; v+ = max(v, 0), v- = min(v, 0). Denominators are stabilised: stab(z) = z + s sign(z) with
sign(0) = 1; for s = 0 a quotient with denominator zero is 0. Without biases (the default) the
denominators omit b, and relevance is conserved up to the stabilizer.

A product with w is a forward pass of the layer, a product with its transpose a backward pass;
both cost about the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import expect


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer with its values, the first argument of a rule.

    Attributes:
      name: for messages. kind: "dense" or "conv".
      x: its inputs. weight: w, with the scale of a batch norm.
      product: (x, w) -> outputs without bias, linear in both.
      out: outputs with bias. bias: like the outputs, or None.
      use_bias: include biases in the denominators. stabilizer: s of stab, >= 0.
      is_positive: True if x >= 0 for every input, e.g. after a ReLU.
      low, high: bounds of x for `ZBox`, else None.
    """

    name: str
    kind: str
    x: Array
    weight: Array
    product: Callable[[Array, Array], Array]
    out: Array
    bias: Array | None
    use_bias: bool
    stabilizer: float
    is_positive: bool
    low: Array | None = None
    high: Array | None = None

    def back(self, s: Array, weight: Array) -> Array:
        """Backward pass: the transposed product of s, like the outputs, with a weight; like x."""
        like_x = jax.ShapeDtypeStruct(self.x.shape, self.x.dtype)
        return jax.linear_transpose(lambda x: self.product(x, weight), like_x)(s)[0]

    def share(self, relevance: Array, z: Array, stabilizer: float | None = None) -> Array:
        """relevance / stab(z)."""
        return stabilised_ratio(relevance, z, self.stabilizer if stabilizer is None else stabilizer)

    def biased(self, z: Array, part: Callable[[Array], Array]) -> Array:
        """z plus a part of the biases, if they are used."""
        return z if self.bias is None or not self.use_bias else z + part(self.bias)

    @property
    def denominator(self) -> Array:
        """The outputs, without bias if biases are not used."""
        return self.out if self.use_bias or self.bias is None else self.out - self.bias


class Rule(Protocol):
    """A function of a layer and the relevance of its outputs that returns that of its inputs.

    Custom rules can replace those of this module. This one is z+ for inputs >= 0:

        def positive_weights(layer, relevance):
            weight = jnp.maximum(layer.weight, 0)
            s = layer.share(relevance, layer.product(layer.x, weight))
            return layer.x * layer.back(s, weight)

        lrp(fn, clip, target, composite=by_kind(conv=positive_weights, dense=Epsilon()))

    It returns an array like `layer.x`; it need not conserve relevance.
    """

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """Relevance of the inputs, like `layer.x`."""
        ...


@dataclasses.dataclass(frozen=True)
class Epsilon:
    """R_i = sum_j x_i w_ij R_j / stab(z_j), with epsilon as the stabilizer.

    A larger epsilon absorbs relevance of weak outputs. Source: Bach et al. (2015), Eq. (58).
    Cost: one backward pass.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse a negative epsilon."""
        _expect_not_negative("epsilon", self.epsilon)

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        s = layer.share(relevance, layer.denominator, self.epsilon)
        return layer.x * layer.back(s, layer.weight)


@dataclasses.dataclass(frozen=True)
class AlphaBeta:
    """Shares in the positive contributions times alpha, minus shares in the negative times beta.

        R_i = alpha sum_j (x_i w_ij)+ R_j / stab(sum_i (x_i w_ij)+ + b_j+)
             - beta sum_j (x_i w_ij)- R_j / stab(sum_i (x_i w_ij)- + b_j-)

    Conserves relevance for alpha - beta = 1 where an output has contributions of both signs.
    Source: Bach et al. (2015), Eq. (60).
    Cost: for inputs >= 0 two passes for each of alpha and beta that is not 0, else four.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse negative numbers, and a pair that does not conserve relevance."""
        _expect_not_negative("alpha", self.alpha)
        _expect_not_negative("beta", self.beta)
        got, excess = f"alpha={self.alpha:g}, beta={self.beta:g}", self.alpha - self.beta - 1
        expect(abs(excess) < 1e-6, "AlphaBeta", "alpha - beta = 1", got, "Try AlphaBeta(2, 1).")

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        w = layer.weight
        found = _signed_share(layer, relevance, _positive(w), _negative(w), _positive)
        found = found if self.alpha == 1 else self.alpha * found
        if self.beta == 0:
            return found
        against = _signed_share(layer, relevance, _negative(w), _positive(w), _negative)
        return found - self.beta * against


@dataclasses.dataclass(frozen=True)
class ZPlus:
    """Shares in the positive contributions: AlphaBeta(1, 0), or z+ of deep Taylor decomposition.

    Source: Montavon et al. (2017), Eq. (16). Cost: for inputs >= 0 two passes, else four.
    """

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        return AlphaBeta(1.0, 0.0)(layer, relevance)


@dataclasses.dataclass(frozen=True)
class Gamma:
    """The epsilon rule with weights increased in the direction of the output: w + gamma w+.

    For z_j > 0 positive contributions have weight 1 + gamma, for z_j < 0 negative ones; outputs
    z_j = 0 pass nothing on. z_j includes its bias here.
    Source: Montavon et al. (2019), Table 10.1; for inputs and outputs of either sign as in
    Andeol et al. (2021). Cost: for inputs >= 0 two forward and two backward passes, else eight.
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a negative gamma."""
        _expect_not_negative("gamma", self.gamma)

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""

        def grown(values: Array, part: Callable[[Array], Array]) -> Array:
            return values + self.gamma * part(values)

        more_positive, more_negative = (grown(layer.weight, p) for p in (_positive, _negative))
        found = jnp.zeros_like(layer.x)
        for sign, weights, part in (
            (layer.out > 0, (more_positive, more_negative), _positive),
            (layer.out < 0, (more_negative, more_positive), _negative),
        ):
            own, of_bias = jnp.where(sign, relevance, 0), functools.partial(grown, part=part)
            found = found + _signed_share(layer, own, *weights, of_bias)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class ZBox:
    """The rule of a first layer with bounded inputs: low <= x <= high.

        R_i = sum_j (x_i w_ij - low_i w_ij+ - high_i w_ij-) R_j / stab(their sum over i)

    The bounds are those of the input of the function, such as 0 and 1, or (c,) per channel. The
    operations before the first layer (subtract a mean, divide, reshape) are applied to them as
    well. Biases cancel. Source: Montavon et al. (2017), Eq. (17).
    Cost: five passes.
    """

    low: ArrayLike
    high: ArrayLike

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        x, w, low, high = layer.x, layer.weight, layer.low, layer.high
        assert low is not None
        assert high is not None
        positive, negative = _positive(w), _negative(w)
        bias = 0 if layer.bias is None else layer.bias
        z = layer.out - bias - layer.product(low, positive) - layer.product(high, negative)
        s = layer.share(relevance, z)
        found = x * layer.back(s, w)
        return found - low * layer.back(s, positive) - high * layer.back(s, negative)


@dataclasses.dataclass(frozen=True)
class WSquare:
    """Shares by squared weights: R_i = sum_j w_ij**2 R_j / stab(sum_i w_ij**2).

    If biases are used, the sum includes b_j**2. Source: Montavon et al. (2017), Eq. (13).
    Cost: two passes.
    """

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        return _by_weight(layer, relevance, layer.weight**2, jnp.square)


@dataclasses.dataclass(frozen=True)
class Flat:
    """Equal shares for all inputs, as if all weights were one. Source: Lapuschkin et al. (2019).

    Cost: two passes.
    """

    def __call__(self, layer: Layer, relevance: Array) -> Array:
        """See `Rule`."""
        return _by_weight(layer, relevance, jnp.ones_like(layer.weight), jnp.zeros_like)


def stabilised_ratio(relevance: Array, z: Array, stabilizer: float) -> Array:
    """relevance / (z + stabilizer sign(z)), sign(0) = 1; 0 where a denominator is 0.

    Complex numbers are divided by their real and their imaginary parts separately.
    """
    if jnp.iscomplexobj(z):
        parts = [(relevance.real, z.real), (relevance.imag, z.imag)]
        return jax.lax.complex(*(stabilised_ratio(r, part, stabilizer) for r, part in parts))
    if stabilizer == 0:
        return jnp.where(z == 0, 0, relevance / jnp.where(z == 0, 1, z))
    return relevance / (z + jnp.where(z < 0, -stabilizer, stabilizer).astype(z.dtype))


def _signed_share(
    layer: Layer,
    relevance: Array,
    with_positive: Array,
    with_negative: Array,
    of_bias: Callable[[Array], Array],
) -> Array:
    """Share in x+ w + x- w', with weights w for positive inputs and w' for negative ones."""
    if layer.is_positive:
        parts = [(layer.x, with_positive)]
    else:
        parts = [(_positive(layer.x), with_positive), (_negative(layer.x), with_negative)]
    z = functools.reduce(jnp.add, [layer.product(x, w) for x, w in parts])
    s = layer.share(relevance, layer.biased(z, of_bias))
    return functools.reduce(jnp.add, [x * layer.back(s, w) for x, w in parts])


def _by_weight(
    layer: Layer, relevance: Array, weight: Array, of_bias: Callable[[Array], Array]
) -> Array:
    z = layer.product(jnp.ones_like(layer.x), weight)
    return layer.back(layer.share(relevance, layer.biased(z, of_bias)), weight)


def _positive(values: Array) -> Array:
    return jnp.maximum(values, 0)


def _negative(values: Array) -> Array:
    return jnp.minimum(values, 0)


def _expect_not_negative(name: str, value: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    expect(is_number, name, "a number", type(value).__name__, kind=TypeError)
    expect(value >= 0, name, "a number >= 0", value)
