"""`explain_batch`: Element Shapley Values of many sequences.

Sequences of a batch go through programs of fixed shape, a block at a time. The bits of a result
depend on the shape of its block and on nothing else in it: not on order, batch or device.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray, expect, message
from esv_jax.estimators import Estimator
from esv_jax.explanations import ELEMENT_AXES, attribute, explained, first_not_finite
from esv_jax.games.protocol import Game, ScaleGame
from esv_jax.games.scoring import GameInfo, block_sequences, compiled, request_cost, side_by_side
from esv_jax.inputs import (
    FINITE,
    EstimatorChoice,
    as_taken,
    batch_name,
    check_finite_batch,
    check_randomness,
    checked_inputs,
    checked_lengths,
    choose_estimator,
    stacked,
)
from esv_jax.subsequences.lattice import Lattice
from esv_jax.tolerance import larger_estimator, out_of_memory, width_function, without_tolerance


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
        those whose intervals are too wide are explained again with a larger budget.
      marginals: whether to return mean marginals by scale, (B, N, N, C).
    Returns:
      `Attribution` with a leading batch axis and `lengths`; zero beyond a sequence's length.
      `result[i]` is one sequence, its padding removed. `std_error` and `coverage` are there where
      any sequence was sampled; `exact` says whether all were exact. With a tolerance,
      `within_tolerance` is (B,).
    Raises:
      ValueError, TypeError: as `explain`, naming the sequence; lengths or uids that do not fit.
    Cost: see `plan_cost`, per sequence. One compilation per length; where the estimator
      pads, per multiple of eight elements (`Constructive`), or for 8, 12, 20, 32, 50, 77, 115, ...
      elements (`Surrogate`, whose plan is also built once per length).
    """
    if isinstance(xs, list | tuple):
        expect(lengths is None, "lengths", "None beside a list of sequences", "lengths")
        xs, lengths = stacked(xs)
    host = np.asarray(as_taken(game, "xs", xs))
    fits, way_out = host.ndim >= 2 and min(host.shape[:2]) >= 1, "For one sequence, use explain."
    expect(fits, "xs", "shape (B, N, ...) with B, N >= 1", host.shape, way_out)
    n_sequences, widest = host.shape[:2]
    lengths = checked_lengths(lengths, n_sequences, widest)
    if uids is not None:
        expect(len(uids) == n_sequences, "uids", f"{n_sequences} names", len(uids))
    check_finite_batch(host, lengths, uids)
    _, prior, notes = checked_inputs(game, host[0, : lengths[0]], prior, "xs[0]")
    if tolerance is None and (classes is not None or confidence is not None):
        raise without_tolerance(classes, confidence)
    if tolerance is not None:
        expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)

    def example(n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *host.shape[2:]), host.dtype)

    by_length = {
        n: choose_estimator(game, example(n), estimator, None, max_bytes, max_evaluations)
        for n in set(lengths.tolist())
    }
    for n, chosen in by_length.items():
        check_randomness(chosen, n, key, None)
    job = _Job(game, host, lengths, prior, key, uids, marginals)
    each = [by_length[n] for n in lengths.tolist()]
    fields: dict[str, np.ndarray] = {}
    exact, texts = _explain_rows(job, range(n_sequences), each, fields)
    warnings = dict.fromkeys((*texts, *notes))

    def joined() -> Attribution:
        return Attribution(
            prior=jnp.asarray(prior),
            lengths=jax.device_put(lengths),
            exact=exact,
            warnings=tuple(warnings),
            removal=game.removal_name,
            **{name: jax.device_put(leaf) for name, leaf in fields.items()},
        )

    result = joined()
    if tolerance is None:
        return result
    width = width_function(classes, confidence, prior.shape[0])
    widths = width(result)
    open_rows = np.flatnonzero(widths > tolerance).tolist()
    while open_rows:
        again = []
        for i in open_rows:
            shape = example(int(lengths[i]))
            larger = larger_estimator(
                each[i], game, shape, max_evaluations, max_bytes, float(widths[i]) / tolerance
            )
            if larger is not None:
                each[i] = larger
                again.append(i)
        finer = {name: leaf.copy() for name, leaf in fields.items()}
        try:
            _, texts = _explain_rows(job, again, each, finer)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        grown = finer["n_evaluations"] > fields["n_evaluations"]
        fields, warnings = finer, warnings | dict.fromkeys(texts)
        result = joined()
        widths = width(result)
        open_rows = [i for i in again if widths[i] > tolerance and grown[i]]
    within = widths <= tolerance
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

    def sequence(self, i: int) -> np.ndarray:
        """Sequence i without its padding."""
        return self.host[i, : self.lengths[i]]

    def name(self, i: int) -> str | int:
        """The name for its key."""
        if self.uids is not None:
            return self.uids[i]
        return f"content-{zlib.crc32(np.ascontiguousarray(self.sequence(i)).tobytes()):08x}"


