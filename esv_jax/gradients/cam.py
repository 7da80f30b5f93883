"""Grad-CAM, signed: activations weighted by the mean gradient of their channel.

    alpha[d] = mean over positions p of dF/dA[p, d]
    map[p]   = sum over channels d of alpha[d] * A[p, d]

Source: Selvaraju et al. (2017), Eqs. (1) and (2). They end with a ReLU; Price & Damen (2020) leave
it out, for frames can count against a class, and so do we unless asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

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
    pull_rows,
    weighted_gradient,
)

Over = Literal["sequence", "element"]
OVERS: tuple[Over, ...] = get_args(Over)
Interceptor: TypeAlias = Callable[[Any, Any, Any, Any], Any]


def grad_cam(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    over: Over = "sequence",
    relu: bool = False,
) -> Array:
    """Signed Grad-CAM with the input as its activations, e.g. frame features (n, D) -> (n,).

    Args:
      fn: x -> scores (C,), in JAX; of an output with `logits`, these.
      x: activations (n, ..., D), elements first and channels last, floating point.
      target: a class, K classes, or None for all.
      over: positions over which a channel's gradient is averaged: those of the whole sequence, as
        Grad-CAM has it, or of each element alone, as for models that see frames one by one. Of
        features (n, D) the latter is gradient x input, summed over D.
      relu: whether negative values become zero.
    Returns:
      (n, ...), one value per position; with the classes as a last axis unless target is one class.
      float32 at least.
    Raises:
      TypeError: x, fn or target of another kind. ValueError: x without channels, another `over`,
      fn without a vector of scores, a target out of range (NaN where traced), x or the result
      not finite (values are not checked while tracing).
    Cost: a forward pass and a backward pass per class.
    """
    x = expect_input(x)
    expect(x.ndim >= 2, "x", "shape (n, ..., D)", x.shape)
    expect_choice("over", over, OVERS)
    fn = ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    found = _map(x, weighted_gradient(fn, x, weights), weights, over, relu)
    return expect_finite_result("grad_cam", found)


def grad_cam_at(
    model: nn.Module,
    variables: Mapping[str, Any],
    x: Any,
    target: Target = None,
    *,
    layer: str,
    call: int | None = None,
    head: Callable[[Any], Array] | None = None,
    over: Over = "sequence",
    relu: bool = False,
    **kwargs: Any,
) -> Array:
    """Signed Grad-CAM at what a layer of a Flax Linen model puts out.

        grad_cam_at(ResNet50(), variables, frames, target, layer="layer4_2", head=fn)  # (n, 7, 7)

    The model is run as it is, with a zero added to that output whose gradient is taken; nothing
    stays behind in it.

    Args:
      model: Linen module; variables: its variables.
      x: its input, floating point, e.g. a clip (t, h, w, 3), or frames (n, h, w, 3).
      target: a class, K classes, or None for all.
      layer: path of a submodule, "layer4_2" or "layer4_2/conv3", or of another of its methods,
        "encoder/features".
      call: which of its calls, from 0, where there are several.
      head: from the model's output to scores (C,); default the output itself, or its `logits`.
      over, relu: see `grad_cam`.
      **kwargs: of `model.apply`, e.g. train=False.
    Returns:
      (t, h, w) of a layer (t, h, w, c): all axes but the channels. Classes last unless target is
      one class. float32 at least.
    Raises:
      TypeError: arguments of another kind. ValueError: an unknown layer (what puts out no array is
      none), one called several times without `call`, one in a lifted loop such as `nn.scan`, one
      without channels, and as `grad_cam`.
    Cost: a forward pass and a backward pass, to the layer, per class.
    """
    kind = type(model).__name__
    expect(isinstance(model, nn.Module), "model", "a Linen module", kind, kind=TypeError)
    expect_choice("over", over, OVERS)
    x = expect_input(x)
    free = {name: value for name, value in variables.items() if name != "intermediates"}
    calls: dict[str, list[Any]] = {}
    with nn.intercept_methods(_note_outputs(calls)):
        jax.eval_shape(lambda: model.apply(free, x, **kwargs))
    path = _path_of(layer, calls)
    place = _place_of(layer, calls[path], call)
    shape = calls[path][place]

    def perturbed(perturbation: Array) -> tuple[Array, Array]:
        """Scores with a perturbation added to the layer's output, and that output."""
        with nn.intercept_methods(_add_at(path, place, perturbation)):
            out, state = model.apply(
                free,
                x,
                capture_intermediates=lambda module, method: _name(module, method) == path,
                mutable=["intermediates"],
                **kwargs,
            )
        kept = traverse_util.flatten_dict(state.get("intermediates", {}), sep="/").get(path, ())
        fits = len(kept) > place and kept[place].shape == shape.shape
        way_out = "Take a layer outside of the loop."
        expect(fits, "layer", "a layer that runs once per call", f"{layer!r}, in a loop", way_out)
        return class_scores(out if head is None else head(out)), kept[place]

    zero = jnp.zeros(shape.shape, shape.dtype)
    weights = class_weights(target, ScoresOf(lambda at: perturbed(at)[0]).traced(zero))
    _, pull, activations = jax.vjp(perturbed, zero, has_aux=True)
    found = _map(activations, pull_rows(pull, weights), weights, over, relu)
    return expect_finite_result("grad_cam_at", found)


