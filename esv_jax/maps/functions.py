"""Every method as a function of one record: a network, a clip, a class, a key, the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, message
from esv_jax.gradients import grad_cam_at, gradient_x_input, integrated_gradients, smooth_grad
from esv_jax.maps.frame_values import esv_x_spatial
from esv_jax.maps.programs import probabilities
from esv_jax.maps.settings import MapSettings
from esv_jax.perturbation.occlusion import occlusion
from esv_jax.perturbation.step import step
from esv_jax.relevance import discriminative, lrp, preset, selective
from esv_jax.strided import split_strides

_NUMBERS_AT_ONCE = 2**24  # of clips that gradients are taken of together


class Question(NamedTuple):
    """Input of a map function.

    Attributes:
      network: see `Network`. clip: (t, h, w, c), floating point. target: a class, ().
      key: of methods that draw. settings: of all methods.
    """

    network: Any
    clip: Array
    target: Array
    key: Array
    settings: MapSettings


MapFunction: TypeAlias = Callable[[Question], Array]
"""A question -> its map (t, h, w)."""

GRAD_CAM_LAYERS: Mapping[str, str] = MappingProxyType(
    {"clip_cnn": "conv_3", "r2plus1d_18": "layer4_1", "c3d": "conv5b"}
)
"""The last convolutions of a `ClipModel`'s networks, by name; of R(2+1)D-18 the last block."""


def lrp_map(q: Question) -> Array:
    """Layer-wise relevance, summed over channels."""
    return _relevance(q).sum(-1)


def selective_map(q: Question) -> Array:
    """Part of the layer-wise relevance that changes over time."""
    return selective(_relevance(q), q.settings.sigma).sum(-1)


def discriminative_part(part: Literal["spatial", "temporal"]) -> MapFunction:
    """Relevance of frames at rest, or what the clip has beyond it, summed over channels."""

    def fn(q: Question) -> Array:
        composite = _composite(q)
        found = discriminative(q.network.logits, q.clip, q.target, composite=composite)
        both: Array = getattr(found, part)
        return both.sum(-1)

    return fn


def grad_cam_map(q: Question) -> Array:
    """Signed Grad-CAM at a layer, enlarged linearly to the clip."""
    layer = q.settings.layer or GRAD_CAM_LAYERS.get(getattr(q.network, "network", ""))
    has_parts = hasattr(q.network, "module") and hasattr(q.network, "variables")
    way_out = "Set MapSettings(layer=...)." if has_parts else ""
    expected = "a ClipModel, or a network with module and variables and a layer, for grad_cam"
    fits = has_parts and layer is not None
    expect(fits, "network", expected, type(q.network).__name__, way_out)
    found = grad_cam_at(
        q.network.module,
        q.network.variables,
        q.clip[None],
        q.target,
        layer=str(layer),
        head=lambda logits: logits[0],
    )
    if found.ndim != 4:
        raise ValueError(message("layer", "an output (1, t, h, w, c)", f"{layer!r}, {found.shape}"))
    return jax.image.resize(found[0], q.clip.shape[:3], "linear")


def integrated_map(q: Question) -> Array:
    """Integrated Gradients from zeros, summed over channels."""
    fn, steps = split_strides(q.network.logits), q.settings.integration_steps
    found = integrated_gradients(fn, q.clip, q.target, steps=steps, batch_size=_at_once(q.clip))
    return found.sum(-1)


def smooth_map(q: Question) -> Array:
    """Magnitudes of the mean gradient of noisy clips, summed over channels."""
    found = smooth_grad(
        split_strides(q.network.logits),
        q.clip,
        q.target,
        key=q.key,
        sigma=q.settings.noise * (q.clip.max() - q.clip.min()),
        samples=q.settings.noise_samples,
        batch_size=_at_once(q.clip),
    )
    return jnp.abs(found).sum(-1)


def gradient_map(q: Question) -> Array:
    """Gradient x input, summed over channels."""
    return gradient_x_input(split_strides(q.network.logits), q.clip, q.target).sum(-1)


def occlusion_map(q: Question) -> Array:
    """Mean drops of the logit under windows of the blurred clip."""
    t, h, w = (-(-size // 4) for size in q.clip.shape[:3])
    window = q.settings.window or (t, h, w)
    fn = jax.vmap(q.network.logits)
    return occlusion(fn, q.clip, q.target, window=window, stride=q.settings.stride)


def step_map(*, core: bool) -> MapFunction:
    """The sum of the masks of all areas that keep the prediction, with or without the core loss."""

    def fn(q: Question) -> Array:
        found = step(
            probabilities(q.network),
            q.clip,
            q.target,
            areas=q.settings.areas,
            mode="preserve",
            iterations=q.settings.iterations,
            core=q.settings.core if core else None,
            key=q.key,
        )
        return found.saliency

    return fn


def esv_map(q: Question) -> Array:
    """Values of frames times the positive relevance within each."""
    spatial = _relevance(q).sum(-1)
    fn, n = q.network.logits, q.settings.evaluations
    return esv_x_spatial(fn, q.clip, q.target, spatial, key=q.key, evaluations=n)


def random_map(q: Question) -> Array:
    """Uniform numbers."""
    return jax.random.uniform(q.key, q.clip.shape[:3])


def _at_once(clip: Array) -> int:
    """Clips in one pass, as many as can be: a loop over passes triples the time of gradients."""
    return max(1, _NUMBERS_AT_ONCE // clip.size)


def _composite(q: Question) -> Any:
    return preset(q.settings.composite, *getattr(q.network, "bounds", ()))


def _relevance(q: Question) -> Array:
    """(t, h, w, c)."""
    return lrp(q.network.logits, q.clip, q.target, composite=_composite(q))
