"""Scores of subsequences from a Python function: batches, a memory of scores, checks.

The only stateful code below the public API: it keeps the scores of the current call and of one
that failed, and counts calls of the function.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from esv_jax.checks import as_numpy, class_scores, expect, message
from esv_jax.games.removal import Layout, Removal, frame_axes, frame_index, frame_table

Identity = tuple[tuple[int, ...], str, bytes]  # of a sequence: shape, dtype, digest of its content

_MAX_SEQUENCES = 512  # whose scores are kept, the latest
_SAME = 1e-4  # share of the largest score by which an unchanged model may differ from itself
_NOISE = 1e-5  # share of the largest score by which two scores of one clip may differ
_OF_LENGTH = (ValueError, RuntimeError, TypeError, AssertionError, IndexError)


class HostCounts(NamedTuple):
    """Calls of `fn` and clips in them since the game was made."""

    calls: int
    clips: int


class _Known:
    """Scores of one sequence's subsequences, and warnings about it."""

    def __init__(self) -> None:
        self.row: dict[bytes, int] = {}  # by packed membership
        self.scores = np.zeros((0, 0))  # (rows, C), grown as needed; the first len(row) count
        self.shown: set[int] = set()  # rows that the progress bar has counted
        self.note: tuple[str, ...] | None = None
        self.noise = 0.0  # between two scores of the whole

    def add(self, keys: list[bytes], scores: np.ndarray) -> None:
        """Keep scores (B, C) of new subsequences."""
        start = len(self.row)
        stop = start + len(keys)
        if stop > len(self.scores):
            grown = np.empty((max(2 * start, stop), scores.shape[1]), scores.dtype)
            grown[:start] = self.scores[:start] if start else 0
            self.scores = grown
        self.scores[start:stop] = scores
        self.row.update(zip(keys, range(start, stop), strict=True))


