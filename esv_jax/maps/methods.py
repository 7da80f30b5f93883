"""Attribution maps by the name of a method: a network and a clip in, (t, h, w) out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_key, expect_shape
from esv_jax.gradients.derivatives import (
    class_weights,
    expect_finite_result,
    expect_input,
    expect_scores,
)
from esv_jax.maps.functions import (
    MapFunction,
    Question,
    discriminative_part,
    esv_map,
    grad_cam_map,
    gradient_map,
    integrated_map,
    lrp_map,
    occlusion_map,
    random_map,
    selective_map,
    smooth_map,
    step_map,
)
from esv_jax.maps.programs import Same, program
from esv_jax.maps.settings import MapSettings, Network


@dataclass(frozen=True)
class MapMethod:
    """One method.

    Attributes:
      fn: a `Question` -> its map (t, h, w).
      draws: whether it needs a key.
      in_steps: whether it compiles its own steps and calls them from the host, rather than being
        compiled as a whole.
    """

    fn: MapFunction
    draws: bool = False
    in_steps: bool = False


def clip_map(
    name: str,
    network: Network,
    clip: Any,
    target: int | Array,
    *,
    key: Array | None = None,
    settings: MapSettings | None = None,
) -> Array:
    """Return the map of a class's score over a clip by the named method.

    Signed where the method is, in the method's own units: what all have in common is that higher
    is more for the class. Of attributions of every number the sum over channels is taken. Logits
    are explained, except by "step" and "esv_x_spatial", which explain probabilities.

        step                    where masks of some areas keep the prediction, STEP with its core
        step_no_core            the same without the term for connected volumes
        lrp                     layer-wise relevance
        selective               what of that relevance changes over time
        discriminative          what relevance the clip has beyond that of its frames at rest
        discriminative_spatial  the relevance of its frames at rest
        grad_cam                signed, at the last convolution, enlarged linearly
        integrated_gradients    from zeros
        smooth_grad             magnitudes of the mean gradient of noisy clips
        gradient_x_input        as it says
        occlusion               drops where windows of the blurred clip lie
        esv_x_spatial           values of frames times positive relevance within each
        random                  uniform numbers, the same for every network: a yardstick

    Args:
      name: one of `METHODS`.
      network: a `ClipModel`, or any object whose `logits` are those of one clip; see `Network`. It
        is kept, with the programs compiled for it.
      clip: (t, h, w, c), floating point, as the network takes it.
      target: a class, 0..C-1.
      key: `jax.random.key(seed)` of methods that draw; the same key gives the same map. Others
        do without.
      settings: default `MapSettings()`.
    Returns:
      (t, h, w) float32.
    Raises:
      ValueError: an unknown name, a missing key, a target out of range, a clip of another size
      than the network takes, "grad_cam" without a layer, a map that is not finite (not checked
      while tracing). TypeError: a clip that is not floating point, a network without logits.
    Cost: a compilation per method, network, settings and shape of clips, then what the method
      costs.
    """
    expect_choice("name", name, METHODS)
    expect_network(network)
    clip = expect_input(clip)
    expect_shape("clip", clip, (None,) * 4, "(t, h, w, c)")
    one_class = class_weights(target, expect_scores(network.logits, clip)).ndim == 1
    expect(one_class, "target", "one class", f"shape {np.shape(target)}")
    key = expect_key("key", key) if METHODS[name].draws else jax.random.key(0)
    run = compiled(name, network, settings)
    found: Array = run(clip, jnp.asarray(target), key)
    return expect_finite_result(name, found)


def compiled(
    name: str, network: Network, settings: MapSettings | None = None
) -> Callable[[Array, Array, Array], Array]:
    """The compiled function of a method, (clip, target, key) -> map; the same one when asked again.

    Targets and keys are traced, so that all clips of a shape share one program; a target out of
    range gives NaN. Methods that do not draw take any key. "step" is no single program: it calls
    compiled steps, kept as well. See `clip_map`.

    Raises:
      ValueError: an unknown name. TypeError: a network without logits.
    """
    expect_choice("name", name, METHODS)
    expect_network(network)
    return _compiled(name, Same(network), MapSettings() if settings is None else settings)


@functools.lru_cache(maxsize=64)
def _compiled(name: str, same: Same, settings: MapSettings) -> Callable[..., Array]:
    method, network = METHODS[name], same.network

    def answer(given: Any, clip: Array, target: Array, key: Array) -> Array:
        return method.fn(Question(given, clip, target, key, settings)).astype(jnp.float32)

    return functools.partial(answer, network) if method.in_steps else program(network, answer)


def expect_network(network: Any) -> None:
    """Refuse what has no logits."""
    fits = callable(getattr(network, "logits", None))
    way_out = "Give a ClipModel, or an object with a function logits(clip) -> (C,)."
    expect(fits, "network", "one with logits", type(network).__name__, way_out, kind=TypeError)


METHODS: Mapping[str, MapMethod] = MappingProxyType(
    {
        "step": MapMethod(step_map(core=True), draws=True, in_steps=True),
        "step_no_core": MapMethod(step_map(core=False), draws=True, in_steps=True),
        "lrp": MapMethod(lrp_map),
        "selective": MapMethod(selective_map),
        "discriminative": MapMethod(discriminative_part("temporal")),
        "discriminative_spatial": MapMethod(discriminative_part("spatial")),
        "grad_cam": MapMethod(grad_cam_map),
        "integrated_gradients": MapMethod(integrated_map),
        "smooth_grad": MapMethod(smooth_map, draws=True),
        "gradient_x_input": MapMethod(gradient_map),
        "occlusion": MapMethod(occlusion_map),
        "esv_x_spatial": MapMethod(esv_map, draws=True),
        "random": MapMethod(random_map, draws=True),
    }
)
"""What there is, by name; see `clip_map`."""
