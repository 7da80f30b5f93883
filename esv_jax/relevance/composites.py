"""Composites: which rule meets which layer.

A composite is a function from the layers of a model, in forward order, to one rule for each:

    lrp(fn, clip, target, composite=by_layer([ZBox(0, 1), ZPlus(), Epsilon()]))
    lrp(fn, clip, target, composite=by_kind(conv=ZPlus(), dense=Epsilon(), first=ZBox(0, 1)))
    lrp(fn, clip, target, composite="epsilon_plus")
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from esv_jax.checks import expect, expect_choice
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus

Composite: TypeAlias = Callable[[Sequence[LayerInfo]], Sequence[Rule]]
"""The layers of a model, in forward order -> one rule for each."""

PRESETS: dict[str, Composite] = {}


def by_layer(rules: Sequence[Rule]) -> Composite:
    """One rule per linear layer, in forward order; another number of layers is refused."""
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


def by_kind(
    *, conv: Rule, dense: Rule, first: Rule | None = None, last: Rule | None = None
) -> Composite:
    """Rules by the kind of layer, with others for the first and the last where given."""
    chosen = {"conv": _expect_rule("conv", conv), "dense": _expect_rule("dense", dense)}

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        rules = [chosen[layer.kind] for layer in layers]
        if rules and last is not None:
            rules[-1] = last
        if rules and first is not None:
            rules[0] = first
        return rules

    return choose


def by_depth(rules: Sequence[tuple[float, Rule]]) -> Composite:
    """Rules by depth: pairs of where a rule begins, as a share of the layers 0..1, and the rule.

    `[(0, ZPlus()), (0.5, Gamma()), (0.9, Epsilon())]` gives the first half of the layers z+; layer
    i of n stands at (i + 1/2) / n.
    """
    starts = [start for start, _ in rules]
    fits = len(rules) > 0 and starts[0] == 0 and starts == sorted(starts) and starts[-1] <= 1
    expect(fits, "rules", "starts that rise from 0 to at most 1", starts)
    chosen = [_expect_rule(f"rules[{i}]", rule) for i, (_, rule) in enumerate(rules)]

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        n = len(layers)
        return [
            chosen[sum(start <= (layer.index + 0.5) / n for start in starts) - 1]
            for layer in layers
        ]

    return choose


def by_name(rules: Mapping[str, Rule], default: Rule | None = None) -> Composite:
    """Rules by the name of a layer, or of a module around it; the first pattern that fits counts.

    Args:
      rules: patterns -> rules: a name in full ("TinyCNN/conv1"), its last parts ("conv1",
        "block1/conv1"), or a pattern with `*`. Names are those of Linen modules and of
        `jax.named_scope`; `layers` lists them.
      default: for layers that no pattern fits; without it they are refused.
    """
    for pattern, rule in rules.items():
        _expect_rule(repr(pattern), rule)

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        unused = [p for p in rules if not any(_fits(layer.name, p) for layer in layers)]
        known = ", ".join(layer.name for layer in layers)
        expect(not unused, "composite", "names of layers", unused, f"There are: {known}.")
        found: list[Any] = []
        for layer in layers:
            rule = next((rule for p, rule in rules.items() if _fits(layer.name, p)), default)
            expect(rule is not None, "composite", f"a rule for {layer}", "none", "Give a default.")
            found.append(rule)
        return found

    return choose


def preset(name: str, low: Any = None, high: Any = None) -> Composite:
    """A composite in common use, by name.

    "epsilon": epsilon 1e-6 everywhere. "zplus", also "deep_taylor": z+ everywhere.
    "alpha2_beta1": AlphaBeta(2, 1) everywhere. "epsilon_plus": epsilon for dense layers, z+ for
    convolutions. "epsilon_alpha2_beta1": epsilon and AlphaBeta(2, 1). "epsilon_gamma": epsilon and
    Gamma(0.25). "epsilon_plus_flat", "epsilon_alpha2_beta1_flat": Flat for the first layer.

    Args:
      name: one of these.
      low, high: bounds of the input; with both the first layer has `ZBox(low, high)`.
    """
    expect_choice("composite", name, PRESETS)
    chosen = PRESETS[name]
    both = (low is None) == (high is None)
    expect(both, "low, high", "both bounds or none", f"low={low}, high={high}")
    return chosen if low is None else _with_first(chosen, ZBox(low, high))


def make_composite(composite: Composite | Rule | str) -> Composite:
    """A composite from what people may pass in its place: a rule for all layers, or a name."""
    if isinstance(composite, str):
        return preset(composite)
    if _is_rule(composite):
        return uniform(composite)  # type: ignore[arg-type]
    expect(callable(composite), "composite", "a composite, a rule or a name", composite)
    return composite  # type: ignore[return-value]


def _with_first(composite: Composite, rule: Rule) -> Composite:
    return lambda layers: [rule, *composite(layers)[1:]]


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern is a layer's name, the names of some module around it, or fits them."""
    parts = name.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[start:stop]), pattern)
        for start in range(len(parts))
        for stop in range(start + 1, len(parts) + 1)
    )


def _is_rule(value: Any) -> bool:
    return type(value).__module__ == Epsilon.__module__ and callable(value)


def _expect_rule(name: str, rule: Any) -> Any:
    got = f"{rule.__name__}; make one: {rule.__name__}()" if isinstance(rule, type) else repr(rule)
    is_rule = callable(rule) and not isinstance(rule, type)
    expect(is_rule, name, "a rule, such as Epsilon()", got, kind=TypeError)
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
)