def _map(activations: Array, gradients: Array, weights: Array, over: Over, relu: bool) -> Array:
    """Maps of activations (n, ..., D) from gradients like them, or (K, n, ..., D) of K classes."""
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


def _note_outputs(calls: dict[str, list[Any]]) -> Interceptor:
    """Note the shape of every output that is an array, call by call."""

    def interceptor(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = method(*args, **kwargs)
        if isinstance(out, Array):
            name = _name(context.module, context.method_name)
            calls.setdefault(name, []).append(jax.ShapeDtypeStruct(out.shape, out.dtype))
        return out

    return interceptor


def _add_at(path: str, place: int, perturbation: Array) -> Interceptor:
    """Add a perturbation to one output of one method; all else is left alone."""
    n_seen = 0

    def interceptor(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal n_seen
        out = method(*args, **kwargs)
        if not isinstance(out, Array) or _name(context.module, context.method_name) != path:
            return out
        n_seen += 1
        return out + perturbation if n_seen == place + 1 else out

    return interceptor


def _path_of(layer: str, calls: Mapping[str, Any]) -> str:
    """The method that a layer's name stands for; refuses unknown names with the nearest."""
    expect(isinstance(layer, str), "layer", "a name", type(layer).__name__, kind=TypeError)
    for path in (f"{layer}/__call__", layer):
        if path in calls:
            return path
    names = [path.removesuffix("/__call__") for path in calls]
    way_out = nearest(layer, names) or f"There are {', '.join(names[:8])} and others."
    raise ValueError(message("layer", "a layer of the model", repr(layer), way_out))


def _place_of(layer: str, outputs: Sequence[Any], call: int | None) -> int:
    """Which call of a layer is meant; refuses doubt, and outputs without positions."""
    n_calls = len(outputs)
    if call is None:
        got = f"{layer!r}, called {n_calls} times"
        expect(n_calls == 1, "layer", "one call", got, f"Give call, 0 to {n_calls - 1}.")
        call = 0
    expect_int("call", call, 0)
    expect(call < n_calls, "call", f"a call in 0..{n_calls - 1}", call)
    output = outputs[call]
    is_float = jnp.issubdtype(output.dtype, jnp.floating)
    expect(is_float, "layer", "a floating-point output", f"dtype {output.dtype}", kind=TypeError)
    expect(len(output.shape) >= 2, "layer", "an output of shape (n, ..., D)", output.shape)
    return call
