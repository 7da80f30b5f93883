"""Values of groups of elements, where too many elements are in them to enumerate."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.attribution import Attribution
from esv_jax.estimators.exact import Exact
from esv_jax.estimators.surrogate import Surrogate
from esv_jax.estimators.surrogate_fit import Fit, fit_heads, mix_of_scale, polynomial
from esv_jax.estimators.surrogate_plan import SurrogatePlan, draw_subsets
from esv_jax.games.protocol import Cost
from esv_jax.links import Link, apply_link
from esv_jax.records import register_record
from esv_jax.subsequences import membership

MAX_GROUPS = 12  # 4,096 unions
_LEAST_PARTS = 16
_ROWS_AT_ONCE = 1024


@register_record
@dataclasses.dataclass(frozen=True)
class UnionPlan:
    """What is evaluated for g groups of n elements under heads of scales 1..K.

    Attributes:
      models: of the pool that the heads' models are fitted on.
      unions: (U, n) bool, all unions of groups, row = code; the empty one stands for the whole.
      parts: (U, K, r, n) bool, parts of k elements of each union; none beyond `valid` (U, K, r).
      drawn: (U, K), the share of a union's parts of k elements that is there.
    """

    models: SurrogatePlan
    unions: Array
    parts: Array
    valid: Array
    drawn: Array


@dataclasses.dataclass(frozen=True)
class UnionSampling:
    """Shapley values of groups for models that combine heads by scale; the game is `Grouped`.

    The score of a union is built from the means of every head over the union's parts. A mean is
    that of a small model of the head (see `Surrogate`) and the mean of what drawn parts of the
    union have beyond it: unbiased whatever the model, and the better the model, the smaller the
    error. All unions known, the values are exact for them, and efficiency holds. `std_error`
    comes from the spread of the drawn parts, put through the link to first order.

    Attributes:
      settings: of the models; `pool` is also, about, the number of parts drawn per scale. `base`
        and `error_draws` are not used.
    """

    settings: Surrogate
    needs_key: ClassVar[bool] = True
    plan_type: ClassVar[type | None] = None
    pads: ClassVar[bool] = False
    draws_per_sequence: ClassVar[bool] = False

    def prepare(self, game: Any, x: Any, key: Array) -> UnionPlan:
        """Models and parts for the groups x (g, n), which are concrete."""
        least = dataclasses.replace(self.settings, base=_LEAST_PARTS)
        models = least.prepare(game.game, game.x, key)
        groups = tuple(map(tuple, (np.asarray(x) > 0.5).tolist()))
        seed = tuple(int(word) for word in np.ravel(jax.random.key_data(key)))
        return UnionPlan(
            models, *_draw_parts(models.n_scales, groups, self._parts(len(groups)), seed)
        )

    def _parts(self, g: int) -> int:
        return max(self.settings.pool >> g, _LEAST_PARTS)

    def __call__(
        self,
        game: Any,
        x: Array,
        prior: Array,
        *,
        key: Array | None = None,
        plan: UnionPlan | None = None,
        length: Array | None = None,
    ) -> Attribution:
        """Values of the groups x (g, n); see `Attribution`."""
        del length
        if plan is None:
            assert key is not None
            plan = self.prepare(game, x, key)
        pool = game.game.head_logits(game.x, plan.models.pool)
        models = plan.models.astype(pool.dtype)
        logits, variance = _union_logits(game, plan, fit_heads(models, pool))
        result = Exact()(dataclasses.replace(game, table=logits), x, prior)
        weight = _shapley_weights(x.shape[0]).astype(prior.dtype)
        std_error = jnp.sqrt(jnp.matmul(weight**2, variance, precision="highest"))
        return dataclasses.replace(
            result,
            std_error=std_error,
            n_evaluations=plan.models.pool_valid.sum() + plan.valid.sum(),
            exact=False,
            warnings=self.settings.warnings(plan.models.n),
        )

    def doubled(self) -> UnionSampling:
        """Twice the pool."""
        return dataclasses.replace(self, settings=self.settings.doubled())

    def cost(self, game: Any, x: Any) -> Cost:
        """That of the models, and of the parts of all unions."""
        one = self.settings.cost(game.game, game.x)
        unions, scales = 2 ** x.shape[0], min(game.game.n_scales, game.x.shape[0])
        rows = unions * scales * self._parts(x.shape[0])
        held = rows * (game.x.shape[0] + 1) + 8 * unions * game.n_classes(x)
        return Cost(rows, one.n_evaluations + rows, one.n_bytes + held, None)


@functools.lru_cache(maxsize=8)
def _draw_parts(
    n_scales: int, groups: tuple[tuple[bool, ...], ...], most: int, seed: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """`UnionPlan` beyond its models, on the host."""
    rng = np.random.default_rng([*seed, 1])
    g, n = len(groups), len(groups[0])
    unions = membership(np.arange(2**g), g) @ np.array(groups)  # (U, n) bool
    unions[0] = True
    parts = np.zeros((2**g, n_scales, most, n), bool)
    drawn = np.ones((2**g, n_scales))
    for union, table, share in zip(unions, parts, drawn, strict=True):
        elements = np.flatnonzero(union)
        for k in range(1, min(len(elements), n_scales) + 1):
            rows = draw_subsets(rng, len(elements), k, most)
            table[k - 1, : len(rows), elements] = rows.T
            share[k - 1] = len(rows) / math.comb(len(elements), k)
    with jax.ensure_compile_time_eval():  # cached: must not belong to a trace
        return (
            jnp.asarray(unions),
            jnp.asarray(parts),
            jnp.asarray(parts.any(-1)),
            jnp.asarray(drawn, jnp.float32),
        )


def _union_logits(game: Any, plan: UnionPlan, fit: Fit) -> tuple[Array, Array]:
    """Logits f^ms of all unions (U, C), and the variances (U, C) of their scores."""
    n_scales, dtype = plan.models.n_scales, fit.linear.dtype
    most = plan.parts.shape[2]
    one_head = jnp.eye(n_scales, dtype=dtype)

    def one(union: tuple[Array, ...]) -> tuple[Array, Array]:
        member, parts, valid, drawn = union  # (n,), (K, r, n), (K, r), (K,)
        found = game.game.head_logits(game.x, parts)
        modelled = [polynomial(fit, (one_head[k],) * 3, parts[k]) for k in range(n_scales)]
        there = valid.astype(dtype)[..., None]
        beyond = (found - jnp.stack(modelled)) * there
        rows = jnp.maximum(there.sum(1), 1)  # (K, 1)
        mean = beyond.sum(1) / rows
        size = member.sum()
        share = valid.any(1).astype(dtype)[:, None] / jnp.minimum(size, n_scales).astype(dtype)
        model = polynomial(fit, mix_of_scale(n_scales, size, dtype), member[None, :])[0]
        logits = model + (share * mean).sum(0)
        slope = _through(game.link, logits, (beyond - mean[:, None]) * there)
        open_share = (1 - drawn.astype(dtype))[:, None] / jnp.maximum(rows - 1, 1)
        variance = share**2 * open_share * (slope**2).sum(1) / rows
        return logits, variance.sum(0)

    together = max(1, _ROWS_AT_ONCE // most)
    return lax.map(one, (plan.unions, plan.parts, plan.valid, plan.drawn), batch_size=together)


def _through(link: Link, logits: Array, change: Array) -> Array:
    """First-order changes of scores for changes (..., C) of logits (C,)."""
    if link == "identity":
        return change
    p = apply_link(link, logits)
    p = p.reshape((1,) * (change.ndim - 1) + p.shape)
    return p * (change - (p * change).sum(-1, keepdims=True))


def _shapley_weights(g: int) -> Array:
    """Weights (g, 2**g) of the scores of all unions in the values of groups; 0 for the empty."""
    member = membership(np.arange(2**g), g)
    others = member.sum(1, keepdims=True) - member
    share = np.array([1 / (g * math.comb(g - 1, k)) for k in range(g)])
    weight = np.where(member, share[np.minimum(others, g - 1)], -share[np.minimum(others, g - 1)])
    weight[0] = 0
    return jnp.asarray(weight.T, jnp.float32)