def _explain_rows(
    job: _Job, which: Sequence[int], each: list[Estimator], fields: dict[str, np.ndarray]
) -> tuple[bool, list[str]]:
    """Write sequences i of `which`, by each[i], into fields (B, ...); are all exact, warnings."""
    exact, warnings, widest = True, list[str](), job.host.shape[1]
    for rows, part in (_one_by_one if job.game.on_host else _block_by_block)(job, which, each):
        exact &= part.exact
        warnings += part.warnings
        for name, n_axes in ELEMENT_AXES.items():
            if getattr(part, name) is None:
                continue
            leaf = np.asarray(getattr(part, name))[: len(rows)]
            sizes, others = leaf.shape[1 : 1 + n_axes], leaf.shape[1 + n_axes :]
            place: tuple[Any, ...] = tuple(slice(min(size, widest)) for size in sizes)
            shape = (len(job.host), *[widest] * n_axes, *others)
            whole = fields.setdefault(name, np.zeros(shape, leaf.dtype))
            whole[(rows, *place)] = leaf[(slice(None), *place)]
    finite = np.isfinite(fields["values"]).all((1, 2)) & np.isfinite(fields["scores"]).all(1)
    for i in which:
        if not finite[i]:
            got = first_not_finite(job.game, job.sequence(i))
            raise ValueError(message(batch_name(i, job.uids), FINITE, got))
    return exact, warnings


_Parts: TypeAlias = Iterator[tuple[list[int], Attribution]]


def _one_by_one(job: _Job, which: Sequence[int], each: list[Estimator]) -> _Parts:
    """Sequences of a game on the host, under one progress bar."""
    game, lengths = job.game, job.lengths.tolist()
    counts = Counter((each[i], lengths[i]) for i in which)
    total = 0
    for (chosen, n), count in counts.items():
        shape = jax.ShapeDtypeStruct((n, *job.host.shape[2:]), job.host.dtype)
        request = chosen.request(GameInfo.of(game, n))
        total += count * request_cost(game, shape, request).n_evaluations
    with game.progress_bar(total):
        for i in which:
            chosen, key = each[i], job.key
            if key is not None and chosen.needs_key and chosen.draws_per_sequence:
                key = video_key(key, job.name(i))
            one = explained(chosen, game, job.sequence(i), job.prior, key, None, job.marginals)
            yield [i], jax.tree.map(lambda leaf: np.asarray(leaf)[None], one)


def _block_by_block(job: _Job, which: Sequence[int], each: list[Estimator]) -> _Parts:
    """Sequences of a game in JAX, in blocks of one shape per estimator and length."""
    game, key = job.game, job.key
    groups: dict[tuple[Estimator, int, int], list[int]] = {}
    for i in sorted(which, key=job.lengths.__getitem__):
        n = int(job.lengths[i])
        padded = each[i].padded_length(n)
        groups.setdefault((each[i], padded, padded if each[i].pads else n), []).append(i)
    for (chosen, padded, n), members in groups.items():
        example = jax.ShapeDtypeStruct((padded, *job.host.shape[2:]), job.host.dtype)
        together = block_size(chosen, game, example)
        name = ("block", chosen, job.marginals)
        run = compiled(game, name, functools.partial(block_program, chosen, job.marginals))
        plan = shared_plan(chosen, game, n, key)
        for start in range(0, len(members), together):
            rows = members[start : start + together]
            sequences, names = map(job.sequence, rows), list(map(job.name, rows))
            block = make_block(chosen, list(sequences), names, key, (together, *example.shape))
            yield rows, run(game, block.xs, job.prior, block.keys, block.lengths, plan)


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
    return estimator.draw(key, GameInfo.of(game, estimator.padded_length(n)), n)


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
            result = attribute(estimator, game, x, prior, key, plan, given)
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
    """V sequences as one product per scale; None where drawn, or of more than one tile."""
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
