"""Objective of a mask: the prediction that it keeps or destroys, plus regularisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.blur import EDGE, Edge
from esv_jax.metrics.voxels import scores_of_targets
from esv_jax.perturbation.masks import MaskGenerator
from esv_jax.perturbation.pyramids import Perturbation, perturb
from esv_jax.perturbation.regularisers import Core, area_loss, core_loss, difference_loss

Mode = Literal["preserve", "delete", "dual"]
MODES: tuple[Mode, ...] = get_args(Mode)
ClipFunction: TypeAlias = Callable[[Array], Array]
"""Clips (B, t, h, w, c) -> probabilities (B, C), in JAX, by softmax or independent sigmoids."""


@dataclass(frozen=True)
class Masking:
    """Construction of masks and the content that replaces masked regions.

    Attributes:
      perturbation: "blur" or "fade", see `pyramid`.
      levels, max_blur, edge: of the pyramid.
      step: pixels between the cells of a mask; default a sixteenth of a frame's shorter side, as
        published for 112 pixels: 7.
      sigma: their reach in pixels; default 11 / 7 of the step.
    """

    perturbation: Perturbation = "blur"
    levels: int = 8
    max_blur: float = 20.0
    edge: Edge = EDGE
    step: int | None = None
    sigma: int | None = None

    def generator(self, shape: tuple[int, int]) -> MaskGenerator:
        """Return the generator of masks of frames (h, w)."""
        step = max(1, round(min(shape) / 16)) if self.step is None else self.step
        sigma = max(1, round(step * 11 / 7)) if self.sigma is None else self.sigma
        return MaskGenerator(shape, step, sigma)


@dataclass(frozen=True)
class Weights:
    """Weights of the regularisers by iteration i = 0, 1, ...

    Attributes:
      area: of the area (and difference) loss at first; min(limit, area * growth ** i) later.
      growth: by iteration. limit: at most.
      core: of the core loss from iteration `core_after` + 1 on, and 0 before.
      core_after: iterations in which masks find their place first.
    """

    area: float
    growth: float
    limit: float
    core: float
    core_after: int

    def area_at(self, iteration: Array) -> Array:
        """The weight of the area loss, float32."""
        grown = self.area * jnp.asarray(self.growth, jnp.float32) ** iteration.astype(jnp.float32)
        return jnp.minimum(grown, self.limit)

    def core_at(self, iteration: Array) -> Array:
        """The weight of the core loss, float32."""
        return jnp.where(iteration > self.core_after, jnp.float32(self.core), jnp.float32(0))


def published_weights() -> Weights:
    """The weights of Li et al. (2021): the area counts 300 from the start, and grows slowly."""
    return Weights(area=300.0, growth=1.0008668, limit=float("inf"), core=300.0, core_after=100)


def ramped_weights(iterations: int) -> Weights:
    """Weights under which the prediction decides where a mask lies before its area matters.

    That of the area grows from 10 to 600 in the first half of the iterations; the core begins
    after an eighth of them.
    """
    half = max(iterations // 2, 1)
    growth = float((600 / 10) ** (1 / half))
    return Weights(10.0, growth, 600.0, core=300.0, core_after=iterations // 8)


@dataclass(frozen=True)
class Objective:
    """The energy of masks of N clips, all A areas at once.

    Attributes:
      fn: clips -> probabilities.
      mode: "preserve" keeps the prediction with the mask, "delete" destroys it without, "dual"
        does both.
      areas: A shares of the volume.
      generator: from small masks to masks.
      weights: of the regularisers.
      core: the shape of the core loss, or None. difference: whether there is a difference loss.
      per_frame: whether every frame has the area.
      dropout: share of frames in which masks are taken as 0, drawn anew in each iteration.
      padded: whether the regularisers see masks with their margin, count cores by their nominal
        size and take equal numbers in order, as the published program does.
    """

    fn: ClipFunction
    mode: Mode
    areas: tuple[float, ...]
    generator: MaskGenerator
    weights: Weights
    core: Core | None
    difference: bool
    per_frame: bool
    dropout: float
    padded: bool


class Energy(NamedTuple):
    """Terms of the energy of N clips and A areas, (N, A) each.

    Attributes:
      total: reward and regularisers, these with the weights that they have in the end, where there
        is one, so that iterations can be compared.
      reward: -log of what is wanted of the prediction.
    """

    total: Array
    reward: Array


def value_and_gradient(
    objective: Objective,
    levels: Array,
    targets: Array,
    small: Array,
    iteration: Array,
    key: Array,
) -> tuple[Energy, Array, Array]:
    """Energy, its gradient, and whether the prediction has any part in it.

    Args:
      levels: the pyramid of the clips, (L, N, t, h, w, c). targets: classes (N,).
      small: small masks (N, A, t, h', w').
      iteration: (), from 0.
      key: of this iteration.
    Returns:
      `Energy`; the gradient by `small`; (N, A) bool, whether that of the reward is not all zero.
    Cost: one forward and backward pass of fn on N * A clips, twice as many for "dual".
    """
    make = objective.generator.padded if objective.padded else objective.generator
    masks, pull = jax.vjp(make, small)

    def rewards(masks: Array) -> tuple[Array, Array]:
        seen = objective.generator.crop(masks) if objective.padded else masks
        each = reward(objective, levels, targets, _with_frames_dropped(seen, objective, key))
        return each.sum(), each

    def prices(masks: Array) -> tuple[Array, Array]:
        now, at_the_end = price(objective, masks, iteration)
        return now.sum(), at_the_end

    (_, reward_each), of_reward = jax.value_and_grad(rewards, has_aux=True)(masks)
    (_, price_each), of_price = jax.value_and_grad(prices, has_aux=True)(masks)
    (gradient,) = pull(of_reward + of_price)
    if not objective.padded:
        evened = objective.generator.evened(small.dtype)
        gradient = gradient * jnp.broadcast_to(evened, gradient.shape)
    is_felt = (of_reward != 0).any((-3, -2, -1))
    return Energy(reward_each + price_each, reward_each), gradient, is_felt


def _with_frames_dropped(masks: Array, objective: Objective, key: Array) -> Array:
    """Masks (N, A, t, h, w) that are 0 in some frames, the same ones for all areas."""
    if not objective.dropout:
        return masks
    n, _, t = masks.shape[:3]
    stays = jax.random.bernoulli(key, 1 - objective.dropout, (n, 1, t, 1, 1))
    return jnp.where(jnp.broadcast_to(stays, masks.shape), masks, jnp.zeros_like(masks))


def reward(objective: Objective, levels: Array, targets: Array, masks: Array) -> Array:
    """-log of what is wanted, (N, A): p(target | mask) and, or, 1 - p(target | 1 - mask)."""
    total = jnp.zeros(masks.shape[:2], masks.dtype)
    kept = probabilities(objective, levels, targets, masks)
    tiny = jnp.finfo(masks.dtype).tiny
    for way, p in kept.items():
        wanted = p if way == "preserve" else 1 - p
        total = total - jnp.log(jnp.maximum(wanted, tiny)).astype(masks.dtype)
    return total


def probabilities(
    objective: Objective, levels: Array, targets: Array, masks: Array
) -> dict[str, Array]:
    """p(target), (N, A), of what masks leave ("preserve") and of what they take ("delete")."""
    ways = {
        "preserve": objective.mode != "delete",
        "delete": objective.mode != "preserve",
    }
    chosen = [way for way, wanted in ways.items() if wanted]
    views = jnp.stack([masks if way == "preserve" else 1 - masks for way in chosen])
    by_area = jax.vmap(perturb, (None, 1), 1)  # levels (L, N, ...), masks (N, A, ...)
    clips = jax.vmap(by_area, (None, 0))(levels, views)  # (ways, N, A, t, h, w, c)
    lead = clips.shape[:3]
    scores = objective.fn(clips.reshape(math.prod(lead), *clips.shape[3:]))
    at = jnp.broadcast_to(targets[None, :, None], lead)
    p = scores_of_targets(scores.reshape(*lead, -1), at)
    return dict(zip(chosen, p, strict=True))


def price(objective: Objective, masks: Array, iteration: Array) -> tuple[Array, Array]:
    """The weighted regularisers of masks (N, A, t, h, w): as they count now, and in the end."""
    weights = objective.weights
    area = jnp.broadcast_to(jnp.asarray(objective.areas, jnp.float32), masks.shape[:2])
    ties: Any = "first" if objective.padded else "share"
    spread = area_loss(masks, area, per_frame=objective.per_frame, ties=ties)
    if objective.difference:
        spread = spread + difference_loss(masks)
    now = weights.area_at(iteration).astype(masks.dtype)
    end = now if math.isinf(weights.limit) else jnp.asarray(weights.limit, masks.dtype)
    if objective.core is None:
        return now * spread, end * spread
    filled = core_loss(masks, area, objective.core, nominal=objective.padded, ties=ties)
    core_now = weights.core_at(iteration).astype(masks.dtype)
    core_end = core_now if math.isinf(weights.limit) else jnp.asarray(weights.core, masks.dtype)
    return now * spread + core_now * filled, end * spread + core_end * filled
