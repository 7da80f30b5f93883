"""Grad-CAM, signed: activations weighted by the mean gradient of their channel.

    alpha[d] = mean over positions p of dF/dA[p, d]
    map[p]   = sum over channels d of alpha[d] * A[p, d]

Source: Selvaraju et al. (2017), Eqs. (1) and (2), who apply a ReLU to the map. Price & Damen (2020)
omit it because frames can count against a class; so do these functions by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import (
    ScoresOf,
    class_scores,
    expect,
    expect_choice,
    expect_int,
    message,
    nearest,
    wider,
)
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_finite_result,
    expect_input,
    prepare,
    pull_rows,
    weighted_gradient,
)

Over = Literal["sequence", "element"]


def grad_cam(
    fn: ScoreFunction,
    x: ArrayLike,
    target: Target = None,
    *,
    over: Over = "sequence",
    relu: bool = False,
) -> Array:
    """Signed Grad-CAM with the input as the activations, e.g. frame features (n, D) -> (n,).

    Args:
      fn, target: see `gradient`.
      x: activations (n, ..., D), elements first and channels last, floating point.
      over: positions over which the gradient of a channel is averaged: those of the whole
        sequence, as in Grad-CAM, or those of each element, for models that treat frames
        separately. With features (n, D) the latter is gradient x input, summed over D.
      relu: set negative values to zero.
    Returns:
      (n, ...), one value per position; with the classes as a last axis unless target is one class.
      float32 at least.
    Raises:
      As `gradient`; ValueError: x without channels, another `over`.
    Cost: a forward pass and a backward pass per class.
    """
    expect_choice("over", over, get_args(Over))
    fn, x, weights = prepare(fn, x, target)
    expect(x.ndim >= 2, "x", "shape (n, ..., D)", x.shape)
    found = _map(x, weighted_gradient(fn, x, weights), weights, over, relu)
    return expect_finite_result("grad_cam", found)


def grad_cam_at(
    model: nn.Module,
    variables: Mapping[str, chex.ArrayTree],
    x: ArrayLike,
    target: Target = None,
    *,
    layer: str,
    call: int | None = None,
    head: Callable[[Any], Array] | None = None,
    over: Over = "sequence",
    relu: bool = False,
    **kwargs: Any,
) -> Array:
    """Signed Grad-CAM at the output of a layer of a Flax Linen model.

        grad_cam_at(ResNet50(), variables, frames, target, layer="layer4_2", head=fn)  # (n, 7, 7)

    The gradient is taken with respect to a zero added to that output. The model is not changed.

    Args:
      model: Linen module; variables: its variables.
      x: its input, floating point, e.g. a clip (t, h, w, 3), or frames (n, h, w, 3).
      target: a class, K classes, or None for all.
      layer: path of a submodule, "layer4_2" or "layer4_2/conv3", or of another of its methods,
        "encoder/features".
      call: index of the call of the layer, from 0; required where there are several.
      head: from the model's output to scores (C,); default the output itself, or its `logits`.
      over, relu: see `grad_cam`.
      **kwargs: of `model.apply`, e.g. train=False.
    Returns:
      (t, h, w) for a layer (t, h, w, c): all axes but the channels. Classes last unless target is
      one class. float32 at least.
    Raises:
      TypeError: arguments of another kind. ValueError: a layer that is unknown or returns no
      array, that is called several times without `call`, is in a lifted loop such as `nn.scan`,
      or has no channels; and as `grad_cam`.
    Cost: a forward pass and a backward pass, to the layer, per class.
    """
    kind = type(model).__name__
    expect(isinstance(model, nn.Module), "model", "a Linen module", kind, kind=TypeError)
    expect_choice("over", over, get_args(Over))
    x = expect_input(x)
    variables = {name: value for name, value in variables.items() if name != "intermediates"}
    calls: dict[str, list[jax.ShapeDtypeStruct]] = {}

    def record(path: str, out: Array) -> Array:
        calls.setdefault(path, []).append(jax.ShapeDtypeStruct(out.shape, out.dtype))
        return out

    with nn.intercept_methods(_on_outputs(record)):
        jax.eval_shape(lambda: model.apply(variables, x, **kwargs))
    path = _find_path(layer, calls)
    index = _find_call(layer, calls[path], call)
    shape = calls[path][index]

    def scores_and_output(added: Array) -> tuple[Array, Array]:
        """Scores with an array added to the output of the layer, and that output."""
        n_calls = 0

        def add(own: str, out: Array) -> Array:
            nonlocal n_calls
            n_calls += own == path
            return out + added if own == path and n_calls == index + 1 else out

        with nn.intercept_methods(_on_outputs(add)):
            out, state = model.apply(
                variables,
                x,
                capture_intermediates=lambda module, method: _name(module, method) == path,
                mutable=["intermediates"],
                **kwargs,
            )
        kept = traverse_util.flatten_dict(state.get("intermediates", {}), sep="/").get(path, ())
        once = len(kept) > index and kept[index].shape == shape.shape
        got, way_out = f"{layer!r}, in a loop", "Take a layer outside of the loop."
        expect(once, "layer", "a layer that runs once per call", got, way_out)
        return class_scores(out if head is None else head(out)), kept[index]

    zero = jnp.zeros(shape.shape, shape.dtype)
    weights = class_weights(target, ScoresOf(lambda at: scores_and_output(at)[0]).traced(zero))
    _, pull, activations = jax.vjp(scores_and_output, zero, has_aux=True)
    found = _map(activations, pull_rows(pull, weights), weights, over, relu)
    return expect_finite_result("grad_cam_at", found)


def _map(activations: Array, gradients: Array, weights: Array, over: Over, relu: bool) -> Array:
    """Maps of activations (n, ..., D) from gradients like them, or (K, n, ..., D) for K classes."""
    dtype = wider(activations.dtype)
    activations = activations.astype(dtype)
    last = activations.ndim - 1
    positions = tuple(range(1 if over == "element" else 0, last))
    if weights.ndim == 2:
        activations, positions = activations[None], tuple(axis + 1 for axis in positions)
    alpha = gradients.astype(dtype).mean(positions, keepdims=True)
    maps = (alpha * activations).sum(-1)
    return classes_last(jax.nn.relu(maps) if relu else maps, weights)


def _name(module: nn.Module, method: str) -> str:
    """A method by the path of its module, e.g. "layer4_2/conv3/__call__"."""
    path = () if module.scope is None else module.path
    return "/".join((*path, method))


def _on_outputs(change: Callable[[str, Array], Array]) -> Callable[..., Any]:
    """An interceptor that changes every output that is an array, given its method."""

    def interceptor(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = method(*args, **kwargs)
        own = _name(context.module, context.method_name)
        return change(own, out) if isinstance(out, Array) else out

    return interceptor


def _find_path(layer: str, calls: Mapping[str, object]) -> str:
    """The path of the method that a layer's name refers to."""
    expect(isinstance(layer, str), "layer", "a name", type(layer).__name__, kind=TypeError)
    for path in (f"{layer}/__call__", layer):
        if path in calls:
            return path
    names = [path.removesuffix("/__call__") for path in calls]
    way_out = nearest(layer, names) or f"There are {', '.join(names[:8])} and others."
    raise ValueError(message("layer", "a layer of the model", repr(layer), way_out))


def _find_call(layer: str, outputs: Sequence[jax.ShapeDtypeStruct], call: int | None) -> int:
    """The index of a call of a layer; refuses ambiguity, and outputs without positions."""
    n_calls = len(outputs)
    got, way_out = f"{layer!r}, called {n_calls} times", f"Give call, 0 to {n_calls - 1}."
    expect(n_calls == 1 or call is not None, "layer", "one call", got, way_out)
    call = expect_int("call", 0 if call is None else call, 0)
    expect(call < n_calls, "call", f"a call in 0..{n_calls - 1}", call)
    dtype, shape = outputs[call].dtype, outputs[call].shape
    is_floating = bool(jnp.issubdtype(dtype, jnp.floating))
    expect(is_floating, "layer", "a floating-point output", f"dtype {dtype}", kind=TypeError)
    expect(len(shape) >= 2, "layer", "an output of shape (n, ..., D)", shape)
    return call
