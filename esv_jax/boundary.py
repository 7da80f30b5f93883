"""The questions asked of a game, a sequence and a prior before any work, and what it will cost."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.checks import (
    expect,
    expect_finite,
    expect_floating,
    expect_key,
    expect_shape,
    is_concrete,
    message,
    wider,
)
from esv_jax.estimators import (
    Constructive,
    Estimator,
    Exact,
    SizeRegression,
    Surrogate,
    SurrogatePlan,
)
from esv_jax.games import Cost, Game
from esv_jax.games.chosen import scores_rows
from esv_jax.subsequences import MAX_ELEMENTS, make_lattice

MAX_AUTO_EXACT = 20  # elements; beyond (or a game's own `max_auto_exact`) "auto" samples
_PRIOR_TOLERANCE = 1e-3
_AN_ESTIMATOR = "'auto' or an estimator such as Exact()"

EstimatorChoice = Estimator | Literal["auto"]


def checked_sequence(game: Game, x: Any, name: str = "x") -> Array:
    """x as an array that the game can take: floating point, at least float32, or as it is."""
    x = as_taken(game, name, x)
    expect(x.ndim >= 1, name, "elements along the first axis", f"shape {x.shape}")
    expect(x.shape[0] >= 1, name, "at least one element (n >= 1)", "n = 0")
    expect_finite(name, x, "Drop or fill such elements first.")
    game.check(x)
    return x


def as_taken(game: Game, name: str, x: Any) -> Array:
    """x as a JAX array of float32 or wider; or of its own dtype for a game with `any_dtype`."""
    if not getattr(game, "any_dtype", False):
        x = expect_floating(name, x)
        return x.astype(wider(x.dtype))
    if not hasattr(x, "dtype"):
        return expect_floating(name, x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        kept = jax.dtypes.canonicalize_dtype(x.dtype) == x.dtype
        way_out = "Cast it, e.g. to uint8."
        expect(kept, name, "numbers of 32 bits", f"dtype {x.dtype}", way_out, TypeError)
        return jnp.asarray(x)
    return expect_floating(name, x)


class Notes(NamedTuple):
    """What a game has to say about a result beyond its numbers; see `Attribution`."""

    warnings: tuple[str, ...] = ()
    removal: str | None = None

    def added_to(self, result: Attribution) -> Attribution:
        """The result with them; its own warnings first."""
        texts = tuple(dict.fromkeys((*result.warnings, *self.warnings)))
        return dataclasses.replace(result, warnings=texts, removal=self.removal)


def notes_of(game: Any, x: Array, prior: Array) -> Notes:
    """What any game may have, and most have not: a method `notes(x, prior)`, and a `removal`.

    The method gives warnings, a sentence each, or raises where scores and prior do not go together;
    it is asked before any work, and not while tracing.
    """
    notes = getattr(game, "notes", None)
    concrete = is_concrete(x) and is_concrete(prior)
    texts = notes(x, prior) if callable(notes) and concrete else ()
    return Notes(tuple(texts), getattr(game, "removal", None))


def checked_prior(game: Game, x: Any, prior: Any) -> Array:
    """The prior as scores (C,) in the game's dtype; a probability vector under softmax."""
    c = game.n_classes(x)
    if prior is None:
        raise ValueError(
            message(
                "prior",
                f"scores of the empty sequence, shape (C,) = ({c},)",
                "None",
                "Commonly the class frequencies of the training set; np.full(C, 1 / C) if unknown.",
            )
        )
    prior = expect_floating("prior", prior)
    expect_shape("prior", prior, (c,), f"(C,) = ({c},), one score per class of the game")
    expect_finite("prior", prior)
    if game.link == "softmax" and is_concrete(prior):
        host = np.asarray(prior, np.float64)
        expect(bool(host.min() >= 0), "prior", "probabilities >= 0", host.min())
        way_out = "Under link='identity' the prior is in logit units and need not."
        total = host.sum()
        expect(
            bool(abs(total - 1) <= _PRIOR_TOLERANCE), "prior", "a sum of 1", f"{total:.6g}", way_out
        )
    return prior.astype(game.dtype(x))


