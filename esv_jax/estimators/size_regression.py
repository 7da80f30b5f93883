"""Sampled ESVs of row-wise games: pairs of complements, regressed size by size together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_int
from esv_jax.estimators.pair_plan import PairPlan, as_floats, draw_pairs, make_pair_plan
from esv_jax.estimators.spread import only_whole
from esv_jax.games.protocol import SubsetGame
from esv_jax.games.scoring import GameInfo, Request

_NOISE = 0.1  # prior share of what is not additive in the variance of a pair's difference
_COMPONENTS = 32  # of the effects' covariance over sizes
_DECAY = 0.8  # prior correlation exp(-_DECAY |s - t| / n) of an element's effects at two sizes


@dataclasses.dataclass(frozen=True)
class SizeRegression:
    """ESVs of a game that scores each subsequence on its own, from `budget` evaluations.

    With v the scores after the link, the mean over scales of what an element adds is

        phi_i = 1/n [ v(X) - v(empty) + sum over s = 1..n-1 of d_si ],
        d_si  = mean(v(S): |S| = s, i in S) - mean(v(S): |S| = s, i not in S),

    since the mean of v at size s is (s/n) of one mean and (1 - s/n) of the other. At every size
    the d_si sum to zero over i, as do their estimates here, so efficiency holds at any budget.

    Subsequences come in pairs with their complements: d_s + d_(n-s) is the effect at size s of
    the pair's difference u(S) = v(S) - v(X \\ S), from which whatever is even under complement,
    pairwise interactions above all, is gone. Sizes that are enumerated are read off directly. At
    the others the effects are the posterior mean of a linear model of all pairs at once,

        u(S) = mean_s + sum_i b_si z_i + noise,   z_i = ([i in S] - s/n) / sqrt(s (1 - s/n)),

    b_si correlated over sizes by exp(-0.8 |s - t| / n), nine parts of the variance to one of
    noise; "noise" being u's own, it is known where it was seen, so that with all subsequences the
    estimate is exact. The weights depend on the sample alone: the estimate is linear in v. It is
    biased towards effects that are alike at all sizes where there are few pairs per size; the
    bias goes with the budget.

    `std_error` is the posterior standard deviation, in units of the leave-one-out errors of the
    pairs, class by class. Near the least budget it may be too small.

    Source: per-size means as Price & Damen (2020), Eq. (7); pairs as in Covert & Lee (2021),
    Improving KernelSHAP; posterior of a linear model as Rasmussen & Williams (2006), section 2.7.

    Attributes:
      budget: most distinct subsequences evaluated beside the whole one; at least 2n. From
        2**n - 2 the result is exact and `std_error` zero. None is max(512, 8 n).
    Raises:
      ValueError: on a budget below 1, or (when called) below the least one for n elements; on a
      `length` other than n: padded sequences are not taken. TypeError: on a game that combines
      scales.
    """

    budget: int | None = None
    takes: ClassVar[tuple[type, ...]] = (SubsetGame,)
    needs_key: ClassVar[bool] = True
    plan_type: ClassVar[type | None] = None
    pads: ClassVar[bool] = False
    draws_per_sequence: ClassVar[bool] = True
    draws_on_host: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.budget is not None:
            expect_int("budget", self.budget, 1)

    def _budget(self, n: int) -> int:
        return max(512, 8 * n) if self.budget is None else self.budget

    def draw(self, key: Array | None, info: GameInfo, length: Array | None = None) -> Array:
        """Smaller sides of the pairs, their complements, and the whole: (2 P + 1, n) bool."""
        assert key is not None
        side = draw_pairs(key, make_pair_plan(info.n, self._budget(info.n)))
        return jnp.concatenate([side, ~side, jnp.ones((1, info.n), bool)])

    def replay(self, plan: Any) -> Any:
        """There is no plan."""
        return plan

    def estimate(
        self,
        drawn: Array,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from the scores (2 P + 1, C) of the rows, which have no padding."""
        n, pairs = info.n, make_pair_plan(info.n, self._budget(info.n))
        scores = jnp.asarray(scores)
        u = scores[: pairs.n_pairs] - scores[pairs.n_pairs : -1]  # (P, C)
        effects, std_error = summed_effects(pairs, drawn[: pairs.n_pairs], u)
        whole = scores[-1]
        share = 1.0 / n
        return Attribution(
            values=only_whole((effects + (whole - prior)[None]) * share, n, length),
            scores=whole,
            prior=prior,
            std_error=std_error * share,
            n_evaluations=2 * pairs.n_pairs + 1,
            exact=bool(pairs.enumerated.all()),
        )

    def doubled(self, info: GameInfo) -> SizeRegression | None:
        """Twice the budget."""
        if make_pair_plan(info.n, self._budget(info.n)).enumerated.all():
            return None
        return dataclasses.replace(self, budget=2 * self._budget(info.n))

    def within(self, max_evaluations: int, info: GameInfo) -> SizeRegression | None:
        """The budget that the evaluations allow, the whole sequence counted."""
        if max_evaluations - 1 < 2 * info.n:
            return None
        budget = min(self._budget(info.n), max_evaluations - 1)
        return dataclasses.replace(self, budget=budget)

    def request(self, info: GameInfo) -> Request:
        """Rows, exactly; of memory the scores and the regression's matrices."""
        pairs = make_pair_plan(info.n, self._budget(info.n))
        p, width = pairs.n_pairs, info.n * len(pairs.counts)
        side = min(p, width)
        matrices = 0 if pairs.enumerated.all() else 3 * p * side + 2 * side * side
        return Request("subsets", 2 * p + 1, per_class=6 * p, others=matrices + p * info.n)


