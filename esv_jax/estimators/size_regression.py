"""Sampled ESVs of row-wise games: pairs of complements, regressed size by size together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import cho_solve, solve_triangular

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_int
from esv_jax.estimators.pair_plan import PairPlan, default_budget, draw_pairs, make_pair_plan
from esv_jax.estimators.permutation import only_whole
from esv_jax.estimators.protocol import Estimator
from esv_jax.games.protocol import SubsetGame
from esv_jax.games.scoring import GameInfo, Request

# The priors. Effects and noise grow with powers of s (n - s); the last two pairs of powers serve
# the error alone: they describe outliers at small sizes well, but extrapolate to them badly.
_GROWTHS = (
    *((0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, -0.5), (-0.5, -0.5), (-0.5, -1.0)),
    *((-1.0, -1.0), (-1.0, -1.5)),
)
_N_TRUSTED = 6
_LINEAR_GROWTHS = ((0.5, 0.0), (-0.5, 0.0))  # a sum and a mean over elements
_LINEAR_NOISE = 1e-8
_FEW = 0.5  # of the variance, times n / P, for a prior that P pairs have to choose
_OWN = 0.75  # share of a class's own likelihood in its weights; the rest is the classes' mean


@dataclasses.dataclass(frozen=True)
class SizeRegression(Estimator):
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

        u(S) = mean_s + sum_i b_si z_i + noise_s,   z_i = ([i in S] - s/n) / sqrt(s (1 - s/n)),
        cov(b_si, b_tj) = (g_s g_t)^p exp(-decay |logit(s/n) - logit(t/n)|) K_ij,
        var(noise_s) = g_s^(2 q) noise,   g_s = s (n - s) over its mean,

    with mean_s smooth and odd under complement, and K a mixture of the identity and of a kernel
    of Gaussian spectrum over the distance in time, both without the constant. The powers p and q,
    decay, the kernel's width and share, and noise are averaged over a grid by their marginal
    likelihood: neighbours count as similar where the pairs say so. A class weighs the grid by its
    own likelihood and by the mean over classes, 3 to 1, tempered by P / (P + 2 n) for P pairs.
    "Noise" is u's own: it is known where it was seen, so that with all subsequences the estimate
    is exact. Where u is a sum or mean over elements, the estimate is exact from about 3n
    evaluations.

    `std_error` is the root of the posterior's second moment around the estimate, with the
    differences between priors and the Student factor of the scale in it. Two allowances for what
    P pairs have not shown are rules of thumb: the variance is raised by the factor 1 + n / (2 P),
    and the mean square of a class's differences by 1 / P of its mean over classes, as subsequences
    in which an unlikely class becomes likely may not have been drawn.

    Source: per-size means as Price & Damen (2020), Eq. (7); pairs as in Covert & Lee (2021),
    Improving KernelSHAP; posterior and likelihood of a linear model as Rasmussen & Williams
    (2006), sections 2.7 and 5.4.

    Attributes:
      budget: most distinct subsequences evaluated beside the whole one; at least 2n. From
        2**n - 2 the result is exact and `std_error` zero. None: 8n, at least 512.
    Raises:
      ValueError: on a budget below 1, or (when called) below the least one for n elements; on a
      `length` other than n: padded sequences are not taken. TypeError: on a game that combines
      scales.
    """

    budget: int | None = None
    takes: ClassVar[tuple[type, ...]] = (SubsetGame,)
    draws_per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget is not None:
            expect_int("budget", self.budget, 1)

    def _budget(self, n: int) -> int:
        return default_budget(n) if self.budget is None else self.budget

    def draw(self, key: Array | None, info: GameInfo, length: Array | int | None = None) -> Array:
        """Smaller sides of the pairs, their complements, and the whole: (2 P + 1, n) bool."""
        assert key is not None
        side = draw_pairs(key, make_pair_plan(info.n, self._budget(info.n)))
        return jnp.concatenate([side, ~side, jnp.ones((1, info.n), bool)])

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
        p, n, per_class, others = pairs.n_pairs, info.n, 6 * pairs.n_pairs, pairs.n_pairs * info.n
        if not pairs.enumerated.all():
            width = _priors(n).n_features
            others += 2 * p * width + 5 * width**2 + 4 * width * n
            per_class += 4 * width + 12 * n
        return Request("subsets", 2 * p + 1, per_class=per_class, others=others)


