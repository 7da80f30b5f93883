"""Sampled and exact ESVs of the same sequences, one cell per budget."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import esv_jax as ej
from esv_jax.explanations import video_key
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.samples import Samples
from experiments.play_fair.subjects import Elements, Subject

METRICS = ("relative_error", "lad_slope", "pearson")
_ALIKE = 1e-6  # relative range of values that differ by rounding alone
_MIN_SURROGATE = 3  # elements


class Cells(NamedTuple):
    """ESVs of V sequences of n elements, by M numbers of subsequences and K of iterations.

    Attributes:
      exact: (V, n, C). values: (M, K + 1, V, n, C), Algorithm 1 and last the surrogate, which is
        NaN of sequences too short for it.
      heads: (M, K + 1) distinct head evaluations, mean over sequences.
      all_heads: those of exact ESVs.
      share: (M, K) distinct subsequences drawn, as a share of the 2^n - 1, mean over sequences.
    """

    exact: np.ndarray
    values: np.ndarray
    heads: np.ndarray
    all_heads: int
    share: np.ndarray


def measured_cells(
    subject: Subject, elements: Elements, ms: Sequence[int], ks: Sequence[int], key: jax.Array
) -> Cells:
    """Exact ESVs and those of every budget; each m has a key of its own, `fold_in(key, m)`.

    Algorithm 1 has a key per sequence, and a cell's iterations are the first of those drawn for
    the largest number; the surrogate's pool serves all sequences.
    """
    uids = [subject.uids[i] for i in elements.rows]
    game, prior, xs = subject.game, subject.trn.prior, elements.xs
    explained = functools.partial(ej.explain_batch, game, xs, prior=prior, uids=uids)
    exact = explained(estimator=ej.Exact())
    shape = (len(ms), len(ks) + 1)
    values = np.full((*shape, *exact.values.shape), np.nan, np.float32)
    heads, share = np.full(shape, np.nan), np.zeros((len(ms), len(ks)))
    with tqdm(total=len(ms) * (len(xs) + 1), desc="sampled ESVs", unit="sequence") as progress:
        for i, m in enumerate(ms):
            own = jax.random.fold_in(key, m)
            grow = _grower(xs.shape[1], m, max(ks))
            evaluated = np.zeros((len(ks), len(xs)))
            for v, uid in enumerate(uids):
                samples = grow(video_key(own, uid))
                share[i] += np.array(shares_drawn(samples, ks)) / len(xs)
                for j, k in enumerate(ks):
                    found = _replayed(subject, xs[v], samples, m, k)
                    values[i, j, v] = found.values
                    evaluated[j, v] = found.n_evaluations
                progress.update()
            heads[i, :-1] = evaluated.mean(-1)
            if xs.shape[1] >= _MIN_SURROGATE:
                found = explained(estimator=ej.Surrogate(pool=m), key=own)
                values[i, -1], heads[i, -1] = found.values, np.mean(found.n_evaluations)
            progress.update()
    return Cells(np.asarray(exact.values), values, heads, int(exact.n_evaluations[0]), share)


def _grower(n: int, m: int, iterations: int) -> Any:
    """The samples that `Constructive(m, iterations)` draws from a key, as one compiled function."""

    @jax.jit
    def grow(key: jax.Array) -> Samples:
        keys = jax.random.split(key, iterations)
        return jax.lax.map(lambda key: grow_samples(key, n, m), keys)

    return grow


def _replayed(subject: Subject, x: np.ndarray, samples: Samples, m: int, k: int) -> ej.Attribution:
    """Algorithm 1 on the first k iterations.

    The others stay in the plan without valid rows, so that one compiled program serves every k.
    """
    iterations = len(samples.valid)
    kept = (jnp.arange(iterations) < k)[:, None, None]
    plan = ej.SubsequencePlan(Samples(samples.member & kept[..., None], samples.valid & kept))
    estimator = ej.Constructive(m, iterations)
    prior = subject.trn.prior
    return ej.explain(subject.game, x, prior=prior, estimator=estimator, plan=plan, marginals=False)


def slopes_of_logits(
    subject: Subject, elements: Elements, m: int, k: int, key: jax.Array
) -> np.ndarray:
    """LAD slope of each sequence, (V,), where ESVs share out logits: no softmax, log prior."""
    game = ej.MultiScale(subject.trn.heads, link="identity")
    prior = np.log(np.maximum(subject.trn.prior, 1e-6))
    names = [subject.uids[i] for i in elements.rows]
    explained = functools.partial(
        ej.explain_batch, game, elements.xs, prior=prior, uids=names, key=key
    )
    exact, approx = (
        of_true_class(np.asarray(explained(estimator=estimator).values), elements.labels)
        for estimator in (ej.Exact(), ej.Constructive(m, k))
    )
    return agreement(approx, exact)["lad_slope"]


def shares_drawn(samples: Samples, ks: Sequence[int]) -> list[float]:
    """Distinct subsequences in the first k iterations, as shares of the 2^n - 1 there are."""
    n = samples.member.shape[-1]
    codes = np.asarray(samples.member).astype(np.int64) @ (1 << np.arange(n, dtype=np.int64))
    valid = np.asarray(samples.valid)
    return [len(np.unique(codes[:k][valid[:k]])) / (2**n - 1) for k in ks]


def agreement(approx: np.ndarray, exact: np.ndarray) -> dict[str, np.ndarray]:
    """The paper's three measures of rows (..., V, n) against exact (V, n): (..., V) float64 each.

    NaN where a measure says nothing: approximations that are NaN, exact values of a row all zero,
    or for r all alike.
    """
    exact = np.broadcast_to(exact, approx.shape)
    there = ~np.isnan(approx).any(-1)
    known = np.where(there[..., None], approx, 0)
    found = {name: np.asarray(getattr(ej.metrics, name)(known, exact), float) for name in METRICS}
    alike = np.ptp(exact, axis=-1) <= _ALIKE * np.abs(exact).max(-1)
    found["pearson"] = np.where(alike, np.nan, found["pearson"])
    return {n: np.where(there & np.isfinite(rows), rows, np.nan) for n, rows in found.items()}


def of_true_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(..., V, n, C) -> (..., V, n)."""
    index = labels.reshape(*(1,) * (values.ndim - 3), -1, 1, 1)
    return np.take_along_axis(values, index, axis=-1)[..., 0]


def of_all_classes(values: np.ndarray) -> np.ndarray:
    """(..., V, n, C) -> (..., V, n C): the values of all classes side by side."""
    return values.reshape(*values.shape[:-2], -1)


def of_all_sequences(values: np.ndarray) -> np.ndarray:
    """(..., V, n) -> (..., 1, V n): the elements of all sequences in one row."""
    return values.reshape(*values.shape[:-2], 1, -1)
