"""`explain` and `explain_batch`: Element Shapley Values of one sequence, and of many.

An explanation has three steps: an estimator draws subsequences, the game scores them, and the
estimator turns scores into values (`attribute`). For games in JAX all three are one compiled
program; games on the host are scored by a loop in between.

Sequences of a batch go through programs of fixed shape, a block at a time. The bits of a result
depend on the shape of its block and on nothing else in it: not on order, batch or device.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray, Shaped, expect, expect_classes, is_concrete, message
from esv_jax.estimators import Estimator, SurrogatePlan
from esv_jax.games.grouped import Groups, ScoreTable
from esv_jax.games.protocol import Game, ScaleGame
from esv_jax.games.scoring import (
    GameInfo,
    block_sequences,
    compiled,
    request_cost,
    score_rows,
    side_by_side,
)
from esv_jax.groups import as_players
from esv_jax.inputs import (
    EstimatorChoice,
    as_taken,
    check_finite_batch,
    check_randomness,
    checked_inputs,
    checked_lengths,
    choose_estimator,
    stacked,
)
from esv_jax.subsequences import SubsequencePlan
from esv_jax.subsequences.lattice import Lattice

_LENGTH_STEP = 8  # sampled sequences are padded to multiples of this many elements
_MAX_EVALUATIONS = 100_000  # of one round with a tolerance


def explain(
    game: Game,
    x: ArrayLike,
    *,
    prior: ArrayLike | Sequence[float],
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    plan: SubsequencePlan | SurrogatePlan | None = None,
    groups: Groups | None = None,
    tolerance: float | None = None,
    confidence: float | None = None,
    classes: Sequence[int] | None = None,
    max_evaluations: int | None = None,
    marginals: bool = True,
    max_bytes: float | None = None,
) -> Attribution:
    """Element Shapley Values: each element's contribution to each class score of one sequence.

    Args:
      game: the model to explain, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, floating point, finite, n >= 1.
        A `BlackBox` also takes integers, such as uint8.
      prior: scores of the empty sequence, (C,). Under the softmax link a probability vector
        (commonly the class frequencies of the training set), under the sigmoid link one
        probability per class, under the identity link logits.
      estimator: "auto" is `Exact()` where it fits the memory, up to 20 elements (12 of a
        `VariableLength`, 8 of a `BlackBox` game); beyond, `Surrogate()` for games that combine
        heads by scale and `SizeRegression()` for those that score each subsequence on its own.
        Or an estimator with your settings.
      key: `jax.random.key(seed)`, needed where subsequences are drawn; consumed.
      plan: subsequences to replay in place of a draw (under "auto" by the estimator that takes
        such a plan). A `SubsequencePlan` has to contain the whole sequence.
      groups: the group of each element, n integers that use 0..g - 1, or g lists of elements:
        credits groups (shots, say; `data.propose_segments` finds them) in the place of elements.
        All elements of a group join at once; one group has the whole evidential score, groups of
        one are elements. A group's value is not the sum of its elements' ESVs but that of their
        `owen_values`. No plan then.
      tolerance: half width, in units of the scores, that intervals should not exceed. Sampling
        starts with the estimator as given and doubles its budget, each time from scratch, until
        the intervals are narrow enough or the evaluations, the memory or the distinct
        subsequences are used up; the last result is returned, and
        `Attribution.within_tolerance` says whether it is within.
      confidence: of those intervals, default 0.95; only with a tolerance.
      classes: classes whose intervals count, default all; only with a tolerance.
      max_evaluations: most model evaluations; with a tolerance of one round, default 100,000.
        "auto" then chooses an estimator within it; another estimator is refused.
      marginals: whether to return mean marginals by scale, (n, n, C).
      max_bytes: memory that may be taken; default what the device has free, or half of the
        machine's where it does not say.
    Returns:
      `Attribution` in the wider of x's and the model's dtype, float32 at least, of (n, C), or
      (g, C) for groups, whose scales then count groups. `explain` may be called under `jit`,
      `vmap` and `grad`; values are then not checked.
    Raises:
      ValueError: shapes that disagree, values that are not finite, also of the result, a prior
        that is none, a missing key, a sequence too long for `Exact` (with the numbers, and the
        way out), subsequences missing from a plan; an element in no group or in two, a group
        without elements; `classes` or `confidence` without a tolerance.
      TypeError: x of another dtype than the game takes; an estimator for another kind of game; a
        key of the old style.
    Cost: stated beforehand by `plan_cost`. The first call for a shape compiles. Groups cost 2**g
      evaluations of games that score each subsequence on its own, whatever n is; `MultiScale`
      combines the score of a union from those of all its parts: a pass over 2**n subsequences up
      to 20 elements, beyond it (up to 12 groups) it is sampled (`UnionSampling`).
    """
    x, prior, notes = checked_inputs(game, x, prior)
    removal, table = game.removal_name, None
    if groups is not None:
        expect(plan is None, "plan", "None beside groups", "a plan", "Give a key.")
        game, x, estimator = as_players(game, x, prior, groups, estimator, max_bytes)
        table = game.cost_of_table if isinstance(game, ScoreTable) else None
    limit = max_evaluations
    if tolerance is None and (classes is not None or confidence is not None):
        raise _without_tolerance(classes, confidence)
    chosen = choose_estimator(game, x, estimator, plan, max_bytes, limit)
    if chosen.needs_key or key is not None or plan is not None:
        check_randomness(chosen, x.shape[0], key, plan)
    if tolerance is None:
        result = _explained(chosen, game, x, prior, key, plan, marginals)
    else:
        _check_tolerance(tolerance, plan, x)
        width = _width_function(classes, confidence, prior.shape[0])

        def explained(estimator: Estimator) -> Attribution:
            return _explained(estimator, game, x, prior, key, None, marginals)

        result = _within(tolerance, width, chosen, explained, game, x, limit, max_bytes)
    return dataclasses.replace(
        result,
        warnings=tuple(dict.fromkeys((*result.warnings, *notes))),
        removal=removal,
        n_evaluations=result.n_evaluations if table is None else table.n_evaluations,
    )


def attribute(
    game: Game,
    estimator: Estimator,
    x: Any,
    prior: Any,
    key: Array | None,
    plan: object,
    length: Array | None = None,
    marginals: bool = True,
) -> Attribution:
    """The three steps for one sequence x (n, ...), without checks; pure for games in JAX.

    Args:
      plan: a plan to replay, or None to draw with `key`.
      length: elements that are there, the rest being padding; default all.
      marginals: whether the result has them.
    """
    info = GameInfo.of(game, x.shape[0])
    drawn = estimator.draw(key, info, length) if plan is None else estimator.replay(plan)
    scores = score_rows(game, x, drawn)
    result = estimator.estimate(drawn, scores, prior, info, length)
    return result if marginals else dataclasses.replace(result, marginals=None)


def _explained(
    estimator: Estimator,
    game: Game,
    x: AnyArray,
    prior: AnyArray,
    key: Array | None,
    plan: object,
    marginals: bool,
) -> Attribution:
    """One sequence by one estimator, checked afterwards."""
    if plan is not None or not estimator.needs_key:
        key = None
    if game.on_host:
        result = _on_host(estimator, game, x, prior, key, plan)
        if not marginals:
            result = dataclasses.replace(result, marginals=None)
    else:
        if key is not None and estimator.draws_on_host:
            plan, key = estimator.draw(key, GameInfo.of(game, x.shape[0])), None
        run = compiled(
            game,
            (estimator, marginals),
            lambda: (
                lambda game, x, prior, key, plan: attribute(
                    game, estimator, x, prior, key, plan, marginals=marginals
                )
            ),
        )
        result = run(game, x, prior, key, plan)
    found = result.values, result.scores
    is_traced = isinstance(result.values, jax.core.Tracer)
    if not is_traced and not all(np.isfinite(np.asarray(leaf)).all() for leaf in found):
        raise _not_finite(game, x, result, plan)
    return result


def _on_host(
    estimator: Estimator, game: Game, x: AnyArray, prior: Any, key: Array | None, plan: object
) -> Attribution:
    """The three steps for a game on the host: its scores come from a loop on this thread."""
    info = GameInfo.of(game, x.shape[0])
    if plan is not None:
        drawn = estimator.replay(plan)
    elif key is None:
        drawn = estimator.draw(None, info)
    else:
        draw = compiled(
            game, ("draw", estimator, info), lambda: lambda key: estimator.draw(key, info)
        )
        drawn = draw(key)
    with game.progress_bar(request_cost(game, x, estimator.request(info)).n_evaluations):
        scores: Any = score_rows(game, x, drawn)
    if isinstance(drawn, Lattice):
        result = estimator.estimate(drawn, scores, prior, info)
    else:
        name = ("estimate", estimator, info)

        def estimate(drawn: Any, scores: Any, prior: Array) -> Attribution:
            return estimator.estimate(drawn, scores, prior, info)

        result = compiled(game, name, lambda: estimate)(drawn, scores, prior)
    dtype = prior.dtype

    def as_jax(leaf: Any) -> Any:
        floats = isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f"
        return jnp.asarray(leaf, dtype) if floats else leaf

    result = jax.tree.map(as_jax, result)
    if game.noise(x):
        result = dataclasses.replace(result, exact=False)
    return result


# Checks of results


def _not_finite(game: Game, x: AnyArray, result: Attribution, plan: object) -> ValueError:
    """The error for values that are not finite: what a plan lacks, or where NaN begins."""
    if isinstance(plan, SubsequencePlan) and is_concrete(plan.samples.valid):
        _check_plan(plan, result)
    return ValueError(
        message(
            "game",
            "finite scores of every subsequence",
            f"NaN or infinity {_first_not_finite(game, x)}",
            "A model has to take any subset of elements, one element alone included.",
        )
    )


def _check_plan(plan: SubsequencePlan, result: Attribution) -> None:
    """Raise where the samples of a plan lack what values or scores need."""
    covered = np.asarray(result.coverage) > 0
    missed = np.flatnonzero(~covered.any(0))
    if len(missed):
        raise ValueError(
            message(
                "plan",
                "subsequences with and without every element, at some scale",
                f"none for element {missed[0]}",
                "Add such subsequences, or use Constructive(unseen='zero').",
            )
        )
    valid = np.asarray(plan.samples.valid)
    expect(
        bool(valid[:, -1].any()),
        "plan",
        f"the whole sequence at scale {plan.n}, which has the result's scores",
        "no such row in any iteration",
        "Add a row with all elements.",
    )
    if np.isnan(np.asarray(result.scores)).any():
        raise ValueError(
            message(
                "plan",
                "a sampled parent of every subsequence longer than the longest head",
                "a whole sequence whose parents are missing",
                "Add its subsequences of one element fewer, or use Constructive(unseen='zero').",
            )
        )


def _first_not_finite(game: Game, x: AnyArray) -> str:
    """Describe the shortest beginning of x whose score is not finite."""
    n = x.shape[0]
    if isinstance(game, ScaleGame) or not is_concrete(x):
        return "in the values"
    run = compiled(game, "beginnings", lambda: score_rows)
    found = np.asarray(run(game, x, np.tril(np.ones((n, n), bool))))
    wrong = np.flatnonzero(~np.isfinite(found).all(1))
    if not len(wrong):
        return "for some subsequence"
    size = wrong[0] + 1
    return f"for the first {size} elements" if size > 1 else "for the first element alone"


def _without_tolerance(classes: object, confidence: object) -> ValueError:
    """The error for arguments that have no effect without a tolerance."""
    name, value = ("confidence", confidence) if classes is None else ("classes", classes)
    way_out = "The result has the values of all classes, and interval(confidence)."
    expected = f"a half width beside {name}"
    return ValueError(message("tolerance", expected, f"{name}={value!r} alone", way_out))


# Tolerance: rounds of twice the budget


def _check_tolerance(tolerance: float, plan: object, x: AnyArray) -> None:
    expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)
    expect(plan is None, "plan", "None beside a tolerance", "a plan", "Its budget is fixed.")
    traced = not is_concrete(x)
    expect(not traced, "tolerance", "None while tracing", tolerance, "Rounds depend on values.")


def _width_function(
    classes: Sequence[int] | None, confidence: float | None, n_classes: int
) -> Callable[[Attribution], np.ndarray]:
    """The widest half width of the classes that count: () of one sequence, (B,) of a batch."""
    index = None
    if classes is not None:
        index = expect_classes("classes", list(classes), n_classes)

    def width(result: Attribution) -> np.ndarray:
        half = np.asarray(result.half_width(0.95 if confidence is None else confidence))
        return (half if index is None else half[..., index]).max((-2, -1))

    return width


def _larger(
    estimator: Estimator, game: Game, x: Shaped, limit: int | None, max_bytes: float | None
) -> Estimator | None:
    """The estimator of the next round, or None where evaluations or memory are used up."""
    info = GameInfo.of(game, x.shape[0])
    limit = _MAX_EVALUATIONS if limit is None else limit
    larger = estimator.doubled(info)
    if larger is None:
        return None

    def evaluations(each: Estimator) -> int:
        return request_cost(game, x, each.request(info)).n_evaluations

    if evaluations(larger) > limit:
        larger = larger.within(limit, info)
        if larger is None or evaluations(larger) <= evaluations(estimator):
            return None
    try:
        return choose_estimator(game, x, larger, None, max_bytes)
    except ValueError:  # it does not fit the memory
        return None


def _within(
    tolerance: float,
    width: Callable[[Attribution], np.ndarray],
    estimator: Estimator,
    explained: Callable[[Estimator], Attribution],
    game: Game,
    x: AnyArray,
    limit: int | None,
    max_bytes: float | None,
) -> Attribution:
    """Rounds until the widest interval is within the tolerance, or no larger round is possible."""
    result = explained(estimator)
    while width(result) > tolerance:
        larger = _larger(estimator, game, x, limit, max_bytes)
        if larger is None:
            break
        try:
            finer = explained(larger)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        stalled = int(finer.n_evaluations) <= int(result.n_evaluations)
        result, estimator = finer, larger
        if stalled:  # all distinct subsequences have been evaluated
            break
    return dataclasses.replace(result, within_tolerance=bool(width(result) <= tolerance))


def out_of_memory(error: Exception) -> bool:
    """Return whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


