"""`explain_batch`: Element Shapley Values of many sequences.

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
from esv_jax.checks import AnyArray, expect, message
from esv_jax.estimators import Estimator
from esv_jax.explanations import attribute, explained, first_not_finite
from esv_jax.games.protocol import Game, ScaleGame
from esv_jax.games.scoring import (
    GameInfo,
    block_sequences,
    compiled,
    request_cost,
    side_by_side,
)
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
from esv_jax.subsequences.lattice import Lattice
from esv_jax.tolerance import larger_estimator, out_of_memory, width_function, without_tolerance

_LENGTH_STEP = 8  # sampled sequences are padded to multiples of this many elements


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
        raise without_tolerance(classes, confidence)
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
    width = width_function(classes, confidence, prior.shape[0])
    open_rows = set(np.flatnonzero(width(result) > tolerance).tolist())
    while open_rows:
        again = []
        for i in sorted(open_rows):
            larger = larger_estimator(
                each[i], game, shapes[int(lengths[i])], max_evaluations, max_bytes
            )
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
            one = explained(chosen, game, x, job.prior, key, None, job.marginals)
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
        where = first_not_finite(job.game, job.host[i, : job.lengths[i]])
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