class _Priors(NamedTuple):
    """Host tables of the priors for n elements; T settings are combined with each growth.

    Attributes:
      basis: (H, R) polynomials in the size, of which effects are made; columns of norm sqrt(H).
      means: (H, q) odd polynomials in the size, of which the means are made.
      waves: (n, n - 1) cosines over the elements, orthonormal, all but the constant one.
      precisions: (T, R, R) inverse covariance of the coefficients of `basis`.
      rigidities: (T, n - 1) inverse variance of the coefficients of `waves`.
      ridges: (T,) variance of noise in units of that of effects.
      volumes: (T,) log determinant of all coefficients' precision.
    """

    basis: np.ndarray
    means: np.ndarray
    waves: np.ndarray
    precisions: np.ndarray
    rigidities: np.ndarray
    ridges: np.ndarray
    volumes: np.ndarray

    @property
    def n_features(self) -> int:
        """Coefficients of effects and means."""
        return self.basis.shape[1] * self.waves.shape[1] + self.means.shape[1]


def _settings(n: int) -> list[tuple[float, tuple[float, float], float]]:
    """Decay over sizes, (width, share) of the kernel over elements, noise; fewer for large n."""
    widths = np.geomspace(1.5, max(1.5, n / 8), 3)
    near = [(0.0, 0.0), *((float(w), 0.97) for w in widths), (float(widths[1]), 0.6)]
    if n <= 150:
        return list(itertools.product((0.1, 0.4), near, (0.03, 0.1, 0.3, 0.6, 0.9)))
    if n <= 400:
        return list(itertools.product((0.2,), near, (0.03, 0.15, 0.5, 0.9)))
    return list(itertools.product((0.2,), near[0:4:2], (0.05, 0.3, 0.8)))


def _linear_settings(n: int) -> list[tuple[float, tuple[float, float], float]]:
    """Effects alike at all sizes and next to no noise."""
    return [(0.0, near, _LINEAR_NOISE) for near in ((0.0, 0.0), (max(1.5, n / 16), 0.97))]


