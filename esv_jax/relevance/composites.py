"""Composites, functions that choose the rule of each layer.

A composite is a function from the layers of a model, in forward order, to one rule for each:

    lrp(fn, clip, target, composite=by_layer([ZBox(0, 1), ZPlus(), Epsilon()]))
    lrp(fn, clip, target, composite=by_kind(conv=ZPlus(), dense=Epsilon(), first=ZBox(0, 1)))
    lrp(fn, clip, target, composite="epsilon_plus")
"""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, get_args

from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, message
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.operation_rules import Attention
from esv_jax.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus

Composite: TypeAlias = Callable[[Sequence[LayerInfo]], Sequence[Rule]]
"""The layers of a model, in forward order -> one rule for each."""

PRESETS: dict[str, Composite] = {}


def by_layer(rules: Sequence[Rule]) -> Composite:
    """One rule per linear layer, in forward order; refuses another number of layers."""
    rules = [_expect_rule(f"rules[{i}]", rule) for i, rule in enumerate(rules)]

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        got = f"{len(layers)}: {', '.join(map(str, layers))}"
        expect(len(rules) == len(layers), "composite", f"{len(rules)} linear layers", got)
        return rules

    return choose


def uniform(rule: Rule) -> Composite:
    """One rule for all layers."""
    rule = _expect_rule("rule", rule)
    return lambda layers: [rule] * len(layers)


def by_kind(*, conv: Rule, dense: Rule, first: Rule | None = None) -> Composite:
    """Rules by the kind of layer, optionally with another one for the first layer."""
    chosen = {"conv": _expect_rule("conv", conv), "dense": _expect_rule("dense", dense)}

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        return [chosen[layer.kind] for layer in layers]

    return choose if first is None else _with_first(choose, _expect_rule("first", first))


def by_name(rules: Mapping[str, Rule], default: Rule | None = None) -> Composite:
    """Rules by the name of a layer, or of a module around it; the first matching pattern applies.

    Args:
      rules: patterns -> rules: a name in full ("TinyCNN/conv1"), its last parts ("conv1",
        "block1/conv1"), or a pattern with `*`. Names are those of Linen modules and of
        `jax.named_scope`; `layers` lists them.
      default: for layers that match no pattern; without it they are refused.
    """
    for pattern, rule in rules.items():
        _expect_rule(repr(pattern), rule)
    if default is not None:
        _expect_rule("default", default)

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        unused = [p for p in rules if not any(_matches(layer.name, p) for layer in layers)]
        known = ", ".join(layer.name for layer in layers)
        expect(not unused, "composite", "names of layers", unused, f"There are: {known}.")
        found: list[Rule] = []
        for layer in layers:
            rule = next((rule for p, rule in rules.items() if _matches(layer.name, p)), default)
            if rule is None:
                expected = f"a rule for {layer}"
                raise ValueError(message("composite", expected, "none", "Give a default."))
            found.append(rule)
        return found

    return choose


