"""`explain_batch`: many sequences, few compiled programs, the same bits in any company."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.blocks import block_size, compiled_block, make_block, padded_length
from esv_jax.boundary import (
    EstimatorChoice,
    Notes,
    as_taken,
    check_randomness,
    checked_prior,
    choose_estimator,
    notes_of,
)
from esv_jax.checks import expect, message
from esv_jax.estimators import Estimator
from esv_jax.games import Game, run_to_end


def explain_batch(
    game: Game,
    xs: Any,
    lengths: Any = None,
    *,
    prior: Any,
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    uids: Sequence[str | int] | None = None,
    tolerance: float | None = None,
    confidence: float = 0.95,
    classes: Sequence[int] | None = None,
    max_evaluations: int = 100_000,
    marginals: bool = False,
    max_bytes: float | None = None,
) -> Attribution:
    """Explain many sequences of different lengths.

    Sequences of one length (one bucket of lengths where sampled) go through one compiled program
    of fixed shape, a fixed number at a time, so a sequence's result does not depend on what it
    is batched with: the same bits in any order and any company, on the same backend.

    Args:
      game, prior, estimator, max_bytes: as for `explain`; "auto" is settled length by length.
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
        xs, lengths = _stacked(xs)
    host = np.asarray(as_taken(game, "xs", xs))
    expect(
        host.ndim >= 2 and host.shape[0] >= 1 and host.shape[1] >= 1,
        "xs",
        "shape (B, N, ...) with B, N >= 1",
        host.shape,
        "For one sequence, use explain.",
    )
    n_sequences, widest = host.shape[:2]
    lengths = _checked_lengths(lengths, n_sequences, widest)
    if uids is not None:
        expect(len(uids) == n_sequences, "uids", f"{n_sequences} names", len(uids))
    _check_finite(host, lengths, uids)
    first = jnp.asarray(host[0, : lengths[0]])
    game.check(first)
    prior = checked_prior(game, first, prior)
    notes = notes_of(game, first, prior)

    shapes = {
        n: jax.ShapeDtypeStruct((n, *host.shape[2:]), host.dtype) for n in set(lengths.tolist())
    }
    by_length = {
        n: choose_estimator(game, shape, estimator, None, max_bytes) for n, shape in shapes.items()
    }
    for n, chosen in by_length.items():
        check_randomness(chosen, n, key, None)
    job = _Job(game, host, lengths, prior, key, uids, marginals, notes)
    each = [by_length[n] for n in lengths.tolist()]
    result = _explained(job, list(range(n_sequences)), each)
    if tolerance is None:
        return result
    expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)
    wanted = slice(None) if classes is None else np.asarray(classes)
    while True:
        width = np.asarray(result.half_width(confidence))[..., wanted].max((1, 2))
        again = []
        for i in np.flatnonzero(width > tolerance).tolist():
            shape, larger = shapes[int(lengths[i])], each[i].doubled()
            if larger is None or larger.cost(game, shape).n_evaluations > max_evaluations:
                continue
            each[i] = choose_estimator(game, shape, larger, None, max_bytes)
            again.append(i)
        if not again:
            return dataclasses.replace(result, within_tolerance=jnp.asarray(width <= tolerance))
        result = _replaced(result, again, _explained(job, again, [each[i] for i in again]))


class _Job(NamedTuple):
    """What a call of `explain_batch` was given, checked."""

    game: Game
    host: np.ndarray
    lengths: np.ndarray
    prior: Array
    key: Array | None
    uids: Sequence[str | int] | None
    marginals: bool
    notes: Notes


def _explained(job: _Job, which: list[int], each: list[Estimator]) -> Attribution:
    """The sequences `which`, each by its own estimator."""

    def n_evaluations() -> int:
        times = Counter(
            (chosen, int(job.lengths[i])) for chosen, i in zip(each, which, strict=True)
        )
        shape, dtype = job.host.shape[2:], job.host.dtype
        return sum(
            count * chosen.cost(job.game, jax.ShapeDtypeStruct((n, *shape), dtype)).n_evaluations
            for (chosen, n), count in times.items()
        )

    result = run_to_end(job.game, lambda: _block_by_block(job, which, each), n_evaluations)
    return job.notes.added_to(result)


def _block_by_block(job: _Job, which: list[int], each: list[Estimator]) -> Attribution:
    """See `_explained`."""
    game, host, lengths, prior, key, uids, marginals, _ = job
    groups: dict[tuple[Estimator, int], list[int]] = {}
    for i, chosen in sorted(zip(which, each, strict=True), key=lambda pair: lengths[pair[0]]):
        n = int(lengths[i])
        groups.setdefault((chosen, padded_length(chosen, n)), []).append(i)

    order: list[int] = []
    parts: list[dict[str, np.ndarray]] = []
    all_exact = True
    warnings: dict[str, None] = {}  # in order, each once
    for (chosen, padded), members in groups.items():
        example = jax.ShapeDtypeStruct((padded, *host.shape[2:]), host.dtype)
        together = block_size(chosen, game, example)
        run = compiled_block(chosen, marginals)
        plan = None if key is None else chosen.prepare(game, example, key)
        for start in range(0, len(members), together):
            rows = members[start : start + together]
            sequences = [host[i, : lengths[i]] for i in rows]
            names: Sequence[str | int] = (
                list(map(_checksum, sequences)) if uids is None else [uids[i] for i in rows]
            )
            block = make_block(chosen, sequences, names, key, (together, *example.shape))
            sizes = jnp.asarray(block.lengths)
            inputs = (game, jnp.asarray(block.xs), prior, block.keys, sizes, plan)
            part = run_to_end(game, functools.partial(run, *inputs))
            parts.append(_padded(part, len(rows), host.shape[1]))
            all_exact &= part.exact
            warnings |= dict.fromkeys(part.warnings)
            order += rows
    original = np.argsort(order)
    return _joined(
        parts, original, lengths[which], prior=prior, exact=all_exact, warnings=tuple(warnings)
    )


