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
from typing import Any, TypeAlias, get_args

import jax.numpy as jnp
from jax.typing import ArrayLike

from esv_jax.checks import expect_choice, message, nearest
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
        if len(rules) != len(layers):
            got = f"{len(layers)}: {', '.join(map(str, layers))}"
            raise ValueError(message("composite", f"{len(rules)} linear layers", got))
        return rules

    return choose


def uniform(rule: Rule) -> Composite:
    """One rule for all layers."""
    rule = _expect_rule("rule", rule)
    return lambda layers: [rule] * len(layers)


def by_kind(
    *, conv: Rule, dense: Rule, first: Rule | None = None, last: Rule | None = None
) -> Composite:
    """Rules by the kind of layer, optionally with others for the first and the last layer."""
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
    """Rules by depth: pairs (start, rule), with starts as a fraction of the layers, 0..1.

    `[(0, ZPlus()), (0.5, Gamma()), (0.9, Epsilon())]` gives the first half of the layers z+; layer
    i of n is at (i + 1/2) / n.
    """
    starts = [start for start, _ in rules]
    if not starts or starts[0] != 0 or starts != sorted(starts) or starts[-1] > 1:
        raise ValueError(message("rules", "starts that rise from 0 to at most 1", starts))
    chosen = [_expect_rule(f"rules[{i}]", rule) for i, (_, rule) in enumerate(rules)]

    def choose(layers: Sequence[LayerInfo]) -> Sequence[Rule]:
        n = len(layers)
        return [
            chosen[sum(start <= (layer.index + 0.5) / n for start in starts) - 1]
            for layer in layers
        ]

    return choose


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
        if unused:
            known = ", ".join(layer.name for layer in layers)
            raise ValueError(
                message("composite", "names of layers", unused, f"There are: {known}.")
            )
        found: list[Rule] = []
        for layer in layers:
            rule = next((rule for p, rule in rules.items() if _matches(layer.name, p)), default)
            if rule is None:
                raise ValueError(
                    message("composite", f"a rule for {layer}", "none", "Give a default.")
                )
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
    if low is None and high is None:
        return chosen
    if low is None or high is None:
        raise ValueError(message("low, high", "both bounds or none", f"low={low}, high={high}"))
    return _with_first(chosen, ZBox(low, high))


def make_composite(composite: Composite | Rule | str) -> Composite:
    """A composite from a composite, a rule for all layers, or a name."""
    if isinstance(composite, str):
        return preset(composite)
    if _takes(composite, 2):
        return uniform(composite)  # type: ignore[arg-type]
    if not _takes(composite, 1):
        expected = "a composite, a rule (a function of a layer and relevance) or a name"
        raise ValueError(message("composite", expected, composite))
    return composite  # type: ignore[return-value]


def fold_batch_norm(
    variables: Mapping[str, Any], pairs: Sequence[tuple[str, str]], epsilon: float = 1e-5
) -> dict[str, Any]:
    """Linen variables with batch norms folded into the layers before them.

    `lrp` folds a batch norm that directly follows a layer by itself.

        kernel' = kernel * scale / sqrt(var + epsilon)
        bias'   = (bias - mean) * scale / sqrt(var + epsilon) + norm's bias

    The batch norm gets mean 0, variance 1 - epsilon, scale 1 and bias 0: the outputs of the model
    at evaluation are the same up to rounding.

    Args:
      variables: {"params": ..., "batch_stats": ...}; not changed.
      pairs: paths of a layer and of the batch norm right after it, e.g. ("conv1", "bn1") or
        ("block/conv", "block/bn"). The layer has a kernel with the output channels as its last
        axis, and a bias.
      epsilon: of the batch norms.
    Raises:
      ValueError: a missing path, a layer without a bias, another number of channels.
    """
    folded = _copied(variables)
    params, stats = folded.get("params", {}), folded.get("batch_stats", {})
    for layer_path, norm_path in pairs:
        layer = _at(params, layer_path, "params")
        norm, stat = _at(params, norm_path, "params"), _at(stats, norm_path, "batch_stats")
        if not {"kernel", "bias"} <= set(layer):
            got, way_out = (
                f"only {sorted(layer)}",
                "Build the model with use_bias=True, the bias zero.",
            )
            raise ValueError(message(layer_path, "a kernel and a bias", got, way_out))
        channels, known = layer["kernel"].shape[-1], stat["mean"].shape
        if known != (channels,):
            raise ValueError(message(norm_path, f"({channels},) channels", known))
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
        if part not in known:
            way_out = nearest(part, known) or f"There are: {', '.join(map(str, known))}."
            got = f"no {part!r} in {seen!r}"
            raise ValueError(message(f"{collection}/{path}", "a module of the model", got, way_out))
        tree, seen = tree[part], f"{seen}/{part}".strip("/")
    return tree


def _with_first(composite: Composite, rule: Rule) -> Composite:
    if isinstance(composite, ForTransformers):
        inner = _with_first(composite.composite, rule)
        return dataclasses.replace(composite, composite=inner)
    return lambda layers: [rule, *composite(layers)[1:]]


def _matches(name: str, pattern: str) -> bool:
    """True if a pattern matches the name of a layer, a part of it, or a module around it."""
    parts = name.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[start:stop]), pattern)
        for start in range(len(parts))
        for stop in range(start + 1, len(parts) + 1)
    )


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
    if not _takes(rule, 2):
        got = repr(rule)
        if isinstance(rule, type):
            got = f"{rule.__name__}; make one: {rule.__name__}()"
        expected = "a rule, such as Epsilon() or a function of a layer and relevance"
        raise TypeError(message(name, expected, got))
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