@dataclasses.dataclass(frozen=True)
class ForTransformers:
    """A composite with rules for attention and norms; see `for_transformers`."""

    composite: Composite
    attention: Attention

    def __call__(self, layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        """The rules of the layers."""
        return self.composite(layers)


def for_transformers(
    composite: Composite | Rule | str, attention: Attention = "attnlrp"
) -> ForTransformers:
    """A composite that adds rules for softmaxes, norms and products of two activations.

    - A product of two activations, elementwise or of matrices (attention, gates), gives half of
      its relevance to each.
    - A softmax gives x_i (R_i - softmax(x)_i sum_j R_j) to its scores: its Taylor expansion.
      For "cplrp" attention weights are constants, and the values get all relevance.
    - The divisor of a norm (layer, RMS, group, L2) is a constant.

    With these rules biases and other constants get their share by default.
    Source: Achtibat et al. (2024), AttnLRP, section 3; "cplrp" Ali et al. (2022).

    Args:
      composite: for the layers; or a rule for all of them, or a name.
      attention: "attnlrp" or "cplrp".
    """
    expect_choice("attention", attention, get_args(Attention))
    made = make_composite(composite)
    return ForTransformers(made.composite if isinstance(made, ForTransformers) else made, attention)


def preset(name: str, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Composite:
    """A common composite, by name.

    "epsilon": epsilon 1e-6 everywhere. "zplus", also "deep_taylor": z+ everywhere.
    "alpha2_beta1": AlphaBeta(2, 1) everywhere. "epsilon_plus": epsilon for dense layers, z+ for
    convolutions. "epsilon_alpha2_beta1": epsilon and AlphaBeta(2, 1). "epsilon_gamma": epsilon and
    Gamma(0.25). "epsilon_plus_flat", "epsilon_alpha2_beta1_flat": Flat for the first layer.
    "attnlrp", "cplrp": epsilon 1e-9 everywhere, with `for_transformers`.

    Args:
      name: one of these.
      low, high: bounds of the input; with both the first layer has `ZBox(low, high)`.
    """
    expect_choice("composite", name, PRESETS)
    chosen = PRESETS[name]
    got = f"low={low}, high={high}"
    expect((low is None) == (high is None), "low, high", "both bounds or none", got)
    return chosen if low is None or high is None else _with_first(chosen, ZBox(low, high))


def make_composite(composite: Composite | Rule | str) -> Composite:
    """A composite from a composite, a rule for all layers, or a name."""
    if isinstance(composite, str):
        return preset(composite)
    if _takes(composite, 2):
        return uniform(composite)  # type: ignore[arg-type]
    expected = "a composite, a rule (a function of a layer and relevance) or a name"
    expect(_takes(composite, 1), "composite", expected, composite)
    return composite  # type: ignore[return-value]


def _with_first(composite: Composite, rule: Rule) -> Composite:
    if isinstance(composite, ForTransformers):
        inner = _with_first(composite.composite, rule)
        return dataclasses.replace(composite, composite=inner)
    return lambda layers: [rule, *composite(layers)[1:]]


def _matches(name: str, pattern: str) -> bool:
    """True if a pattern matches the name of a layer, a part of it, or a module around it."""
    return fnmatch.fnmatchcase(f"/{name}/", f"*/{pattern}/*")


def _takes(function: object, n: int) -> bool:
    """True if a function can be called with n arguments; False for a class."""
    if not callable(function) or isinstance(function, type):
        return False
    try:
        inspect.signature(function).bind(*range(n))
    except TypeError:
        return False
    except ValueError:  # no signature, as for some functions written in C
        return True
    return True


def _expect_rule(name: str, rule: Rule) -> Rule:
    name_of = getattr(rule, "__name__", "")
    got = f"{name_of}; make one: {name_of}()" if isinstance(rule, type) else repr(rule)
    expected = "a rule, such as Epsilon() or a function of a layer and relevance"
    expect(_takes(rule, 2), name, expected, got, kind=TypeError)
    return rule


_PLUS, _EPSILON, _A2B1 = ZPlus(), Epsilon(), AlphaBeta(2.0, 1.0)
PRESETS.update(
    epsilon=uniform(_EPSILON),
    zplus=uniform(_PLUS),
    deep_taylor=uniform(_PLUS),
    alpha2_beta1=uniform(_A2B1),
    epsilon_plus=by_kind(conv=_PLUS, dense=_EPSILON),
    epsilon_alpha2_beta1=by_kind(conv=_A2B1, dense=_EPSILON),
    epsilon_gamma=by_kind(conv=Gamma(), dense=_EPSILON),
    epsilon_plus_flat=by_kind(conv=_PLUS, dense=_EPSILON, first=Flat()),
    epsilon_alpha2_beta1_flat=by_kind(conv=_A2B1, dense=_EPSILON, first=Flat()),
    attnlrp=for_transformers(Epsilon(1e-9), "attnlrp"),
    cplrp=for_transformers(Epsilon(1e-9), "cplrp"),
)
