"""Layer-wise relevance propagation through any JAX function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import ScoresOf, expect, expect_choice, is_concrete, wider
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_input,
)
from esv_jax.relevance.composites import Composite, ForTransformers, make_composite
from esv_jax.relevance.graph import Spec
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.operation_rules import FunctionRule, MaxPool, Options, Unknown
from esv_jax.relevance.propagation import make_plan, propagate
from esv_jax.relevance.rules import Rule

Start = Literal["score", "one"]

_LOSS = 0.05  # of the score, above which a loss causes a warning
_ROUNDING = 1e-4  # of the absolute relevance, by which sums of it may differ


class RelevanceWarning(UserWarning):
    """Relevance that is not conserved: a primitive without a rule, or a large loss."""


class PropagationOptions(TypedDict, total=False):
    """Keywords of `lrp` that other functions pass on to it."""

    composite: Composite | Rule | str
    use_bias: bool | None
    stabilizer: float | None
    max_pool: MaxPool
    functions: Mapping[str, FunctionRule] | None
    unknown: Unknown


class LayerRelevances(NamedTuple):
    """Relevance of an input, and of the inputs of each layer in forward order.

    The latter have axes of one such as a batch; the classes are a last axis unless target is one.
    """

    relevance: Array
    at_layers: list[Array]


def lrp(
    fn: ScoreFunction,
    x: ArrayLike,
    target: Target = None,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    use_bias: bool | None = None,
    stabilizer: float | None = None,
    max_pool: MaxPool = "winner",
    start: Start = "score",
    functions: Mapping[str, FunctionRule] | None = None,
    unknown: Unknown = "error",
) -> Array:
    """Relevance of every number of the input for class scores, signed, by LRP.

    The function is traced, and relevance goes back through its operations:

    - A product with a weight (dense, any convolution) is a *layer*, with the biases and the
      factors per channel right after it: a batch norm at evaluation is folded into it. The
      composite chooses its rule.
    - An elementwise function of one value (ReLU and others, also written out) passes relevance on
      unchanged.
    - Sums (residual connections, average pooling) divide it by the addends, and so do other
      linear operations (Fourier transforms, scatter-add).
    - Maxima (max pooling) give it to the winner; reshaping, slicing and other moves move it.
    - A product with a sigmoid, the gate of a recurrent cell, gives it to the other factor (Arras et
      al., 2017). Softmaxes, norms and other products of two activations have rules in the
      composites "attnlrp" and "cplrp", and in those of `for_transformers`.
    - Constants, integers and `stop_gradient` pass nothing on.
    - Any other operation is refused, see `unknown`.

    Calls are inlined, also `jax.checkpoint` and functions with custom derivatives. Loops with a
    known number of steps (`lax.scan`, recurrent networks) are unrolled, with one layer per step.
    Works with Linen, NNX, other libraries and plain functions: close over the parameters.
    Source: Bach et al. (2015); Montavon et al. (2017), deep Taylor decomposition.

    Args:
      fn: x -> scores (C,), in JAX; logits rather than probabilities. Or a function of a batch, or
        an object with `logits`.
      x: one input of any shape, floating point, e.g. a clip (t, h, w, c).
      target: a class, K classes, or None for all.
      composite: a function that chooses the rule of each layer, see `composites`; a rule for all
        layers; or the name of a preset, see `preset`.
      use_bias: give biases and other added constants their share of relevance, which is then not
        conserved; default only for "attnlrp", "cplrp" and `for_transformers`.
      stabilizer: added to denominators away from zero, >= 0; default 1e-6, for transformers
        1e-9. With 0, a quotient with denominator zero is 0.
      max_pool: "winner", or "proportional" to the inputs of the window.
      start: relevance of the output: the "score" of the class, or "one".
      functions: custom rules by the name of a function under `jax.jit` within fn: each maps the
        function, its operands and the relevance of its output to the relevance of its first
        operand that depends on x.
      unknown: operations without a rule: "error", or "gradient", which takes inputs times slopes,
        x_i sum_j (d out_j / d x_i) R_j / stab(out_j), with a warning.
    Returns:
      Relevance like x for one class, otherwise with the classes as a last axis. Without biases it
      sums to the score, up to the stabilizers, except where a rule loses some (a large epsilon, a
      softmax, a selected constant). Other losses of more than 5 % of the score cause a
      `RelevanceWarning`.
    Raises:
      TypeError: x, fn, composite of another kind. ValueError: a target out of range, a composite
      for another number of layers, an input outside of its bounds, layers with outputs that are
      not finite or empty (x is too short for the model); an operation without a rule. Values and
      losses are checked only for concrete arrays, not under `jit`.
    Cost: a forward pass and the passes of the rules; not compiled: wrap it in `jax.jit`, and in
      `jax.vmap` for batches. Compile time grows with the number of steps of loops.
    """
    made = make_composite(composite)
    attention = made.attention if isinstance(made, ForTransformers) else None
    options = Options(
        use_bias=attention is not None if use_bias is None else use_bias,
        stabilizer=(1e-9 if attention else 1e-6) if stabilizer is None else stabilizer,
        max_pool=max_pool,
        functions=functions or {},
        attention=attention,
        unknown=unknown,
    )
    return layer_relevances(fn, x, target, made, options, start).relevance


def layer_relevances(
    fn: ScoreFunction,
    x: ArrayLike,
    target: Target,
    composite: Composite,
    options: Options,
    start: Start = "score",
) -> LayerRelevances:
    """Relevance of the input, as from `lrp`, and of the inputs of each layer."""
    x, fn = expect_input(x), ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    expect_choice("start", start, get_args(Start))
    plan = make_plan(fn, x, options)
    for operation in plan.unknown:
        warnings.warn(
            f"{operation}: no rule for this primitive; its inputs times its gradient are taken,"
            " and relevance is not conserved there.",
            RelevanceWarning,
            stacklevel=3,
        )
    expect(len(plan.layers) > 0, "fn", "at least one linear layer with a weight", "none")
    rules = list(composite(plan.layers))
    expect(len(rules) == len(plan.layers), "composite", f"{len(plan.layers)} rules", len(rules))

    def for_class(row: Array) -> tuple[Array, list[Array], Array, Array]:
        def begin(out: Array) -> Array:
            weight = row.astype(wider(out.dtype))
            return weight * out.astype(weight.dtype) if start == "score" else weight

        found = propagate(plan, x, rules, begin, options)
        at_layers = [found.at_layers[index] for index in sorted(found.at_layers)]
        return found.relevance.astype(wider(x.dtype)), at_layers, found.given, found.taken

    one = weights.ndim == 1
    found, at_layers, given, taken = (for_class if one else jax.vmap(for_class))(weights)
    found = classes_last(found, weights)
    _warn_of_losses(found[..., None] if one else found, jnp.atleast_1d(given, taken))
    return LayerRelevances(found, [classes_last(r, weights) for r in at_layers])


def layers(fn: Callable[[Array], Array], x: Array | Spec) -> list[LayerInfo]:
    """The linear layers of fn(x), in forward order, as a composite receives them.

    Args:
      fn: a function of one array, in JAX. x: an input, or its `jax.ShapeDtypeStruct`.
    Cost: traces fn; nothing is computed.
    """
    return make_plan(ScoresOf(fn), x, Options(unknown="gradient")).layers


def _warn_of_losses(relevance: Array, totals: Sequence[Array]) -> None:
    """Warn of relevance that is lost or created outside of the rules.

    Args:
      relevance: of the input, the classes last. totals: (K,) relevance of the outputs, and the
        part of it that constants and rules keep.
    """
    if not all(map(is_concrete, (relevance, *totals))):
        return
    given, taken = (np.asarray(total, np.float64) for total in totals)
    by_class = np.asarray(relevance, np.float64).reshape(-1, relevance.shape[-1])
    size, sums = np.abs(by_class).sum(0), by_class.sum(0)
    gaps = given - taken - sums
    share = np.abs(gaps) / np.maximum(np.abs(given), _ROUNDING * size + np.finfo(float).tiny)
    worst = int(share.argmax())
    if not share[worst] <= _LOSS:
        gap = f"{gaps[worst]:.4g} ({share[worst]:.3g} of it)"
        warnings.warn(
            f"relevance sums to {sums[worst]:.4g} for an output of {given[worst]:.4g}:"
            f" {gap} is lost in operations that do not conserve it.",
            RelevanceWarning,
            stacklevel=4,
        )
