"""Layer-wise relevance propagation of any JAX function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, overload

import jax
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, is_concrete, wider
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_input,
    expect_scores,
)
from esv_jax.relevance.composites import Composite, ForTransformers, make_composite
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.plan import Unknown, make_plan
from esv_jax.relevance.propagation import FunctionRule, MaxPool, Options, propagate
from esv_jax.relevance.rules import Rule

Start = Literal["score", "one"]

_LOSS = 0.05  # of the score, above which a loss is told
_ROUNDING = 1e-4  # of the absolute relevance: what sums of it may differ by


class RelevanceWarning(UserWarning):
    """Relevance that is not conserved: a primitive without a rule, or a large loss."""


@overload
def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool | None = None,
    stabilizer: float | None = None,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    unknown: Unknown = "error",
    return_layers: Literal[False] = False,
) -> Array: ...


@overload
def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool | None = None,
    stabilizer: float | None = None,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    unknown: Unknown = "error",
    return_layers: Literal[True],
) -> tuple[Array, list[Array]]: ...


def lrp(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool | None = None,
    stabilizer: float | None = None,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    unknown: Unknown = "error",
    return_layers: bool = False,
) -> Array | tuple[Array, list[Array]]:
    """Relevance of every number of the input for class scores, signed, by LRP.

    The function is traced, and relevance goes back through its operations:

    - A product with a weight (dense, convolution of any stride, padding, groups and dilation) is a
      *layer*, with the biases added and the factors per channel multiplied right after it: a batch
      norm at evaluation is folded in so. The composite chooses its rule.
    - A function of one value place by place (ReLU and its relatives, also written out) passes
      relevance on unchanged.
    - Sums (residual connections, average pooling, means) share it by the addends, and so do other
      linear operations (Fourier transforms, scatter-add).
    - Maxima (max pooling) give it to the winner; reshaping, slicing and the like move it.
    - A product with a sigmoid, the gate of a recurrent cell, gives it to the other factor (Arras et
      al., 2017). Softmaxes, norms and other products of two activations have rules in the
      composites "attnlrp" and "cplrp", and in those of `for_transformers`.
    - Constants, integers and `stop_gradient` pass nothing on: what a constant mask leaves out gets
      nothing.
    - Any other operation is refused, see `unknown`.

    Calls, `jax.checkpoint` and functions with derivatives of their own are looked into. Loops of a
    known number of steps (`lax.scan`, recurrent networks) are unrolled: relevance is that of the
    same steps written out, and so are the layers that the composite meets.

    Works on Linen, NNX, other libraries and plain functions alike: close over the parameters.
    Source: Bach et al. (2015); Montavon et al. (2017), deep Taylor decomposition.

    Args:
      fn: x -> scores (C,), in JAX; logits rather than probabilities.
      x: one input of any shape, floating point; of a clip (t, h, w, c).
      target: a class, K classes, or None for all.
      composite: which rule meets which layer, see `composites`; a rule for all layers; or the name
        of a preset, see `preset`.
      use_bias: whether biases and other constants added take their share of relevance, which is
        then not conserved; by default in "attnlrp", "cplrp" and `for_transformers` only.
      stabilizer: added to denominators away from zero, >= 0; by default 1e-6, for transformers
        1e-9. With 0, what would be divided by zero gets nothing.
      max_pool: "winner", or "proportional" to the inputs of the window.
      start: relevance of the output: the class's "score", or "one".
      functions: rules of one's own by the name of a function under `jax.jit` within fn: each is
        called with the function, its operands and the relevance of its output, and gives the
        relevance of its first operand that depends on x.
      unknown: operations without a rule: "error", or "gradient", which shares relevance by inputs
        times slopes, x_i sum_j (d out_j / d x_i) R_j / stab(out_j), and warns by name.
      return_layers: whether to return relevance at the layers as well.
    Returns:
      Relevance like x for one class, otherwise with the classes as a last axis. Without biases it
      sums to the score, up to the stabilisers, except where a rule loses some (a large epsilon, a
      softmax, a selected constant). Other losses of more than 5 % of the score are a
      `RelevanceWarning` that says how large. With `return_layers` also a list: relevance of the
      inputs of each layer (with its axes of one, such as a batch), for one class only.
    Raises:
      TypeError: x, fn, composite of another kind. ValueError: a target out of range, a composite
      for another number of layers, bounds that the input exceeds, layers whose outputs are not
      finite or empty (x is too short for the model): by layer and rule; an operation without a
      rule. Values are looked at only where they are concrete, not under `jit`; neither are losses.
    Cost: a forward pass and what the rules state; nothing is compiled here, wrap it in `jax.jit`,
      and `jax.vmap` over inputs. Loops compile in a time that grows with their steps.
    """
    x = expect_input(x)
    scores = expect_scores(fn, x)
    weights = class_weights(target, scores)
    made = make_composite(composite)
    attention = made.attention if isinstance(made, ForTransformers) else None
    use_bias = attention is not None if use_bias is None else use_bias
    if stabilizer is None:
        stabilizer = 1e-6 if attention is None else 1e-9
    expect(stabilizer >= 0, "stabilizer", "a number >= 0", stabilizer)
    expect_choice("max_pool", max_pool, get_args(MaxPool))
    expect_choice("start", start, get_args(Start))
    expect_choice("unknown", unknown, get_args(Unknown))
    one = weights.ndim == 1
    expect(one or not return_layers, "target", "one class, with return_layers", target)
    options = Options(use_bias, stabilizer, max_pool, functions or {})
    plan = make_plan(fn, x, tuple(options.functions), attention, unknown, use_bias)
    for primitive, where in plan.unknown.items():
        warnings.warn(
            f"{primitive}{where}: no rule for this primitive; its inputs times its gradient are"
            " taken, and relevance is not conserved there.",
            RelevanceWarning,
            stacklevel=2,
        )
    rules = _rules(made, plan.layers)
    dtype = wider(x.dtype)

    def of_class(row: Array) -> tuple[Array, dict[int, Array], Array, Array]:
        def begin(out: Array) -> Array:
            row_ = row.astype(wider(out.dtype))
            return row_ * out.astype(row_.dtype) if start == "score" else row_

        found = propagate(plan, x, rules, begin, options)
        return found.relevance.astype(dtype), found.at_layers, found.given, found.taken

    if one:
        found, at_layers, given, taken = of_class(weights)
        _warn_of_losses(found[..., None], given[None], taken[None])
        inputs = [at_layers[index] for index in sorted(at_layers)]
        return (found, inputs) if return_layers else found
    rows, _, given, taken = jax.vmap(of_class)(weights)
    found = classes_last(rows, weights)
    _warn_of_losses(found, given, taken)
    return found


def layers(fn: Callable[[Array], Array], x: Any) -> list[LayerInfo]:
    """The linear layers of fn(x), in forward order: what a composite chooses for.

    Args:
      fn: a function of one array, in JAX. x: an input, or its `jax.ShapeDtypeStruct`.
    Cost: traces fn; nothing is computed.
    """
    return make_plan(fn, x).layers


def _rules(composite: Composite, known: list[LayerInfo]) -> list[Rule]:
    """One rule for each layer."""
    expect(len(known) > 0, "fn", "at least one linear layer with a weight", "none")
    rules = list(composite(known))
    expect(len(rules) == len(known), "composite", f"{len(known)} rules", len(rules))
    return rules


def _warn_of_losses(relevance: Array, given: Array, taken: Array) -> None:
    """Warn of relevance that is lost or made without intention.

    Args:
      relevance: of the input, the classes last. given, taken: (K,) relevance of the outputs, and
        what of it constants and rules have taken.
    """
    if not is_concrete(relevance) or not is_concrete(taken):
        return
    size = np.abs(np.asarray(relevance, np.float64)).reshape(-1, relevance.shape[-1]).sum(0)
    sums = np.asarray(relevance, np.float64).reshape(-1, relevance.shape[-1]).sum(0)
    gaps = np.asarray(given, np.float64) - np.asarray(taken, np.float64) - sums
    share = np.abs(gaps) / np.maximum(np.abs(given), _ROUNDING * size + np.finfo(float).tiny)
    worst = int(share.argmax())
    if not share[worst] <= _LOSS:
        gap = f"{gaps[worst]:.4g} ({share[worst]:.3g} of it)"
        warnings.warn(
            f"relevance sums to {sums[worst]:.4g} for an output of {float(given[worst]):.4g}:"
            f" {gap} is lost in operations that do not conserve it.",
            RelevanceWarning,
            stacklevel=3,
        )