def check_randomness(estimator: Estimator, n: int, key: Array | None, plan: Any) -> None:
    """Raise where a sampled estimator has nothing to draw with, or a plan does not fit."""
    if plan is not None:
        if estimator.plan_type is None:
            raise ValueError(
                message("plan", "an estimator that samples", repr(estimator), "Use Constructive().")
            )
        wanted = estimator.plan_type.__name__
        expect(
            isinstance(plan, estimator.plan_type),
            "plan",
            f"a {wanted}, as {type(estimator).__name__} takes",
            type(plan).__name__,
            kind=TypeError,
        )
        expect(plan.n == n, "plan", f"subsequences of the {n} elements of x", f"of {plan.n}")
    elif estimator.needs_key:
        expect_key("key", key)


def choose_estimator(
    game: Game,
    x: Any,
    estimator: EstimatorChoice,
    plan: Any,
    max_bytes: float | None,
) -> Estimator:
    """Settle "auto", and refuse what does not fit with the numbers and the way out."""
    n = x.shape[0]
    limit = free_bytes() if max_bytes is None else max_bytes
    if isinstance(estimator, str):
        if estimator != "auto":
            raise ValueError(message("estimator", _AN_ESTIMATOR, repr(estimator)))
        most = getattr(game, "max_auto_exact", MAX_AUTO_EXACT)
        fits = n <= most and Exact().cost(game, x).n_bytes <= limit
        if plan is not None:
            estimator = Surrogate() if isinstance(plan, SurrogatePlan) else Constructive()
        elif fits:
            estimator = Exact()
        else:
            by_heads = hasattr(game, "head_logits")
            by_rows = scores_rows(game)
            estimator = Surrogate() if by_heads else SizeRegression() if by_rows else Constructive()
    if not callable(estimator) or isinstance(estimator, type):
        raise TypeError(message("estimator", _AN_ESTIMATOR, repr(estimator)))
    sampled = "Sample instead (estimator='auto', key=jax.random.key(0)), or explain fewer"
    if isinstance(estimator, Exact):
        subset = f"{sampled} elements (data.segment_centres picks them evenly)."
        expect(
            n <= MAX_ELEMENTS,
            "x",
            f"at most {MAX_ELEMENTS} elements for exact values",
            f"{n}, which have {2**n - 1:,} subsequences",
            subset,
        )
        way_out = subset
    else:
        way_out = "Lower the estimator's numbers of subsequences, or raise max_bytes."
    cost = estimator.cost(game, x)
    expect(
        cost.n_bytes <= limit,
        "x",
        f"a computation within {limit / 1e9:,.3g} GB of memory",
        f"{n} elements, which take {cost}",
        way_out,
    )
    return estimator


def check_enumerable(game: Game, x: Any, max_bytes: float | None, way_out: str) -> None:
    """Raise, with the numbers and the way out, where all subsequences of x do not fit."""
    n = x.shape[0]
    expect(
        n <= MAX_ELEMENTS,
        "x",
        f"at most {MAX_ELEMENTS} elements to enumerate",
        f"{n}, which have {2**n - 1:,} subsequences",
        way_out,
    )
    limit = free_bytes() if max_bytes is None else max_bytes
    cost = game.lattice_cost(x, make_lattice(n))
    expect(
        cost.n_bytes <= limit,
        "x",
        f"a computation within {limit / 1e9:,.3g} GB of memory",
        f"{n} elements, which take {cost}",
        way_out,
    )


def plan_cost(game: Game, x: Any, estimator: EstimatorChoice = "auto") -> Cost:
    """What `explain` will take for a sequence, before any work; printable.

    Args:
      game: what is explained.
      x: the sequence, or `jax.ShapeDtypeStruct` of its shape and dtype.
      estimator: as for `explain`.
    Returns:
      `Cost`: subsequences, model evaluations, bytes at the peak and operations, each about.
    Raises:
      ValueError: where nothing that is asked for fits.
    """
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = checked_sequence(game, x)
    return choose_estimator(game, x, estimator, None, float("inf")).cost(game, x)


def free_bytes() -> float:
    """Memory that a computation may take: the device's free memory, or half of the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