class HostScores:
    """The model `fn` behind a `BlackBox`, evaluated on the calling thread."""

    def __init__(
        self,
        fn: Callable[[np.ndarray], Any],
        removal: Removal,
        layout: Layout | None,
        batch_size: int,
        progress: Callable[..., Any] | None,
    ) -> None:
        self._fn, self._removal, self._layout = fn, removal, layout
        self._batch_size, self._progress = batch_size, progress
        self._bar: Any = None
        self._memory: dict[Identity, _Known] = {}  # the latest last
        self._table: tuple[Identity, np.ndarray] | None = None  # of the latest sequence
        self._buffer = bytearray()  # where clips are gathered, one batch after another
        self._failed = False  # whether the last call did
        self._lengths: set[int] = set()  # of clips that `fn` has scored
        self.counts = HostCounts(0, 0)
        self.output: tuple[int, np.dtype] | None = None  # C and dtype of the scores

    def forget(self) -> None:
        """Drop all kept scores."""
        self._memory, self._table, self._failed = {}, None, False

    def begin(self, clip: np.ndarray) -> None:
        """Score the whole clip twice, as the first step of a call. Raises as `fn` does.

        Scores kept by earlier calls are dropped, since the model may have changed: unless the
        last call failed, began with this clip, and the clip still has the scores it had.
        """
        if self._removal == "blur":
            frame_axes(clip.shape, self._layout)
        older = self._memory if self._failed else {}
        before = self._whole_in(older, clip)
        self._memory = {}
        try:
            everything = np.ones((1, len(clip)), bool)
            now = self.scores(clip, everything)
            same = (
                before is not None and np.abs(now[0] - before).max() <= _SAME * np.abs(before).max()
            )
            if not same:
                again = self.ask(self._clips(clip, everything))
                self._known(clip).noise = float(np.abs(again - now).max())
        except BaseException:
            self._memory = older
            raise
        if same:
            self._memory = older
        self._failed = False

    def noise(self, clip: np.ndarray) -> float:
        """Largest difference between two scores of the whole clip beyond rounding; 0 if none."""
        noise, whole = self._known(clip).noise, self.whole(clip)
        rounding = whole is None or noise <= _NOISE * max(float(np.abs(whole).max()), 1e-30)
        return 0.0 if rounding else noise

    def whole(self, clip: np.ndarray) -> np.ndarray | None:
        """Scores (C,) of the whole clip, where they are known."""
        return self._whole_in(self._memory, clip)

    def _whole_in(self, memory: dict[Identity, _Known], clip: np.ndarray) -> np.ndarray | None:
        known = memory.get(_identity(clip), _Known())
        row = known.row.get(_packed(np.ones((1, len(clip)), bool))[0])
        return None if row is None else known.scores[row]

    def noted(self, clip: np.ndarray, make: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """make(), or its earlier result for this clip while its scores are kept."""
        known = self._known(clip)
        if known.note is None:
            with self._marking_failure():
                known.note = make()
        return known.note

    @contextlib.contextmanager
    def _marking_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    @contextlib.contextmanager
    def progress_bar(self, total: int) -> Iterator[None]:
        """Show the progress of `total` distinct scores."""
        if self._bar is not None or self._progress is None:  # part of a larger call, or hidden
            yield
            return
        for known in self._memory.values():
            known.shown.clear()
        self._bar = self._progress(total=total, unit=" clips", desc="model")
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    def scores(self, clip: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Scores (m, C) of the subsequences `member` (m, n), each evaluated once per clip."""
        known, keys = self._known(clip), _packed(member)
        self._show(known, {known.row[key] for key in keys if key in known.row})
        new = {key: j for j, key in enumerate(keys) if key not in known.row}
        if new:
            with self._marking_failure():
                self._evaluate(clip, known, list(new), member[list(new.values())])
            self._table, self._buffer = None, bytearray()
        return known.scores[[known.row[key] for key in keys]]

    def _known(self, clip: np.ndarray) -> _Known:
        identity = _identity(clip)
        known = self._memory.setdefault(identity, _Known())
        while len(self._memory) > _MAX_SEQUENCES:
            del self._memory[next(iter(self._memory))]
        return known

    def _frames(self, clip: np.ndarray) -> np.ndarray:
        """The frames that clips are gathered from, made once per sequence."""
        if self._removal in ("drop", "freeze"):
            return clip
        identity = _identity(clip)
        if self._table is None or self._table[0] != identity:
            self._table = identity, frame_table(self._removal, clip, self._layout)
        return self._table[1]

    def _evaluate(
        self, clip: np.ndarray, known: _Known, keys: list[bytes], member: np.ndarray
    ) -> None:
        """Call `fn` on batches of clips of one length; scores from before an error are kept."""
        sizes = member.sum(1)
        order = np.argsort(sizes, kind="stable")
        cuts = [0]
        if self._removal == "drop" or callable(self._removal):
            cuts += (np.flatnonzero(np.diff(sizes[order])) + 1).tolist()
        for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
            for first in range(start, stop, self._batch_size):
                rows = order[first : min(first + self._batch_size, stop)]
                clips = self._clips(clip, member[rows])
                before = len(known.row)
                known.add([keys[row] for row in rows.tolist()], self._call(clips, len(clip)))
                del clips
                self._show(known, set(range(before, len(known.row))))

    def _clips(self, clip: np.ndarray, member: np.ndarray) -> np.ndarray:
        """The clips of the subsequences `member` (m, n)."""
        if not callable(self._removal):
            return self._gathered(self._frames(clip), frame_index(self._removal, member))
        clips = [np.asarray(self._removal(clip.copy(), row.copy())) for row in member]
        for made in clips:
            fits = made.shape == clips[0].shape and made.shape[1:] == clip.shape[1:]
            expected = f"frames (k, ...) = (k, {', '.join(map(str, clip.shape[1:]))}), one k a size"
            expect(fits, "removal", expected, made.shape)
        return np.stack(clips).astype(clip.dtype)

    def _gathered(self, table: np.ndarray, index: np.ndarray) -> np.ndarray:
        """table[index], in memory that is reused once no array refers to earlier clips.

        Fresh memory for every batch costs as much time as the frames themselves take to copy.
        """
        shape = (*index.shape, *table.shape[1:])
        size = math.prod(shape)
        if len(self._buffer) < size * table.itemsize or _is_held(self._buffer):
            self._buffer = bytearray(size * table.itemsize)
        clips = np.frombuffer(self._buffer, table.dtype, size).reshape(shape)
        return np.take(table, index, 0, out=clips, mode="clip")

    def _show(self, known: _Known, rows: set[int]) -> None:
        """Advance the bar by scores that it has not counted in this call."""
        if self._bar is not None and not rows <= known.shown:
            self._bar.update(len(rows - known.shown))
            known.shown |= rows

    def ask(self, clips: np.ndarray) -> np.ndarray:
        """Scores (B, C) of clips (B, s, ...) as they are; not kept."""
        cuts = range(0, len(clips), self._batch_size)
        n = clips.shape[1]
        return np.concatenate([self._call(clips[k : k + self._batch_size], n) for k in cuts])

    def _call(self, clips: np.ndarray, n: int) -> np.ndarray:
        """fn(clips) as a checked array (B, C), for clips of a sequence of n elements."""
        b = len(clips)
        self.counts = HostCounts(self.counts.calls + 1, self.counts.clips + b)
        try:
            found = self._fn(clips)
        except _OF_LENGTH as error:
            shorter = self._removal == "drop" and clips.shape[1] != n
            if not shorter or clips.shape[1] in self._lengths:
                raise
            expected = "clips of any length under removal='drop'"
            got = f"{type(error).__name__} ({error}) for clips {clips.shape} of {n} frames"
            way_out = (
                "If the model needs a fixed length, use removal='freeze'; if it needs whole "
                "tubelets of frames, make them elements with explain(..., groups=...)."
            )
            raise ValueError(message("fn", expected, got, way_out)) from error
        if hasattr(found, "detach"):  # a tensor that may record gradients
            found = as_numpy(found)
        scores = as_numpy(class_scores(found, b))
        if self.output is not None and scores.shape[1] != self.output[0]:
            expected = f"scores of shape (B, C) = ({b}, {self.output[0]}) for clips {clips.shape}"
            raise ValueError(message("fn", expected, f"shape {scores.shape}"))
        self._lengths.add(clips.shape[1])
        if scores.dtype.itemsize < 4:
            scores = scores.astype(np.float32)  # half precision of either kind
        if not np.isfinite(scores).all():
            at = tuple(np.argwhere(~np.isfinite(scores))[0].tolist())
            expected = f"finite scores for clips {clips.shape}"
            raise ValueError(message("fn", expected, f"{scores[at]} at {at}"))
        if self.output is None:
            wide = np.result_type(np.float32, scores.dtype)
            self.output = scores.shape[1], np.dtype(jax.dtypes.canonicalize_dtype(wide))
        return scores.astype(self.output[1])


def _is_held(buffer: bytearray) -> bool:
    """Return whether an array refers to this memory, which locks its size."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False


def _identity(clip: np.ndarray) -> Identity:
    """Shape, dtype and digest of a sequence."""
    content = np.ascontiguousarray(clip).reshape(-1).view(np.uint8)
    return clip.shape, str(clip.dtype), hashlib.blake2b(content.data, digest_size=16).digest()


def _packed(member: np.ndarray) -> list[bytes]:
    """A key for each row of membership (m, n)."""
    packed = np.packbits(member, axis=1)
    width, flat = packed.shape[1], packed.tobytes()
    return [flat[k : k + width] for k in range(0, len(flat), width)]