class _Model(NamedTuple):
    """Host tables of the regression, per size 1..floor(n / 2); the target is the effects' sum.

    Attributes:
      root: (H, R), whose product with its transpose is the effects' covariance over sizes.
      to_unit: (H,) 1 / norm of centred membership.
      linear: (H,) weights of the b_s (over the mean over elements) in the target.
      own: (H,) weight of a pair's own noise in the target, per unit of z.
      squares: (H,) summed squares of those weights over all pairs, for one element.
    """

    root: np.ndarray
    to_unit: np.ndarray
    linear: np.ndarray
    own: np.ndarray
    squares: np.ndarray


def _model(plan: PairPlan) -> _Model:
    """See `summed_effects`; the target leaves out the sizes that are enumerated."""
    n, sizes = plan.n, np.arange(1, len(plan.counts) + 1)
    total = as_floats([math.comb(n, int(s)) for s in sizes])
    half = 2 * sizes == n
    spread = sizes * (n - sizes) / n  # squared norm of centred membership
    asked = np.where(plan.enumerated, 0.0, np.where(half, 0.5, 1.0))
    sides = np.where(half, 2.0, 1.0)  # a pair of half size is both S and its complement
    # Effects vary little with the size: of many sizes the leading components suffice.
    covariance = np.exp(-_DECAY * np.abs(sizes[:, None] - sizes) / n) * (1 - _NOISE)
    power, component = np.linalg.eigh(covariance)
    return _Model(
        component[:, -_COMPONENTS:] * np.sqrt(power[-_COMPONENTS:]),
        1 / np.sqrt(spread),
        asked * n / (n - 1) / np.sqrt(spread),
        asked * sides * n / np.sqrt(spread) / total,
        asked**2 * sides * n / spread / total,
    )


def summed_effects(plan: PairPlan, side: Array, u: Array) -> tuple[Array, Array]:
    """The sum of effects d_si over s = 1..n-1 from differences of pairs, and its error.

    Args:
      plan: of the pairs.
      side: (P, n) bool, the smaller sides, as `draw_pairs` gives them.
      u: (P, C), score of the side minus score of its complement.
    Returns:
      Effects (n, C), which sum to zero over elements, and their standard error (n, C).
    Cost: a factorisation of min(P, n floor(n/2)) squared numbers, and products with them.
    """
    n, p = plan.n, plan.n_pairs
    if p == 0:
        return jnp.zeros((n, u.shape[1]), u.dtype), jnp.zeros((n, u.shape[1]), u.dtype)
    dtype, sizes = u.dtype, plan.sizes
    centred = side.astype(dtype) - jnp.asarray(sizes / n, dtype)[:, None]  # (P, n)

    # Where every pair is in, the mean with an element minus the mean without it.
    known = plan.enumerated[sizes - 1]
    full = as_floats(plan.totals)[sizes - 1]
    direct = np.where(known, n * n / (sizes * (n - sizes)) / full, 0.0)
    # A pair of half size stands for itself and its complement, and serves one size.
    direct = np.where(2 * sizes == n, direct / 2, direct)
    direct_weight = jnp.asarray(direct, dtype)[:, None]
    if plan.enumerated.all():
        effects = jnp.matmul(centred.T, direct_weight * u, precision="highest")
        return _zero_sum(effects), jnp.zeros_like(effects)

    model = _model(plan)
    unit = centred * jnp.asarray(model.to_unit[sizes - 1], dtype)[:, None]  # rows of norm one
    inverse, diagonal = _inverse(model, sizes, unit)
    # A mean per size, save half size where complements make it zero, is fitted alongside.
    present = [s for s in np.unique(sizes) if 2 * s != n]
    means = jnp.asarray(sizes[:, None] == np.array(present, int)[None, :], dtype)  # (P, sizes)
    coefficient = model.root @ (model.root.T @ model.linear) + _NOISE * model.own
    asked = unit * jnp.asarray(coefficient[sizes - 1], dtype)[:, None]  # (P, n)
    solved = inverse(jnp.concatenate([means, u, asked], axis=1))
    k, c = len(present), u.shape[1]
    of_means, solved = solved[:, :k], solved[:, k:]
    if k:
        gram = cho_factor(jnp.matmul(means.T, of_means, precision="highest"), lower=True)
        fitted = cho_solve(gram, jnp.matmul(means.T, solved, precision="highest"))
        solved = solved - jnp.matmul(of_means, fitted, precision="highest")
        diagonal = diagonal - (of_means * cho_solve(gram, of_means.T).T).sum(1)
    alpha, spanned = solved[:, :c], solved[:, c:]
    effects = jnp.matmul(asked.T, alpha, precision="highest")
    effects += jnp.matmul(centred.T, direct_weight * u, precision="highest")

    # Left-out errors in units of their prior variance; where sizes differ, the larger counts.
    squares = alpha**2 / jnp.maximum(diagonal, 1e-6)[:, None]
    scale = squares.mean(0)  # (C,)
    if not known.all():
        scale = jnp.maximum(scale, squares[np.flatnonzero(~known)].mean(0))
    variance = _error_variance(model, sizes, unit, spanned)
    return _zero_sum(effects), jnp.sqrt(variance[:, None] * scale[None, :])


