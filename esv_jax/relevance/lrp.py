"""Layer-wise relevance propagation of any JAX function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import jax
from jax import Array

from esv_jax.checks import expect, expect_choice, wider
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_input,
    expect_scores,
)
from esv_jax.relevance.composites import Composite, make_composite
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.propagation import FunctionRule, MaxPool, Options, make_plan, propagate
from esv_jax.relevance.rules import Rule

Start = Literal["score", "one"]


@overload
def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool = False,
    stabilizer: float = 1e-6,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    return_layers: Literal[False] = False,
) -> Array: ...


@overload
def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool = False,
    stabilizer: float = 1e-6,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    return_layers: Literal[True],
) -> tuple[Array, list[Array]]: ...


def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool = False,
    stabilizer: float = 1e-6,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    return_layers: bool = False,
) -> Array | tuple[Array, list[Array]]:
    """Relevance of every number of the input for class scores, signed, by LRP.

    The function is traced, and relevance goes back through its operations:

    - A product with a weight (dense, convolution of any stride, padding, groups and dilation) is a
      *layer*, with the biases added and the factors per channel multiplied right after it: a batch
      norm at evaluation is folded in so. The composite chooses its rule.
    - A function of one value place by place (ReLU and its relatives, also written out) passes
      relevance on unchanged.
    - Sums (residual connections, average pooling, means) share it by the addends.
    - Maxima (max pooling) give it to the winner; reshaping, slicing and the like move it.
    - Anything else takes the gradient (vector-Jacobian product) and warns once by name.

    Works on Linen, NNX, other libraries and plain functions alike: close over the parameters.
    Source: Bach et al. (2015); Montavon et al. (2017), deep Taylor decomposition.

    Args:
      fn: x -> scores (C,), in JAX; logits rather than probabilities.
      x: one input of any shape, floating point; of a clip (t, h, w, c).
      target: a class, K classes, or None for all.
      composite: which rule meets which layer, see `composites`; a rule for all layers; or the name
        of a preset, see `preset`.
      use_bias: whether biases take their share of relevance, which is then not conserved.
      stabilizer: added to denominators away from zero, >= 0. With 0, what would be divided by zero
        gets nothing.
      max_pool: "winner", or "proportional" to the inputs of the window.
      start: relevance of the output: the class's "score", or "one".
      functions: rules of one's own by the name of a function under `jax.jit` within fn: each is
        called with the function, its operands and the relevance of its output, and gives the
        relevance of its first operand that depends on x.
      return_layers: whether to return relevance at the layers as well.
    Returns:
      Relevance like x for one class, otherwise with the classes as a last axis. Without biases it
      sums to the score, up to the stabilisers, except where a rule loses some (a large epsilon, a
      gradient in the place of a rule). With `return_layers` also a list: relevance of the inputs of
      each layer (with its axes of one, such as a batch), for one class only.
    Raises:
      TypeError: x, fn, composite of another kind. ValueError: a target out of range, a composite
      for another number of layers, bounds that the input exceeds, layers whose outputs are not
      finite or empty (x is too short for the model): by layer and rule. Values are looked at only
      where they are concrete, not under `jit`.
    Cost: a forward pass and what the rules state; nothing is compiled here, wrap it in `jax.jit`,
      and `jax.vmap` over inputs.
    """
    x = expect_input(x)
    scores = expect_scores(fn, x)
    weights = class_weights(target, scores)
    expect(stabilizer >= 0, "stabilizer", "a number >= 0", stabilizer)
    expect_choice("max_pool", max_pool, ("winner", "proportional"))
    expect_choice("start", start, ("score", "one"))
    one = weights.ndim == 1
    expect(one or not return_layers, "target", "one class, with return_layers", target)
    options = Options(use_bias, stabilizer, max_pool, functions or {})
    plan = make_plan(fn, x, tuple(options.functions))
    rules = _rules(composite, plan.layers)
    dtype = wider(x.dtype)

    def of_class(row: Array) -> tuple[Array, dict[int, Array]]:
        def begin(out: Array) -> Array:
            row_ = row.astype(wider(out.dtype))
            return row_ * out.astype(row_.dtype) if start == "score" else row_

        found, at_layers = propagate(plan, x, rules, begin, options)
        return found.astype(dtype), at_layers

    if one:
        found, at_layers = of_class(weights)
        inputs = [at_layers[index] for index in sorted(at_layers)]
        return (found, inputs) if return_layers else found
    return classes_last(jax.vmap(lambda row: of_class(row)[0])(weights), weights)


def layers(fn: Callable[[Array], Array], x: Any) -> list[LayerInfo]:
    """The linear layers of fn(x), in forward order: what a composite chooses for.

    Args:
      fn: a function of one array, in JAX. x: an input, or its `jax.ShapeDtypeStruct`.
    Cost: traces fn; nothing is computed.
    """
    return make_plan(fn, x).layers


def _rules(composite: Composite | Rule | str, known: list[LayerInfo]) -> list[Rule]:
    """One rule for each layer."""
    expect(len(known) > 0, "fn", "at least one linear layer with a weight", "none")
    rules = list(make_composite(composite)(known))
    expect(len(rules) == len(known), "composite", f"{len(known)} rules", len(rules))
    return rules