# Batches


def explain_batch(
    game: Game,
    xs: ArrayLike | Sequence[ArrayLike],
    lengths: ArrayLike | None = None,
    *,
    prior: ArrayLike | Sequence[float],
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    uids: Sequence[str | int] | None = None,
    tolerance: float | None = None,
    confidence: float | None = None,
    classes: Sequence[int] | None = None,
    max_evaluations: int | None = None,
    marginals: bool = False,
    max_bytes: float | None = None,
) -> Attribution:
    """Explain many sequences of different lengths.

    Sequences of one length (one bucket of lengths where sampled) go through one compiled program
    of fixed shape, a fixed number at a time, so results are independent of batch composition:
    the same bits in any order and any batch, on the same backend.

    Args:
      game, prior, estimator, max_bytes: as for `explain`; "auto" is chosen length by length.
      xs: (B, N, ...) sequences, padded at their ends; the padding is ignored. Or a list of B
        arrays (n_i, ...), which carry their lengths with them.
      lengths: (B,) elements in each, 1..N; default N for all.
      key: needed where subsequences are drawn. Sequence i uses `video_key(key, uids[i])`, or all
        share one draw from `key` (`Surrogate`).
      uids: stable names of the sequences; default a checksum of their content.
      tolerance, confidence, classes, max_evaluations: as for `explain`, sequence by sequence:
        those whose intervals are too wide are explained again with twice the budget.
      marginals: whether to return mean marginals by scale, (B, N, N, C).
    Returns:
      `Attribution` with a leading batch axis and `lengths`; zero beyond a sequence's length.
      `result[i]` is one sequence, its padding removed. `std_error` and `coverage` are there where
      any sequence was sampled; `exact` says whether all were exact. With a tolerance,
      `within_tolerance` is (B,).
    Raises:
      ValueError, TypeError: as `explain`, naming the sequence; lengths or uids that do not fit.
    Cost: see `plan_cost`, per sequence. One compilation per length, or per multiple of eight
      elements where the estimator can pad (`Constructive`).
    """
    if isinstance(xs, list | tuple):
        expect(lengths is None, "lengths", "None beside a list of sequences", "lengths")
        xs, lengths = stacked(xs)
    host = np.asarray(as_taken(game, "xs", xs))
    expect(
        host.ndim >= 2 and host.shape[0] >= 1 and host.shape[1] >= 1,
        "xs",
        "shape (B, N, ...) with B, N >= 1",
        host.shape,
        "For one sequence, use explain.",
    )
    n_sequences, widest = host.shape[:2]
    lengths = checked_lengths(lengths, n_sequences, widest)
    if uids is not None:
        expect(len(uids) == n_sequences, "uids", f"{n_sequences} names", len(uids))
    check_finite_batch(host, lengths, uids)
    _, prior, notes = checked_inputs(game, host[0, : lengths[0]], prior, "xs[0]")
    if tolerance is None and (classes is not None or confidence is not None):
        raise _without_tolerance(classes, confidence)
    if tolerance is not None:
        expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)

    shapes = {
        n: jax.ShapeDtypeStruct((n, *host.shape[2:]), host.dtype) for n in set(lengths.tolist())
    }
    by_length = {
        n: choose_estimator(game, shape, estimator, None, max_bytes, max_evaluations)
        for n, shape in shapes.items()
    }
    for n, chosen in by_length.items():
        check_randomness(chosen, n, key, None)
    job = _Job(game, host, lengths, prior, key, uids, marginals, notes)
    each = [by_length[n] for n in lengths.tolist()]
    result = _explained_batch(job, list(range(n_sequences)), each)
    if tolerance is None:
        return result
    width = _width_function(classes, confidence, prior.shape[0])
    open_rows = set(np.flatnonzero(width(result) > tolerance).tolist())
    while open_rows:
        again = []
        for i in sorted(open_rows):
            larger = _larger(each[i], game, shapes[int(lengths[i])], max_evaluations, max_bytes)
            if larger is not None:
                each[i] = larger
                again.append(i)
        if not again:
            break
        before = np.asarray(result.n_evaluations)
        try:
            result = _replaced(
                result, again, _explained_batch(job, again, [each[i] for i in again])
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        grown = np.asarray(result.n_evaluations) > before
        open_rows = {i for i in again if width(result)[i] > tolerance and grown[i]}
    within = width(result) <= tolerance
    return dataclasses.replace(result, within_tolerance=jnp.asarray(within))


class _Job(NamedTuple):
    """Checked inputs of `explain_batch`."""

    game: Game
    host: np.ndarray
    lengths: np.ndarray
    prior: AnyArray
    key: Array | None
    uids: Sequence[str | int] | None
    marginals: bool
    notes: tuple[str, ...]


def _explained_batch(job: _Job, which: list[int], each: list[Estimator]) -> Attribution:
    """The sequences `which`, each by its own estimator."""
    game = job.game
    parts = (_one_by_one if game.on_host else _block_by_block)(job, which, each)
    order = np.argsort([i for part in parts for i in part.rows])
    joined = _joined(
        [part.fields for part in parts],
        order,
        job.lengths[which],
        prior=jnp.asarray(job.prior),
        exact=all(part.exact for part in parts),
        warnings=tuple(
            dict.fromkeys((*(text for part in parts for text in part.warnings), *job.notes))
        ),
    )
    _check_batch(job, which, joined)
    return dataclasses.replace(joined, removal=game.removal_name)


class _Part(NamedTuple):
    """Results of some rows of a batch, padded."""

    rows: list[int]
    fields: dict[str, np.ndarray]
    exact: bool
    warnings: tuple[str, ...]


def _one_by_one(job: _Job, which: list[int], each: list[Estimator]) -> list[_Part]:
    """Sequences of a game on the host, under one progress bar."""
    game, host, lengths = job.game, job.host, job.lengths
    counts = Counter((chosen, int(lengths[i])) for chosen, i in zip(each, which, strict=True))
    total = 0
    for (chosen, n), count in counts.items():
        shape = jax.ShapeDtypeStruct((n, *host.shape[2:]), host.dtype)
        request = chosen.request(GameInfo.of(game, n))
        total += count * request_cost(game, shape, request).n_evaluations
    parts = []
    with game.progress_bar(total):
        for i, chosen in zip(which, each, strict=True):
            x = host[i, : lengths[i]]
            key = None
            if job.key is not None and chosen.needs_key:
                name = _checksum(x) if job.uids is None else job.uids[i]
                key = video_key(job.key, name) if chosen.draws_per_sequence else job.key
            one = _explained(chosen, game, x, job.prior, key, None, job.marginals)
            one = dataclasses.replace(one, n_evaluations=jnp.asarray(one.n_evaluations))
            fields = {
                name: np.asarray(getattr(one, name))[None]
                for name in _AXES
                if getattr(one, name) is not None
            }
            parts.append(_Part([i], _padded(fields, 1, host.shape[1]), one.exact, one.warnings))
    return parts


def _block_by_block(job: _Job, which: list[int], each: list[Estimator]) -> list[_Part]:
    """Sequences of a game in JAX, in blocks of one shape per estimator and length."""
    game, host, lengths, prior, key, uids, marginals, _ = job
    groups: dict[tuple[Estimator, int], list[int]] = {}
    for i, chosen in sorted(zip(which, each, strict=True), key=lambda pair: lengths[pair[0]]):
        n = int(lengths[i])
        groups.setdefault((chosen, padded_length(chosen, n)), []).append(i)

    parts = []
    for (chosen, padded), members in groups.items():
        example = jax.ShapeDtypeStruct((padded, *host.shape[2:]), host.dtype)
        together = block_size(chosen, game, example)
        name = ("block", chosen, marginals)
        run = compiled(game, name, functools.partial(block_program, chosen, marginals))
        plan = shared_plan(chosen, game, padded, key)
        for start in range(0, len(members), together):
            rows = members[start : start + together]
            sequences = [host[i, : lengths[i]] for i in rows]
            names: Sequence[str | int] = (
                list(map(_checksum, sequences)) if uids is None else [uids[i] for i in rows]
            )
            block = make_block(chosen, sequences, names, key, (together, *example.shape))
            part = run(game, block.xs, prior, block.keys, block.lengths, plan)
            fields = {
                field: np.asarray(getattr(part, field))
                for field in _AXES
                if getattr(part, field) is not None
            }
            fields = _padded(fields, len(rows), host.shape[1])
            parts.append(_Part(rows, fields, part.exact, part.warnings))
    return parts


def padded_length(estimator: Estimator, n: int) -> int:
    """Elements that a block has for sequences of n: n, or the next multiple of eight."""
    return -(-n // _LENGTH_STEP) * _LENGTH_STEP if estimator.pads else n


def block_size(estimator: Estimator, game: Game, example: Any) -> int:
    """Sequences in a block, from their shape alone; one where subsequences are drawn."""
    if estimator.needs_key or game.on_host:
        return 1
    info = GameInfo.of(game, example.shape[0])
    return block_sequences(request_cost(game, example, estimator.request(info)).n_bytes)


def shared_plan(estimator: Estimator, game: Game, n: int, key: Array | None) -> Any:
    """The draw that sequences of n elements share, made on the host; None where there is none."""
    if key is None or not estimator.draws_on_host:
        return None
    return estimator.draw(key, GameInfo.of(game, n))


class Block(NamedTuple):
    """Arguments of a block's program beside the game and the prior.

    Attributes:
      xs: (B, N, ...) sequences, zero beyond their lengths and in rows without one.
      keys: (B,) one per sequence, or None.
      lengths: (B,) elements in each; N in rows without a sequence.
    """

    xs: np.ndarray
    keys: Array | None
    lengths: np.ndarray


def make_block(
    estimator: Estimator,
    sequences: Sequence[np.ndarray],
    names: Sequence[str | int],
    key: Array | None,
    shape: tuple[int, ...],
) -> Block:
    """Sequences (n_i, ...) as a block of `shape` (B, N, ...), of the first one's dtype.

    Args:
      names: of the sequences, for their keys.
      key: of the set; used where the estimator draws for each sequence.
    """
    xs = np.zeros(shape, sequences[0].dtype)
    lengths = np.full(shape[0], shape[1], np.int32)
    for row, sequence in enumerate(sequences):
        xs[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    keys = None
    if key is not None and estimator.needs_key and estimator.draws_per_sequence:
        every = [*names, *[""] * (shape[0] - len(names))]
        keys = jnp.stack([video_key(key, name) for name in every])
    return Block(xs, keys, lengths)


def block_program(estimator: Estimator, marginals: bool) -> Callable[..., Attribution]:
    """The function of an estimator on a block: f(game, xs, prior, keys, lengths, plan) -> batch.

    All leaves of the batch have its axis; its own `lengths` is None. Not compiled.
    """

    def run(
        game: Game, xs: Array, prior: Array, keys: Array | None, lengths: Array, plan: object
    ) -> Attribution:
        def one(x: Array, key: Array | None, length: Array) -> Attribution:
            given = None if estimator.pads is False else length
            result = attribute(game, estimator, x, prior, key, plan, given)
            return dataclasses.replace(result, n_evaluations=jnp.asarray(result.n_evaluations))

        if xs.shape[0] == 1:  # keeps control flow that vmap would run both ways
            single = one(xs[0], None if keys is None else keys[0], lengths[0])
            result = jax.tree.map(lambda leaf: leaf[None], single)
        else:
            whole = _side_by_side(game, estimator, xs, prior)
            result = jax.vmap(one)(xs, keys, lengths) if whole is None else whole
        return result if marginals else dataclasses.replace(result, marginals=None)

    return run


def _side_by_side(game: Game, estimator: Estimator, xs: Array, prior: Array) -> Attribution | None:
    """V short sequences of heads by scale as one product per scale, which is faster than `vmap`.

    None where subsequences are drawn, or need more than one tile of the lattice.
    """
    if estimator.needs_key or not isinstance(game, ScaleGame):
        return None
    info = GameInfo.of(game, xs.shape[1])
    drawn = estimator.draw(None, info)
    if not isinstance(drawn, Lattice) or drawn.n_top:
        return None
    result = estimator.estimate(drawn, side_by_side(game, xs, drawn), prior, info)
    n_videos = xs.shape[0]
    return dataclasses.replace(
        result,
        values=jnp.moveaxis(result.values, 1, 0),
        marginals=None if result.marginals is None else jnp.moveaxis(result.marginals, 2, 0),
        prior=jnp.broadcast_to(prior, (n_videos, *prior.shape)),
        n_evaluations=jnp.full(n_videos, result.n_evaluations),
    )


def video_key(key: Array, uid: str | int) -> Array:
    """The key of one sequence of a set: `key` folded with a checksum of its name.

    Depends on the name alone (not on order, batch or process), and so do results.
    """
    return jax.random.fold_in(key, zlib.crc32(str(uid).encode()))


def _check_batch(job: _Job, which: list[int], result: Attribution) -> None:
    """Refuse values that are not finite, naming the sequence."""
    finite = np.isfinite(np.asarray(result.values)).all((1, 2))
    finite &= np.isfinite(np.asarray(result.scores)).all(1)
    wrong = np.flatnonzero(~finite)
    if len(wrong):
        i = which[wrong[0]]
        name = f"xs[{i}]" if job.uids is None else f"xs[{i}] ({job.uids[i]})"
        where = _first_not_finite(job.game, job.host[i, : job.lengths[i]])
        expected = "finite scores of every subsequence"
        raise ValueError(message(name, expected, f"NaN or infinity {where}"))


def _replaced(result: Attribution, rows: list[int], part: Attribution) -> Attribution:
    """`result` with some of its sequences from `part`."""
    index = np.array(rows)
    fields: dict[str, Any] = {}
    for name in _AXES:
        old, new = getattr(result, name), getattr(part, name)
        if old is not None and new is not None:
            fields[name] = jnp.asarray(old).at[index].set(jnp.asarray(new).astype(old.dtype))
    warnings = tuple(dict.fromkeys((*result.warnings, *part.warnings)))
    return dataclasses.replace(result, **fields, warnings=warnings)


def _checksum(x: np.ndarray) -> str:
    return f"content-{zlib.crc32(np.ascontiguousarray(x).tobytes()):08x}"


_AXES: dict[str, tuple[int, ...]] = {  # fields of a block and their axes over elements or scales
    "values": (1,),
    "scores": (),
    "marginals": (1, 2),
    "std_error": (1,),
    "coverage": (1, 2),
    "n_evaluations": (),
}


def _padded(fields: dict[str, np.ndarray], n_rows: int, widest: int) -> dict[str, np.ndarray]:
    """The first rows of a block's fields, padded with zeros (or cut) to `widest` elements."""
    padded = {}
    for name, leaf in fields.items():
        rows = leaf[:n_rows]
        for axis in _AXES[name]:
            rows = np.take(rows, range(min(rows.shape[axis], widest)), axis)
            grow = [(0, 0)] * rows.ndim
            grow[axis] = (0, widest - rows.shape[axis])
            rows = np.pad(rows, grow)
        padded[name] = rows
    return padded


def _joined(
    parts: list[dict[str, np.ndarray]], order: np.ndarray, lengths: np.ndarray, **others: Any
) -> Attribution:
    """Parts in the order of the sequences; fields that only some parts have are zero in others."""
    fields: dict[str, Any] = dict.fromkeys(_AXES)
    for name in _AXES:
        example = next((part[name] for part in parts if name in part), None)
        if example is None:
            continue
        shape, dtype = example.shape[1:], example.dtype
        rows = [
            part[name] if name in part else np.zeros((len(part["values"]), *shape), dtype)
            for part in parts
        ]
        fields[name] = jax.device_put(np.concatenate(rows)[order])
    return Attribution(lengths=jax.device_put(lengths), **fields, **others)
