"""Checks of a game, a sequence and a prior, the choice of an estimator, and its cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import (
    AnyArray,
    Shaped,
    as_array,
    expect,
    expect_finite,
    expect_int,
    expect_key,
    expect_shape,
    is_concrete,
    message,
    wider,
)
from esv_jax.estimators import Constructive, Estimator, Exact, SizeRegression, Surrogate
from esv_jax.games.protocol import Cost, Game, ScaleGame, SubsetGame
from esv_jax.games.scoring import BLOCK_BYTES, GameInfo, Request, request_cost
from esv_jax.subsequences.lattice import MAX_ELEMENTS

_PRIOR_TOLERANCE = 1e-3
FEWER_ELEMENTS = "Take fewer elements (data.segment_centres picks them evenly)."

FINITE = "finite scores of every subsequence"

EstimatorChoice = Estimator | Literal["auto"]


class Inputs(NamedTuple):
    """A checked sequence (n, ...) and prior (C,), and warnings about them."""

    x: AnyArray
    prior: AnyArray
    warnings: tuple[str, ...]


def checked_inputs(
    game: Game, x: ArrayLike, prior: ArrayLike | Sequence[float] | None, name: str = "x"
) -> Inputs:
    """x and the prior as arrays that the game takes: NumPy's, unless they are JAX's already.

    Raises:
      ValueError: no elements, values that are not finite, a prior that is none, units that
        differ, and what the game itself refuses.
      TypeError: no game; x that is no array of numbers of a dtype that the game takes.
    """
    if not isinstance(game, ScaleGame | SubsetGame):
        way_out = "Wrap the model, e.g. VariableLength(apply_fn) or BlackBox(fn)."
        raise TypeError(message("game", "a game", type(game).__name__, way_out))
    x = as_taken(game, name, x)
    if x.ndim < 1:
        raise ValueError(message(name, "elements along the first axis", f"shape {x.shape}"))
    if x.shape[0] < 1:
        raise ValueError(message(name, "at least one element (n >= 1)", "n = 0"))
    expect_finite(name, x, "Drop or fill such elements first.")
    if game.on_host:
        game.begin(x)
    prior = checked_prior(game, x, prior)
    found: tuple[str, ...] = ()
    if not any(isinstance(value, jax.core.Tracer) for value in (x, prior)):
        found = game.warnings(x, prior)
    if x.shape[0] == 1 and x.ndim >= 3:
        found += (
            f"{name}: one element of shape {x.shape[1:]} was explained. If the first axis is a "
            f"batch, pass {name}[0], or use explain_batch.",
        )
    return Inputs(x, prior, found)


def as_taken(game: Game, name: str, x: ArrayLike | Sequence[ArrayLike]) -> AnyArray:
    """x as an array of float32 or wider; for a game on the host also of integers of 32 bits."""
    x = as_array(name, x, integers=game.on_host)
    dtype = x.dtype if game.on_host else wider(x.dtype)
    canonical = jax.dtypes.canonicalize_dtype(dtype)
    if canonical != dtype and jnp.issubdtype(dtype, jnp.integer):
        way_out = "Cast it, e.g. to uint8."
        raise TypeError(message(name, "numbers of 32 bits", f"dtype {x.dtype}", way_out))
    return x if x.dtype == canonical else x.astype(canonical)


def checked_prior(game: Game, x: Shaped, prior: ArrayLike | Sequence[float] | None) -> AnyArray:
    """The prior as scores (C,) in the game's dtype; probabilities where the link gives them."""
    out = game.output(x)
    c = out.shape[0]
    if prior is None:
        expected = f"scores of the empty sequence, shape (C,) = ({c},)"
        way_out = (
            "Commonly the class frequencies of the training set; np.full(C, 1 / C) if unknown."
        )
        raise ValueError(message("prior", expected, "None", way_out))
    prior = as_array("prior", prior)
    if prior.shape != (c,):
        expected = f"shape (C,) = ({c},), one score per class of the game"
        raise ValueError(message("prior", expected, prior.shape))
    expect_finite("prior", prior)
    if game.link != "identity" and not isinstance(prior, jax.core.Tracer):
        host = np.asarray(prior, np.float64)
        if host.min() < 0:
            raise ValueError(message("prior", "probabilities >= 0", host.min()))
        total = host.sum()
        if game.link == "sigmoid" and host.max() > 1:
            raise ValueError(message("prior", "probabilities <= 1", host.max()))
        if game.link == "softmax" and abs(total - 1) > _PRIOR_TOLERANCE:
            way_out = (
                "Under link='identity' the prior is in logit units and need not; under "
                "link='sigmoid' each class has its own probability."
            )
            raise ValueError(message("prior", "a sum of 1", f"{total:.6g}", way_out))
    return prior if prior.dtype == out.dtype else prior.astype(out.dtype)


