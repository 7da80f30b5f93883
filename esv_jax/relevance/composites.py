"""Composites: which rule meets which layer.

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
from typing import Any, TypeAlias, get_args

import jax.numpy as jnp

from esv_jax.checks import expect, expect_choice, nearest
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.operation_rules import Attention
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
    for name, rule in (("first", first), ("last", last)):
        if rule is not None:
            _expect_rule(name, rule)

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
    if default is not None:
        _expect_rule("default", default)

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


@dataclasses.dataclass(frozen=True)
class ForTransformers:
    """A composite, with rules for what is no layer in a transformer; see `for_transformers`."""

    composite: Composite
    attention: Attention

    def __call__(self, layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        """The rules of the layers."""
        return self.composite(layers)


def for_transformers(
    composite: Composite | Rule | str, attention: Attention = "attnlrp"
) -> ForTransformers:
    """A composite with rules for softmaxes, norms and products of two activations as well.

    - A product of two activations, elementwise or of matrices (attention, gates), gives half of
      its relevance to each.
    - A softmax gives x_i (R_i - softmax(x)_i sum_j R_j) to its scores: its Taylor expansion.
      For "cplrp" attention weights are constants, and all relevance passes the values.
    - What a norm (layer, RMS, group, L2) divides by is a constant.

    Activations, capped scores among them, pass relevance on unchanged, as everywhere. With these
    rules biases and other constants take their share by default.
    Source: Achtibat et al. (2024), AttnLRP, section 3; "cplrp" Ali et al. (2022).

    Args:
      composite: of the layers; a rule for all of them, or a name.
      attention: "attnlrp" or "cplrp".
    """
    expect_choice("attention", attention, get_args(Attention))
    made = make_composite(composite)
    return ForTransformers(made.composite if isinstance(made, ForTransformers) else made, attention)


def preset(name: str, low: Any = None, high: Any = None) -> Composite:
    """A composite in common use, by name.

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
    both = (low is None) == (high is None)
    expect(both, "low, high", "both bounds or none", f"low={low}, high={high}")
    return chosen if low is None else _with_first(chosen, ZBox(low, high))


def make_composite(composite: Composite | Rule | str) -> Composite:
    """A composite from what people may pass in its place: a rule for all layers, or a name."""
    if isinstance(composite, str):
        return preset(composite)
    if _takes(composite, 2):
        return uniform(composite)  # type: ignore[arg-type]
    expected = "a composite, a rule (a function of a layer and relevance) or a name"
    expect(_takes(composite, 1), "composite", expected, composite)
    return composite  # type: ignore[return-value]


def fold_batch_norm(
    variables: Mapping[str, Any], pairs: Sequence[tuple[str, str]], epsilon: float = 1e-5
) -> dict[str, Any]:
    """Linen variables whose batch norms do nothing, folded into the layers before them.

        kernel' = kernel * scale / sqrt(var + epsilon)
        bias'   = (bias - mean) * scale / sqrt(var + epsilon) + norm's bias

    The batch norm is left with mean 0, variance 1 - epsilon, scale 1 and bias 0: the outputs of
    the model at evaluation are the same to rounding.

    Args:
      variables: {"params": ..., "batch_stats": ...}; left as it is.
      pairs: paths of a layer and of the batch norm right after it, e.g. ("conv1", "bn1") or
        ("block/conv", "block/bn"). The layer has a kernel with the output channels as its last
        axis, and a bias.
      epsilon: of the batch norms.
    Raises:
      ValueError: a path that is not there, a layer without a bias (there would be no place for
      the norm's), another number of channels.
    """
    folded = _copied(variables)
    params, stats = folded.get("params", {}), folded.get("batch_stats", {})
    for layer_path, norm_path in pairs:
        layer = _at(params, layer_path, "params")
        norm, stat = _at(params, norm_path, "params"), _at(stats, norm_path, "batch_stats")
        way_out = "Build the model with use_bias=True, the bias zero."
        got = f"only {sorted(layer)}"
        expect({"kernel", "bias"} <= set(layer), layer_path, "a kernel and a bias", got, way_out)
        channels, known = layer["kernel"].shape[-1], stat["mean"].shape
        expect(known == (channels,), norm_path, f"({channels},) channels", known)
        scale = norm.get("scale", jnp.ones_like(stat["mean"])) / jnp.sqrt(stat["var"] + epsilon)
        layer["kernel"] = layer["kernel"] * scale.reshape((1,) * (layer["kernel"].ndim - 1) + (-1,))
        layer["bias"] = (layer["bias"] - stat["mean"]) * scale + norm.get("bias", 0)
        stat["mean"] = jnp.zeros_like(stat["mean"])
        stat["var"] = jnp.full_like(stat["var"], 1 - epsilon)
        for name, value in (("scale", jnp.ones_like), ("bias", jnp.zeros_like)):
            if name in norm:
                norm[name] = value(norm[name])
    return folded


def _copied(tree: Any) -> Any:
    """The dictionaries copied, the arrays shared."""
    if isinstance(tree, Mapping):
        return {name: _copied(part) for name, part in tree.items()}
    return tree


def _at(tree: Any, path: str, collection: str) -> Any:
    """The part of a tree at a path like "block/conv"."""
    seen = ""
    for part in path.split("/"):
        known = list(tree) if isinstance(tree, Mapping) else []
        name = f"{collection}/{path}"
        way_out = nearest(part, known) or f"There are: {', '.join(map(str, known))}."
        expect(part in known, name, "a module of the model", f"no {part!r} in {seen!r}", way_out)
        tree, seen = tree[part], f"{seen}/{part}".strip("/")
    return tree


def _with_first(composite: Composite, rule: Rule) -> Composite:
    if isinstance(composite, ForTransformers):
        inner = _with_first(composite.composite, rule)
        return dataclasses.replace(composite, composite=inner)
    return lambda layers: [rule, *composite(layers)[1:]]


def _fits(name: str, pattern: str) -> bool:
    """Return whether a pattern equals or matches a layer's name or that of a module around it."""
    parts = name.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[start:stop]), pattern)
        for start in range(len(parts))
        for stop in range(start + 1, len(parts) + 1)
    )


def _takes(function: Any, n: int) -> bool:
    """Return whether something can be called with n arguments; not a class, which would be made."""
    if not callable(function) or isinstance(function, type):
        return False
    try:
        inspect.signature(function).bind(*range(n))
    except TypeError:
        return False
    except ValueError:  # no signature, as of some functions written in C
        return True
    return True


def _expect_rule(name: str, rule: Any) -> Any:
    got = f"{rule.__name__}; make one: {rule.__name__}()" if isinstance(rule, type) else repr(rule)
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
