"""Features of many videos in full batches, whatever their lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect, expect_int

Key = TypeVar("Key")


def extract_stream(
    extract: Callable[[jax.Array], jax.Array],
    pieces: Iterable[tuple[Key, np.ndarray]],
    batch_size: int = 32,
) -> Iterator[tuple[Key, np.ndarray]]:
    """Features of a stream of frames, in its order, each piece with the key of its video.

    A video may come in several pieces, one after the other, and its features do too, not
    necessarily cut at the same places:

        for uid, parts in itertools.groupby(extract_stream(...), operator.itemgetter(0)):
            features = np.concatenate([part for _, part in parts])  # (n, F)

    Neighbouring videos share batches, so that one program serves all lengths; only the last batch
    is filled up with zeros, whose features are dropped. One batch is computed while the next is
    being gathered.

    Args:
      extract: of `extractor`: frames (B, h, w, 3) -> features (B, F).
      pieces: key and preprocessed frames (k, h, w, 3) of each piece; may be a generator.
      batch_size: frames per batch, B.
    Yields:
      Key and features (k', F) float32.
    Raises:
      ValueError: a piece of another shape than the first, a batch size below 1.
    Cost: memory for two batches and the piece at hand.
    """
    batch_size = expect_int("batch_size", batch_size, minimum=1)
    started: tuple[jax.Array, list[tuple[Key, int]]] | None = None
    for batch, runs in _batches(pieces, batch_size):
        features = extract(jnp.asarray(batch))  # returns before it is computed
        if started is not None:
            yield from _by_run(*started)
        started = features, runs
    if started is not None:
        yield from _by_run(*started)


def _batches(
    pieces: Iterable[tuple[Key, np.ndarray]], batch_size: int
) -> Iterator[tuple[np.ndarray, list[tuple[Key, int]]]]:
    """Batches of full size, and the runs of their rows that belong to one video."""
    batch, runs, filled = np.empty(0), list[tuple[Key, int]](), 0
    shape: tuple[int, ...] | None = None
    for key, frames in pieces:
        shape = frames.shape[1:] if shape is None else shape
        fits = frames.ndim == 4 and frames.shape[1:] == shape
        expected = f"shape (k, {', '.join(map(str, shape))}), as before"
        expect(fits, f"frames of {key!r}", expected, frames.shape)
        begin = 0
        while begin < len(frames):
            if filled == 0:
                batch, runs = np.zeros((batch_size, *shape), np.float32), []
            count = min(len(frames) - begin, batch_size - filled)
            batch[filled : filled + count] = frames[begin : begin + count]
            runs.append((key, count))
            begin, filled = begin + count, (filled + count) % batch_size
            if filled == 0:
                yield batch, runs
    if filled > 0:
        yield batch, runs


def _by_run(features: jax.Array, runs: list[tuple[Key, int]]) -> Iterator[tuple[Key, np.ndarray]]:
    rows, begin = np.asarray(features), 0
    for key, count in runs:
        yield key, rows[begin : begin + count]
        begin += count
