"""Attribution maps of a clip by the name of a method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_int, expect_key, expect_shape, message
from esv_jax.estimators import SizeRegression
from esv_jax.explanations import attribute
from esv_jax.games import VariableLength
from esv_jax.gradients import grad_cam_at, gradient_x_input, integrated_gradients, smooth_grad
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    class_weights,
    expect_finite_result,
    expect_input,
    expect_scores,
)
from esv_jax.maps.networks import (
    BoundedNetwork,
    ByIdentity,
    LinenNetwork,
    Network,
    compile_with_network,
    expect_network,
    probabilities,
)
from esv_jax.models.clip_model import ClipModel
from esv_jax.perturbation.occlusion import occlusion
from esv_jax.perturbation.regularisers import Core
from esv_jax.perturbation.step import step
from esv_jax.relevance import discriminative, lrp, preset, selective
from esv_jax.relevance.composites import PRESETS, Composite
from esv_jax.relevance.temporal import Discriminative
from esv_jax.strided import split_strides

_NUMBERS_AT_ONCE = 2**24  # input of the network in one pass

GRAD_CAM_LAYERS: Mapping[str, str] = MappingProxyType(
    {"clip_cnn": "conv_3", "r2plus1d_18": "layer4_1", "c3d": "conv5b"}
)
"""Last convolutions of the networks of a `ClipModel`; of R(2+1)D-18 the last block."""


@dataclass(frozen=True)
class MapSettings:
    """Settings of all methods; each method reads its own.

    Attributes:
      composite: of all LRP methods: a preset, see `relevance.preset`. The first layer has the z-box
        rule if the network has `bounds`.
      sigma: of "selective": threshold in standard deviations of the change, >= 0.
      layer: of "grad_cam": default the last convolution of a `ClipModel`.
      integration_steps: of "integrated_gradients": points on the path from zeros.
      noise_samples: of "smooth_grad": noisy clips.
      noise: of "smooth_grad": standard deviation, as a share of the range of the clip's values.
      window: of "occlusion": frames, rows and columns; default a quarter of each, which makes about
        7 x 7 x 7 windows.
      stride: of "occlusion": of the windows; default half a window.
      areas: of "step": shares of the clip that its masks keep.
      iterations: of "step": updates of the masks.
      core: of "step": shape of the regions of its masks.
      evaluations: of "esv_x_spatial": clips evaluated, at least two per frame.
    """

    composite: str = "epsilon_plus"
    sigma: float = 2.0
    layer: str | None = None
    integration_steps: int = 50
    noise_samples: int = 20
    noise: float = 0.15
    window: tuple[int, int, int] | None = None
    stride: tuple[int, int, int] | None = None
    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    iterations: int = 800
    core: Core = Core()
    evaluations: int = 256

    def __post_init__(self) -> None:
        """Check ranges and kinds."""
        expect_choice("composite", self.composite, PRESETS)
        for name in ("integration_steps", "noise_samples", "iterations", "evaluations"):
            expect_int(name, getattr(self, name), 1)
        for name in ("sigma", "noise"):
            expect(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        for name in ("window", "stride", "areas"):
            value = getattr(self, name)
            fits = value is None or isinstance(value, tuple)
            expect(fits, name, "a tuple", type(value).__name__, kind=TypeError)
        fits = all(0 < area < 1 for area in self.areas) and len(self.areas) > 0
        expect(fits, "areas", "shares between 0 and 1", self.areas)


def clip_map(
    name: str,
    network: Network,
    clip: ArrayLike,
    target: int | Array,
    *,
    key: Array | None = None,
    settings: MapSettings | None = None,
) -> Array:
    """Attribution map of a class's score over a clip by the named method.

    Higher is more evidence for the class; sign and units are those of the method. Attributions per
    channel are summed over channels. "step" and "esv_x_spatial" explain probabilities, the others
    logits.

        step                    sum of masks that preserve the prediction, STEP with its core loss
        step_no_core            the same without the core loss
        lrp                     layer-wise relevance
        selective               the part of that relevance that changes over time
        discriminative          relevance of the clip minus that of its frames at rest
        discriminative_spatial  relevance of its frames at rest
        grad_cam                signed, at the last convolution, resized linearly
        integrated_gradients    from zeros
        smooth_grad             magnitude of the mean gradient over noisy clips
        gradient_x_input        gradient times input
        occlusion               drop under windows of the blurred clip
        esv_x_spatial           ESVs of frames times positive relevance within each
        random                  uniform numbers independent of the network, for comparison

    Args:
      name: one of `METHODS`.
      network: a `ClipModel`, or any object whose `logits` are those of one clip. It is kept alive
        with the programs compiled for it.
      clip: (t, h, w, c), floating point, in the units of the network.
      target: a class, 0..C-1.
      key: `jax.random.key(seed)`, required by random methods; the same key gives the same map.
      settings: default `MapSettings()`.
    Returns:
      (t, h, w) float32.
    Raises:
      ValueError: an unknown name, a missing key, a target out of range, a clip of another size than
      the network's, "grad_cam" without a layer, a map that is not finite (not checked while
      tracing). TypeError: a clip that is not floating point, a network without logits.
    Cost: one compilation per method, network, settings and shape of clips, then the method's.
    """
    expect_choice("name", name, METHODS)
    expect_network(network)
    clip = expect_input(clip)
    expect_one_target(network, clip, target)
    key = expect_key("key", key) if METHODS[name].draws else jax.random.key(0)
    found = compiled(name, network, settings)(clip, jnp.asarray(target), key)
    return expect_finite_result(name, found)


def expect_one_target(network: Network, clip: Array, target: int | Array) -> None:
    """Raise ValueError unless a clip (t, h, w, c) and a target are valid for the network."""
    expect_shape("clip", clip, (None,) * 4, "(t, h, w, c)")
    one_class = class_weights(target, expect_scores(network.logits, clip)).ndim == 1
    expect(one_class, "target", "one class", f"shape {np.shape(target)}")


CompiledMap: TypeAlias = Callable[[Array, Array, Array], Array]
"""(clip, target, key) -> map (t, h, w) float32."""


def compiled(name: str, network: Network, settings: MapSettings | None = None) -> CompiledMap:
    """The compiled function of a method, cached.

    Targets and keys are traced, so all clips of a shape share one program; a target out of range
    gives NaN. Methods that are not random take any key. "step" calls several compiled programs.
    """
    expect_choice("name", name, METHODS)
    expect_network(network)
    return _compiled(name, ByIdentity(network), MapSettings() if settings is None else settings)


@functools.lru_cache(maxsize=64)
def _compiled(name: str, identity: ByIdentity, settings: MapSettings) -> CompiledMap:
    method, network = METHODS[name], identity.network

    def run(network: Network, clip: Array, target: Array, key: Array) -> Array:
        return method.fn(MapInputs(network, clip, target, key, settings)).astype(jnp.float32)

    if method.compiles_itself:
        return functools.partial(run, network)
    return compile_with_network(network, run)


class MapInputs(NamedTuple):
    """Arguments of a map function: as of `clip_map`, with a traced target () and a key."""

    network: Network
    clip: Array
    target: Array
    key: Array
    settings: MapSettings

    @property
    def composite(self) -> Composite:
        """The rules of LRP; with a box for the first layer if the network has bounds."""
        bounds = self.network.bounds if isinstance(self.network, BoundedNetwork) else ()
        return preset(self.settings.composite, *bounds)

    @property
    def split_logits(self) -> ScoreFunction:
        """The logits, with convolutions whose gradients are fast on CPUs."""
        return split_strides(self.network.logits)

    def relevance(self) -> Array:
        """Layer-wise relevance, (t, h, w, c)."""
        return lrp(self.network.logits, self.clip, self.target, composite=self.composite)

    def discriminative(self) -> Discriminative:
        """Spatial and temporal relevance, (t, h, w, c) each."""
        return discriminative(self.network.logits, self.clip, self.target, composite=self.composite)


def _grad_cam(inputs: MapInputs) -> Array:
    network, layer = inputs.network, inputs.settings.layer
    if layer is None and isinstance(network, ClipModel):
        layer = GRAD_CAM_LAYERS.get(network.network)
    if not isinstance(network, LinenNetwork) or layer is None:
        expected = "a ClipModel, or a network with module and variables and a layer, for grad_cam"
        way_out = "Set MapSettings(layer=...)." if isinstance(network, LinenNetwork) else ""
        raise ValueError(message("network", expected, type(network).__name__, way_out))
    found = grad_cam_at(
        network.module,
        network.variables,
        inputs.clip[None],
        inputs.target,
        layer=layer,
        head=lambda logits: logits[0],
    )
    got = f"{layer!r}, {found.shape}"
    expect(found.ndim == 4, "layer", "an output (1, t, h, w, c)", got)
    return jax.image.resize(found[0], inputs.clip.shape[:3], "linear")


def _clips_at_once(clip: Array) -> int:
    """Clips in one pass, as many as fit: a loop over passes triples the time of gradients."""
    return max(1, _NUMBERS_AT_ONCE // clip.size)


def _integrated_gradients(inputs: MapInputs) -> Array:
    return integrated_gradients(
        inputs.split_logits,
        inputs.clip,
        inputs.target,
        steps=inputs.settings.integration_steps,
        batch_size=_clips_at_once(inputs.clip),
    ).sum(-1)


def _smooth_grad(inputs: MapInputs) -> Array:
    clip = inputs.clip
    found = smooth_grad(
        inputs.split_logits,
        clip,
        inputs.target,
        key=inputs.key,
        sigma=inputs.settings.noise * (clip.max() - clip.min()),
        samples=inputs.settings.noise_samples,
        batch_size=_clips_at_once(clip),
    )
    return jnp.abs(found).sum(-1)


def _occlusion(inputs: MapInputs) -> Array:
    t, h, w = (-(-size // 4) for size in inputs.clip.shape[:3])
    window, stride = inputs.settings.window or (t, h, w), inputs.settings.stride
    logits = jax.vmap(inputs.network.logits)
    return occlusion(logits, inputs.clip, inputs.target, window=window, stride=stride)


def _step(with_core: bool, inputs: MapInputs) -> Array:
    settings = inputs.settings
    return step(
        probabilities(inputs.network),
        inputs.clip,
        inputs.target,
        areas=settings.areas,
        mode="preserve",
        iterations=settings.iterations,
        core=settings.core if with_core else None,
        key=inputs.key,
    ).saliency


def _esv_x_spatial(inputs: MapInputs) -> Array:
    return esv_x_spatial(
        inputs.network.logits,
        inputs.clip,
        inputs.target,
        inputs.relevance().sum(-1),
        key=inputs.key,
        evaluations=inputs.settings.evaluations,
    )


class MapMethod(NamedTuple):
    """A method of `METHODS`.

    Attributes:
      fn: `MapInputs` -> map (t, h, w).
      draws: the method is random and needs a key.
      compiles_itself: the method calls compiled programs and is not compiled as a whole.
    """

    fn: Callable[[MapInputs], Array]
    draws: bool = False
    compiles_itself: bool = False


METHODS: Mapping[str, MapMethod] = MappingProxyType(
    {
        "step": MapMethod(functools.partial(_step, True), True, compiles_itself=True),
        "step_no_core": MapMethod(functools.partial(_step, False), True, compiles_itself=True),
        "lrp": MapMethod(lambda i: i.relevance().sum(-1)),
        "selective": MapMethod(lambda i: selective(i.relevance(), i.settings.sigma).sum(-1)),
        "discriminative": MapMethod(lambda i: i.discriminative().temporal.sum(-1)),
        "discriminative_spatial": MapMethod(lambda i: i.discriminative().spatial.sum(-1)),
        "grad_cam": MapMethod(_grad_cam),
        "integrated_gradients": MapMethod(_integrated_gradients),
        "smooth_grad": MapMethod(_smooth_grad, draws=True),
        "gradient_x_input": MapMethod(
            lambda i: gradient_x_input(i.split_logits, i.clip, i.target).sum(-1)
        ),
        "occlusion": MapMethod(_occlusion),
        "esv_x_spatial": MapMethod(_esv_x_spatial, draws=True),
        "random": MapMethod(lambda i: jax.random.uniform(i.key, i.clip.shape[:3]), draws=True),
    }
)
"""Methods by name; see `clip_map`."""


def esv_x_spatial(
    fn: ScoreFunction,
    clip: Array,
    target: int | Array,
    spatial: Array,
    *,
    key: Array,
    evaluations: int = 256,
) -> Array:
    """Element Shapley Values of the frames, distributed within each by a spatial map.

        map[t, y, x] = esv[t] * s[t, y, x],   s = max(spatial, 0) / its sum over the frame

    The scores are probabilities of the class. Missing frames are replaced by the nearest kept ones
    (`freeze`). The prior is 1 / C, or 1/2 for a single logit, whose probability is its sigmoid. The
    values are estimated by `SizeRegression`, exact where `evaluations` cover all subsequences. Each
    frame sums to its value; a frame without positive values in `spatial` is uniform.
    Source: of the values Price & Damen (2020); the product is specific to this package.

    Args:
      fn: clip (t, h, w, c) -> logits (C,), in JAX. clip: floating point.
      target: a class; a traced one out of range gives NaN.
      spatial: (t, h, w), larger where the frame is more relevant.
      key: consumed. evaluations: clips evaluated besides the whole, at least 2 t.
    Returns:
      (t, h, w), in units of probability.
    Cost: `evaluations` + 1 forward passes.
    """
    scores = expect_scores(fn, clip)
    weights = class_weights(target, scores)
    if scores.shape == (1,):  # its sigmoid is the softmax of two logits, the first of them 0
        single = fn
        fn = lambda clip: jnp.concatenate([jnp.zeros(1, scores.dtype), single(clip)])  # noqa: E731
        weights = jnp.concatenate([jnp.zeros(1, scores.dtype), weights])
    n_classes = weights.shape[0]
    n_batches = -(-(evaluations + 1) // _clips_at_once(clip))
    game = VariableLength(
        lambda frames, mask: fn(freeze(frames, mask)), batch_size=-(-(evaluations + 1) // n_batches)
    )
    prior = jnp.full(n_classes, 1 / n_classes, scores.dtype)
    found = attribute(SizeRegression(evaluations), game, clip, prior, key, None)
    values = jnp.matmul(found.values, weights, precision="highest")  # (t,)
    positive = jnp.maximum(spatial, 0)
    total = positive.sum((1, 2), keepdims=True)
    even = 1 / (spatial.shape[1] * spatial.shape[2])
    share = jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), even)
    return values[:, None, None] * share


def freeze(frames: Array, mask: Array) -> Array:
    """Frames (t, ...) with missing ones replaced by the nearest kept one, at ties the earlier.

    Args:
      mask: (t,) bool, the frames kept, at least one.
    """
    t = frames.shape[0]
    own = jnp.arange(t)
    before = lax.cummax(jnp.where(mask, own, -2 * t))
    after = lax.cummin(jnp.where(mask, own, 4 * t), reverse=True)
    nearest = jnp.where(own - before <= after - own, before, after)
    return jnp.take(frames, nearest, axis=0)