def _replaced(result: Attribution, rows: list[int], part: Attribution) -> Attribution:
    """`result` with some of its sequences from `part`."""
    index = np.array(rows)
    fields: dict[str, Any] = {}
    for name in _AXES:
        old, new = getattr(result, name), getattr(part, name)
        if old is not None and new is not None:
            fields[name] = jnp.asarray(old).at[index].set(new.astype(old.dtype))
    warnings = tuple(dict.fromkeys((*result.warnings, *part.warnings)))
    return dataclasses.replace(result, **fields, warnings=warnings)


def _checksum(x: np.ndarray) -> str:
    return f"content-{zlib.crc32(np.ascontiguousarray(x).tobytes()):08x}"


def _stacked(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of different lengths, padded with zeros, and their lengths."""
    arrays = [np.asarray(sequence) for sequence in sequences]
    expect(len(arrays) >= 1, "xs", "at least one sequence", "an empty list")
    for i, array in enumerate(arrays):
        fits = array.ndim >= 1 and array.shape[1:] == arrays[0].shape[1:]
        like = f"(n, {', '.join(map(str, arrays[0].shape[1:]))}) like the first"
        expect(fits, f"xs[{i}]", f"shape {like}", array.shape)
        kinds = {np.issubdtype(each.dtype, np.integer) for each in (arrays[0], array)}
        alike = len(kinds) == 1 and (not kinds.pop() or array.dtype == arrays[0].dtype)
        like = f"dtype {arrays[0].dtype} like the first"
        expect(alike, f"xs[{i}]", like, array.dtype, "Cast it.", TypeError)
        expect(len(array) >= 1, f"xs[{i}]", "at least one element (n >= 1)", "n = 0")
    lengths = np.array([len(array) for array in arrays])
    padded = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def _checked_lengths(lengths: Any, n_sequences: int, widest: int) -> np.ndarray:
    if lengths is None:
        return np.full(n_sequences, widest)
    lengths = np.asarray(lengths)
    expect(
        lengths.shape == (n_sequences,), "lengths", f"shape (B,) = ({n_sequences},)", lengths.shape
    )
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(message("lengths", "integers", f"dtype {lengths.dtype}"))
    wrong = np.flatnonzero((lengths < 1) | (lengths > widest))
    if len(wrong):
        raise ValueError(
            message(f"lengths[{wrong[0]}]", f"1..{widest}, elements in xs", lengths[wrong[0]])
        )
    return lengths.astype(int)


def _check_finite(host: np.ndarray, lengths: np.ndarray, uids: Sequence[str | int] | None) -> None:
    """Padding may hold anything; what is explained may not."""
    finite = np.isfinite(host).all(axis=tuple(range(2, host.ndim)))
    wrong = np.argwhere(~finite & (np.arange(host.shape[1]) < lengths[:, None]))
    if len(wrong):
        i, element = wrong[0]
        raise ValueError(
            message(
                f"xs[{i}]" if uids is None else f"xs[{i}] ({uids[i]})",
                "finite values",
                f"NaN or infinity in element {element}",
                "Drop or fill such elements first.",
            )
        )


_AXES: dict[str, tuple[int, ...]] = {  # fields of a block and their axes over elements or scales
    "values": (1,),
    "scores": (),
    "marginals": (1, 2),
    "std_error": (1,),
    "coverage": (1, 2),
    "n_evaluations": (),
}


def _padded(part: Attribution, n_rows: int, widest: int) -> dict[str, np.ndarray]:
    """The first rows of a block's fields, padded with zeros (or cut) to `widest` elements."""
    fields = {}
    for name, axes in _AXES.items():
        leaf = getattr(part, name)
        if leaf is None:
            continue
        rows = np.asarray(leaf)[:n_rows]
        for axis in axes:
            rows = np.take(rows, range(min(rows.shape[axis], widest)), axis)
            grow = [(0, 0)] * rows.ndim
            grow[axis] = (0, widest - rows.shape[axis])
            rows = np.pad(rows, grow)
        fields[name] = rows
    return fields


def _joined(
    parts: list[dict[str, np.ndarray]], order: np.ndarray, lengths: np.ndarray, **others: Any
) -> Attribution:
    """Parts in the order of the sequences; what only some parts have is zero in the others."""
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
        fields[name] = jnp.asarray(np.concatenate(rows)[order])
    return Attribution(lengths=jnp.asarray(lengths), **fields, **others)