def stacked(sequences: Sequence[ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of different lengths, padded with zeros, and their lengths."""
    arrays = [np.asarray(sequence) for sequence in sequences]
    expect(len(arrays) >= 1, "xs", "at least one sequence", "an empty list")
    for i, array in enumerate(arrays):
        fits = array.ndim >= 1 and array.shape[1:] == arrays[0].shape[1:]
        like = f"(n, {', '.join(map(str, arrays[0].shape[1:]))}) like the first"
        expect(fits, f"xs[{i}]", f"shape {like}", array.shape)
        is_integer = [np.issubdtype(each.dtype, np.integer) for each in (arrays[0], array)]
        alike = array.dtype == arrays[0].dtype or not any(is_integer)
        like = f"dtype {arrays[0].dtype} like the first"
        expect(alike, f"xs[{i}]", like, array.dtype, "Cast it.", TypeError)
        expect(len(array) >= 1, f"xs[{i}]", "at least one element (n >= 1)", "n = 0")
    lengths = np.array([len(array) for array in arrays])
    padded = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def checked_lengths(lengths: ArrayLike | None, n_sequences: int, widest: int) -> np.ndarray:
    """Lengths (B,) of a batch, 1..N each; default N."""
    if lengths is None:
        return np.full(n_sequences, widest)
    lengths = np.asarray(lengths)
    expect_shape("lengths", lengths, (n_sequences,), f"(B,) = ({n_sequences},)")
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(message("lengths", "integers", f"dtype {lengths.dtype}"))
    for i, n in enumerate(lengths):
        expect(1 <= n <= widest, f"lengths[{i}]", f"1..{widest}, elements in xs", n)
    return lengths.astype(int)


def check_finite_batch(
    host: np.ndarray, lengths: np.ndarray, uids: Sequence[str | int] | None
) -> None:
    """Padding may hold anything; elements have to be finite."""
    finite = np.isfinite(host).all(axis=tuple(range(2, host.ndim)))
    wrong = np.argwhere(~finite & (np.arange(host.shape[1]) < lengths[:, None]))
    if len(wrong):
        i, element = wrong[0]
        name, got = batch_name(i, uids), f"NaN or infinity in element {element}"
        raise ValueError(message(name, "finite values", got, "Drop or fill such elements first."))


def batch_name(i: int, uids: Sequence[str | int] | None) -> str:
    """Sequence i of a batch in a message."""
    return f"xs[{i}]" if uids is None else f"xs[{i}] ({uids[i]})"


def check_randomness(estimator: Estimator, n: int, key: object, plan: Any) -> None:
    """Raise where a sampled estimator has no key, a plan does not fit, or a key is none."""
    if key is not None:
        expect_key("key", key)
    if plan is None:
        if estimator.needs_key:
            expect_key("key", key)
        return
    kind, way_out = estimator.plan_type, "Use Constructive()."
    if kind is None:
        raise ValueError(message("plan", "an estimator that samples", repr(estimator), way_out))
    expected = f"a {kind.__name__}, as {type(estimator).__name__} takes"
    expect(isinstance(plan, kind), "plan", expected, type(plan).__name__, kind=TypeError)
    if is_concrete(plan.n):
        expect(int(plan.n) == n, "plan", f"subsequences of the {n} elements of x", f"of {plan.n}")


def choose_estimator(
    game: Game,
    x: Any,
    estimator: EstimatorChoice,
    plan: object = None,
    max_bytes: float | None = None,
    max_evaluations: int | None = None,
) -> Estimator:
    """The estimator for "auto"; refuse what does not fit, with the numbers and the way out."""
    info = GameInfo.of(game, x.shape[0])
    if max_evaluations is not None:
        expect_int("max_evaluations", max_evaluations, 1)
    if isinstance(estimator, str) and estimator == "auto":
        if plan is None and info.n <= min(game.auto_exact, MAX_ELEMENTS):
            cost = request_cost(game, x, Request("lattice"))
            within = max_evaluations is None or cost.n_evaluations <= max_evaluations
            small = max_bytes is None and cost.n_bytes <= BLOCK_BYTES  # so much is always there
            if within and (small or cost.n_bytes <= _limit(max_bytes)):
                return Exact()
        estimator = _sampled(info, plan, max_evaluations)
    if not isinstance(estimator, Estimator) or isinstance(estimator, type):
        kind = ValueError if isinstance(estimator, str) else TypeError
        raise kind(message("estimator", "'auto' or an estimator such as Exact()", repr(estimator)))
    check_kind(game, estimator)
    request = estimator.request(info)
    if request.rows == "lattice":
        way_out = f"Sample instead (estimator='auto', key=jax.random.key(0)). {FEWER_ELEMENTS}"
        check_enumerable(game, x, max_bytes, way_out)
    cost = request_cost(game, x, request)
    way_out = "Lower the estimator's numbers of subsequences, or raise max_bytes."
    expect_memory(cost.n_bytes, f"{info.n} elements", cost, max_bytes, way_out)
    if max_evaluations is not None and plan is None and cost.n_evaluations > max_evaluations:
        got = f"{max_evaluations:,} for {estimator!r}"
        way_out = "Lower the estimator's budget, or use estimator='auto'."
        expected = f"at least {cost.n_evaluations:,} evaluations"
        raise ValueError(message("max_evaluations", expected, got, way_out))
    return estimator


def _sampled(info: GameInfo, plan: object, max_evaluations: int | None) -> Estimator:
    """The estimator that "auto" stands for where exact values do not fit."""
    if plan is not None:
        known: tuple[Estimator, ...] = (Surrogate(), Constructive())
        return next((e for e in known if isinstance(plan, e.plan_type or ())), known[-1])
    sampled: Estimator = Surrogate() if info.combines else SizeRegression()
    if max_evaluations is None:
        return sampled
    smaller = sampled.within(max_evaluations, info)
    if smaller is None:
        expected = f"enough evaluations to explain {info.n} elements"
        raise ValueError(message("max_evaluations", expected, max_evaluations, FEWER_ELEMENTS))
    return smaller


def check_kind(game: Game, estimator: Estimator) -> None:
    """Raise TypeError where an estimator takes another kind of game."""
    if isinstance(game, estimator.takes):
        return
    way_out = "Use SizeRegression(), PermutationSampling() or Constructive()."
    if isinstance(game, ScaleGame):
        way_out = "Use Exact(), Constructive() or Surrogate(), which combine scales."
    wanted = " or ".join(kind.__name__ for kind in estimator.takes)
    expected = f"a {wanted} for {type(estimator).__name__}"
    raise TypeError(message("game", expected, type(game).__name__, way_out))


def check_enumerable(game: Game, x: Shaped, max_bytes: float | None, way_out: str) -> None:
    """Raise, with the numbers and the way out, where all subsequences of x do not fit."""
    n = x.shape[0]
    if n > MAX_ELEMENTS:
        got = f"{n}, which have {2**n - 1:,} subsequences" if n < 60 else n
        expected = f"at most {MAX_ELEMENTS} elements to enumerate"
        raise ValueError(message("x", expected, got, way_out))
    cost = request_cost(game, x, Request("lattice"))
    expect_memory(cost.n_bytes, f"{n} elements", cost, max_bytes, way_out)


def expect_memory(
    n_bytes: float, what: str, cost: object, max_bytes: float | None, way_out: str
) -> None:
    """Raise where a computation takes more memory than there is."""
    limit = _limit(max_bytes)
    if n_bytes > limit:
        expected = f"a computation within {limit / 1e9:,.3g} GB of memory"
        raise ValueError(message("x", expected, f"{what}, which take {cost}", way_out))


def finite_values(values: Array) -> Array:
    """Return values; refuse NaN and infinity. Skipped while tracing."""
    if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        raise ValueError(message("game", FINITE, "NaN or infinity"))
    return values


def plan_cost(
    game: Game, x: Any, estimator: EstimatorChoice = "auto", *, max_evaluations: int | None = None
) -> Cost:
    """Cost of `explain` for a sequence, before any work; printable.

    Args:
      game: the model to explain.
      x: the sequence, or `jax.ShapeDtypeStruct` of its shape and dtype.
      estimator, max_evaluations: as for `explain`.
    Returns:
      `Cost`: subsequences, model evaluations, bytes at the peak and operations, each about.
    Raises:
      ValueError: where no computation within the limits exists.
    """
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = as_taken(game, "x", x)
        expect(x.ndim >= 1 and x.shape[0] >= 1, "x", "at least one element (n >= 1)", x.shape)
        game.output(x)
    chosen = choose_estimator(game, x, estimator, None, float("inf"), max_evaluations)
    return request_cost(game, x, chosen.request(GameInfo.of(game, x.shape[0])))


def _limit(max_bytes: float | None) -> float:
    return free_bytes() if max_bytes is None else max_bytes


def free_bytes() -> float:
    """Memory that a computation may take: the device's free memory, or half of the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