@functools.cache
def _priors(n: int, linear: bool = False) -> _Priors:
    """See `_Priors`; with `linear` the settings of `_linear_settings`."""
    sizes = np.arange(1, n // 2 + 1)
    h, frequency = len(sizes), np.arange(1, n)
    rank = min(h, 8 if n <= 20 else 4 if n <= 150 else 2)
    n_odd = (n - 1) // 2
    n_means = min(n_odd, 6)
    place = (sizes - 0.5) / h * 2 - 1
    basis = np.linalg.qr(np.vander(place, rank, increasing=True))[0] * math.sqrt(h)
    odd = 1 - 2 * sizes / n
    means = np.zeros((h, n_means))
    means[:n_odd] = np.linalg.qr(np.vander(place[:n_odd], n_means, increasing=True))[0]
    means *= odd[:, None] * math.sqrt(10 * n_odd / max((odd**2).mean(), 1e-9))
    waves = np.sqrt(2 / n) * np.cos(np.pi / n * (np.arange(n)[:, None] + 0.5) * frequency)

    logit = np.log(sizes / (n - sizes))
    distance = np.abs(logit[:, None] - logit)
    precisions, rigidities, ridges, volumes = [], [], [], []
    for decay, (width, share), noise in _linear_settings(n) if linear else _settings(n):
        covariance = basis.T @ np.exp(-decay * distance) @ basis / h**2 + 1e-10 * np.eye(rank)
        smooth = np.exp(-0.5 * (width * np.pi / n * frequency) ** 2)
        spectrum = 1 - share + share * smooth / smooth.mean()
        ridge = noise / (1 - noise)
        precisions.append(np.linalg.inv(covariance))
        rigidities.append(1 / spectrum)
        ridges.append(ridge)
        volumes.append(
            (rank * (n - 1) + n_means) * math.log(ridge)
            - (n - 1) * np.linalg.slogdet(covariance)[1]
            - rank * np.log(spectrum).sum()
        )
    tables = (np.array(table) for table in (precisions, rigidities, ridges, volumes))
    return _Priors(basis, means, waves, *tables)


class _Target(NamedTuple):
    """The effects' sum over sizes as it depends on the model, tables per size 1..floor(n / 2).

    Attributes:
      norm: (H,) norm of centred membership.
      direct: (H,) weight of a difference in the effects of enumerated sizes, per unit membership.
      linear: (H,) weights of the b_s; zero at enumerated sizes, as what follows.
      own: (H,) weight of a pair's own noise, per unit of z.
      squares: (H,) summed squares of those weights over all pairs, for one element.
    """

    norm: np.ndarray
    direct: np.ndarray
    linear: np.ndarray
    own: np.ndarray
    squares: np.ndarray


def _target(plan: PairPlan) -> _Target:
    n, sizes, known = plan.n, np.arange(1, len(plan.counts) + 1), plan.enumerated
    total = np.array(plan.totals, float)
    spread = sizes * (n - sizes) / n  # squared norm of centred membership
    served = np.where(2 * sizes == n, 0.5, 1.0)  # a pair of half size serves one size, not two
    asked = np.where(known, 0.0, served)
    return _Target(
        np.sqrt(spread),
        np.where(known, served * n / spread / total, 0.0),
        asked * n / (n - 1) / np.sqrt(spread),
        asked * n / np.sqrt(spread) / total,
        asked**2 * n / spread / total,
    )


class _Average(NamedTuple):
    """Running averages over priors, each weighed by its likelihood, class by class.

    Attributes:
      top: (C,) largest log weight so far, in units of which the others are kept.
      weight: (C,) summed weights.
      mean: (n, C) mean effects.
      spread: (n, C) weighted sum of squared deviations from the mean.
      variance: (n, C) weighted sum of variances.
    """

    top: Array
    weight: Array
    mean: Array
    spread: Array
    variance: Array

    def add(self, log_weight: Array, effects: Array, variance: Array) -> _Average:
        """The averages with one more prior."""
        top = jnp.maximum(self.top, log_weight)
        fade, new = jnp.exp(self.top - top), jnp.exp(log_weight - top)
        weight = self.weight * fade + new
        off = effects - self.mean
        mean = self.mean + off * (new / jnp.where(weight > 0, weight, 1))[None]
        spread = self.spread * fade[None] + new[None] * off * (effects - mean)
        variance = self.variance * fade[None] + new[None] * variance
        return _Average(top, weight, mean, spread, variance)


def summed_effects(plan: PairPlan, side: Array, u: Array) -> tuple[Array, Array]:
    """The sum of effects d_si over s = 1..n-1 from differences of pairs, and its error.

    Args:
      plan: of the pairs.
      side: (P, n) bool, the smaller sides, as `draw_pairs` gives them.
      u: (P, C), score of the side minus score of its complement.
    Returns:
      Effects (n, C), which sum to zero over elements, and their standard error (n, C). NaN for
      classes whose differences are not finite.
    Cost: per growth one product of (D, P) with (P, D), per prior a factorisation of (D, D) and a
      solution for n + C columns; D is 8 n at most, 4 n for n > 20, 2 n for n > 150.
    """
    n, dtype = plan.n, u.dtype
    if plan.n_pairs == 0:
        return jnp.zeros((n, u.shape[1]), dtype), jnp.zeros((n, u.shape[1]), dtype)
    target = _target(plan)
    at = plan.sizes - 1
    centred = side.astype(dtype) - jnp.asarray(plan.sizes / n, dtype)[:, None]  # (P, n)
    direct = jnp.asarray(target.direct[at], dtype)[:, None] * u
    known = jnp.matmul(centred.T, direct, precision="highest")
    if plan.enumerated.all():
        return _zero_sum(known), jnp.zeros_like(known)

    scale = jnp.sqrt((u**2).mean(0))  # (C,)
    unit = jnp.where(scale > 0, scale, 1)
    z = centred / jnp.asarray(target.norm[at], dtype)[:, None]
    zero = jnp.zeros_like(known)
    lowest = jnp.full_like(scale, jnp.finfo(dtype).min)
    start = _Average(lowest, jnp.zeros_like(scale), zero, zero, zero)
    averages = start, start
    for linear in (False, True):
        fit = _fit(plan, target, z, u / unit[None], scale > 1e-3 * scale.max(), linear)
        growths = _LINEAR_GROWTHS if linear else _GROWTHS
        relative = (target.norm / math.sqrt((target.norm**2).mean())) ** 2
        gains, noises = (relative ** np.array(k)[:, None] for k in zip(*growths, strict=True))
        trusted = np.arange(len(growths)) < (len(growths) if linear else _N_TRUSTED)
        tables = jnp.asarray(gains, dtype), jnp.asarray(noises, dtype), jnp.asarray(trusted)
        averages, _ = lax.scan(fit, averages, tables)
    best, every = averages
    effects = best.mean * unit[None] + known
    moment = (every.variance + every.spread) / every.weight[None]
    moment = moment + (every.mean - best.mean) ** 2
    bad = ~jnp.isfinite(scale) | (best.weight == 0)
    effects, moment = (jnp.where(bad[None], jnp.nan, a) for a in (effects, moment))
    # One more pair may differ as much as those of other classes do, though none seen has.
    other = jnp.where(jnp.isfinite(scale), scale, 0) ** 2
    size = jnp.sqrt(scale**2 + other.mean() / plan.n_pairs)
    return _zero_sum(effects), jnp.sqrt(moment * (1 + _FEW * n / plan.n_pairs)) * size[None]


def _fit(
    plan: PairPlan, target: _Target, z: Array, u: Array, used: Array, linear: bool
) -> Callable[..., Any]:
    """The step of a scan over growths that adds all priors of one growth to two averages.

    The first average takes trusted growths alone.

    Args:
      z: (P, n) normalised membership.
      u: (P, C) differences of mean square one.
      used: (C,) bool, classes that count in the mean of the likelihoods.
      linear: whether settings are those of next to no noise, which need residuals in full.
    """
    n, p, dtype, at = plan.n, plan.n_pairs, u.dtype, plan.sizes - 1
    priors = _priors(n, linear)
    rank, n_waves, n_means = priors.basis.shape[1], n - 1, priors.means.shape[1]
    n_effects, width = rank * n_waves, priors.n_features
    freedom = max(p - n_means - 2, 1)  # of the scale
    temper = p / (p + 2 * n)
    product = functools.partial(jnp.matmul, precision="highest")
    basis, means, waves = (jnp.asarray(t, dtype) for t in priors[:3])
    own_weight, linear_weight, squares = (
        jnp.asarray(t, dtype) for t in (target.own, target.linear, target.squares)
    )
    z_waves = product(z, waves)  # (P, n - 1)

    def one_growth(averages: Any, growth: Any) -> tuple[Any, None]:
        gain, noise, trusted = growth  # (H,), (H,), ()
        over_sizes = (basis * (gain / noise)[:, None])[at]  # (P, R)
        x = (over_sizes[:, :, None] * z_waves[:, None, :]).reshape(p, n_effects)
        x = jnp.concatenate([x, (means / noise[:, None])[at]], axis=1)  # (P, D)
        y = u / noise[at][:, None]
        gram, xy = product(x.T, x), product(x.T, y)
        own = (own_weight * noise)[at][:, None] * z  # (P, n)
        over = product(basis.T, linear_weight * gain)  # (R,)
        asked = (over[:, None, None] * waves.T[None]).reshape(n_effects, n)
        asked = jnp.concatenate([asked, jnp.zeros((n_means, n), dtype)]) - product(x.T, own)
        seen = product(own.T, y)  # (n, C)
        unseen = jnp.maximum((squares * noise**2).sum() - (own**2).sum(0), 0)  # (n,)
        jacobian = -jnp.log(noise)[at].sum()
        total = (y**2).sum(0)

        def one_prior(averages: Any, setting: Any) -> tuple[Any, None]:
            precision, rigidity, ridge, volume = setting
            block = precision[:, None, :, None] * jnp.diag(rigidity)[None, :, None, :]
            prior = jnp.eye(width, dtype=dtype)
            prior = prior.at[:n_effects, :n_effects].set(block.reshape(n_effects, n_effects))
            lower = jnp.linalg.cholesky(gram + ridge * prior, symmetrize_input=False)
            if linear:
                fitted, squared = _refined(lower, x, y, xy, ridge * prior)
                effects = product(asked.T, fitted)
                half = solve_triangular(lower, asked, lower=True)
            else:
                solved = solve_triangular(lower, jnp.concatenate([asked, xy], axis=1), lower=True)
                half, half_y = solved[:, :n], solved[:, n:]
                effects = product(half.T, half_y)
                squared = total - (half_y**2).sum(0)
            squared = jnp.maximum(squared, p * jnp.finfo(dtype).eps ** 2)
            log_volume = 2 * jnp.log(jnp.diag(lower)).sum() - volume
            likelihood = jacobian - 0.5 * (p * jnp.log(squared / p) + log_volume)  # (C,)
            n_used = jnp.maximum(used.sum(), 1).astype(dtype)
            pooled = jnp.where(used, likelihood, 0).sum() / n_used
            log_weight = temper * (_OWN * likelihood + (1 - _OWN) * pooled)
            variance = ((half**2).sum(0) + unseen)[:, None] * (squared / freedom)[None]
            effects = effects + seen
            sound = jnp.isfinite(log_weight) & jnp.isfinite(effects + variance).all(0)
            log_weight = jnp.where(sound, log_weight, -jnp.inf)
            effects, variance = (jnp.where(sound[None], a, 0) for a in (effects, variance))
            best, every = averages
            best_weight = jnp.where(trusted, log_weight, -jnp.inf)
            return (
                best.add(best_weight, effects, variance),
                every.add(log_weight, effects, variance),
            ), None

        settings = tuple(jnp.asarray(t, dtype) for t in priors[3:])
        return lax.scan(one_prior, averages, settings)

    return one_growth


def _refined(lower: Array, x: Array, y: Array, xy: Array, prior: Array) -> tuple[Array, Array]:
    """Coefficients (D, C) and penalised squared residuals (C,), accurate to rounding of y."""
    product = functools.partial(jnp.matmul, precision="highest")
    fitted = cho_solve((lower, True), xy)
    left = product(x.T, y - product(x, fitted)) - product(prior, fitted)
    fitted = fitted + cho_solve((lower, True), left)
    left = y - product(x, fitted)
    return fitted, (left**2).sum(0) + (fitted * product(prior, fitted)).sum(0)


def _zero_sum(effects: Array) -> Array:
    """Effects without the rounding of their sum over elements."""
    return effects - effects.mean(0, keepdims=True)