def _error_variance(model: _Model, sizes: np.ndarray, unit: Array, weights: Array) -> Array:
    """Variance (n,) of target minus weighted differences, weights (P, n), as a sum of squares."""
    dtype, n = unit.dtype, unit.shape[1]
    root = jnp.asarray(model.root[sizes - 1], dtype)  # (P, R)
    asked = jnp.asarray(model.root.T @ model.linear, dtype)  # (R,)
    centring = jnp.asarray(np.eye(n) - 1 / n, dtype)

    def squares(component: tuple[Array, Array]) -> Array:
        of_pairs, of_target = component
        seen = jnp.matmul((unit * of_pairs[:, None]).T, weights, precision="highest")
        return ((of_target * centring - seen) ** 2).sum(0)

    signal = lax.map(squares, (root.T, asked)).sum(0)
    own = unit * jnp.asarray(model.own[sizes - 1], dtype)[:, None]
    unseen = jnp.maximum(model.squares.sum() - (own**2).sum(0), 0)
    noise = ((own - weights) ** 2).sum(0) + unseen
    return signal + _NOISE * noise


def _inverse(model: _Model, sizes: np.ndarray, unit: Array) -> tuple[Any, Array]:
    """The inverse covariance of the pairs' differences, as a function, and its diagonal (P,).

    The covariance is F F' + noise, F (P, H n) the products of sizes' and elements' factors: the
    smaller of its two sides is factorised.
    """
    dtype, (p, n) = unit.dtype, unit.shape
    root = model.root[sizes - 1]  # (P, H)
    h = root.shape[1]
    if p <= h * n:
        over_sizes = jnp.asarray(root @ root.T, dtype)
        covariance = over_sizes * jnp.matmul(unit, unit.T, precision="highest")
        lower = jnp.linalg.cholesky(covariance + _NOISE * jnp.eye(p, dtype=dtype))
        half = solve_triangular(lower, jnp.eye(p, dtype=dtype), lower=True)
        return (lambda b: cho_solve((lower, True), b)), (half**2).sum(0)
    factor = (jnp.asarray(root, dtype)[:, :, None] * unit[:, None, :]).reshape(p, h * n)
    inner = jnp.matmul(factor.T, factor, precision="highest")
    lower = jnp.linalg.cholesky(inner + _NOISE * jnp.eye(h * n, dtype=dtype))
    half = solve_triangular(lower, factor.T, lower=True)  # (H n, P)

    def once(b: Array) -> Array:
        inside = jnp.matmul(half, b, precision="highest")
        return (b - jnp.matmul(half.T, inside, precision="highest")) / _NOISE

    def apply(b: Array) -> Array:
        first = once(b)  # small beside its two terms: refined once
        back = jnp.matmul(factor.T, first, precision="highest")
        left = b - jnp.matmul(factor, back, precision="highest") - _NOISE * first
        return first + once(left)

    return apply, (1 - (half**2).sum(0)) / _NOISE


def _zero_sum(effects: Array) -> Array:
    """Effects without the rounding of their sum over elements."""
    return effects - effects.mean(0, keepdims=True)
