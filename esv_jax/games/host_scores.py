"""Scores of subsequences from a function on the host: batches, a memory, errors as they are.

This is the one stateful thing below the front door: it remembers scores of the call under way and
of one that failed, counts what the model was asked, and carries errors from callbacks to the
caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.checks import expect, message
from esv_jax.games.removal import Removal, expect_removable, frame_index, frame_table

T = TypeVar("T")
Identity = tuple[tuple[int, ...], str, bytes]  # of a sequence: shape, dtype, digest of its content

_MAX_SEQUENCES = 512  # whose scores are kept, the latest
_SAME = 1e-4  # share of the largest score by which an unchanged model may differ from itself


class HostCounts(NamedTuple):
    """What a black box has been asked since it was made: calls of `fn`, clips in them."""

    calls: int
    clips: int


class _Known:
    """What is known about one sequence: scores of its subsequences, and what was noted of it."""

    def __init__(self) -> None:
        self.row: dict[bytes, int] = {}  # by packed membership
        self.scores = np.zeros((0, 0))  # (rows, C), grown as needed; the first len(row) count
        self.shown: set[int] = set()  # rows that the progress bar has counted
        self.notes: dict[str, tuple[str, ...]] = {}

    def learn(self, keys: list[bytes], scores: np.ndarray) -> None:
        """Keep scores (B, C) of subsequences not known before."""
        start = len(self.row)
        stop = start + len(keys)
        if stop > len(self.scores):
            grown = np.empty((max(2 * start, stop), scores.shape[1]), scores.dtype)
            if start:
                grown[:start] = self.scores[:start]
            self.scores = grown
        self.scores[start:stop] = scores
        self.row.update(zip(keys, range(start, stop), strict=True))


class HostScores:
    """The model `fn` behind a `BlackBox`; see there."""

    def __init__(
        self,
        fn: Callable[[np.ndarray], Any],
        removal: Removal,
        batch_size: int,
        progress: Callable[..., Any] | None,
    ) -> None:
        self._fn, self._removal, self._batch_size = fn, removal, batch_size
        self._progress = progress
        self._bar: Any = None
        self._memory: dict[Identity, _Known] = {}  # the latest last
        self._table: tuple[Identity, np.ndarray] | None = None  # of the sequence asked about last
        self._buffer = bytearray()  # where clips are gathered, one batch after another
        self._failed = False  # whether the last call did
        self._error: BaseException | None = None  # of the call under way
        self._desk: queue.SimpleQueue[Any] | None = None  # where callbacks leave their questions
        self._server = 0  # identity of the thread that answers them
        self._serving = threading.RLock()
        self._worker: int | None = None
        self.counts = HostCounts(0, 0)
        self.output: tuple[int, np.dtype] | None = None  # C and dtype of the scores

    def forget(self) -> None:
        """Drop all known scores."""
        self._memory, self._table, self._failed = {}, None, False

    def begin(self, clip: np.ndarray) -> None:
        """Ask for the whole clip's scores, as a call's first question. Raises as `fn` does.

        What earlier calls learned is dropped, as the model may have changed since: unless the
        last one failed, began with this clip, and the clip still has the scores it had.
        """
        expect_removable(self._removal, clip.shape)
        older = self._memory if self._failed else {}
        before = self._whole_in(older, clip)
        self._memory = {}
        now = None
        try:
            now = self._ask_caller(clip, np.ones((1, len(clip)), bool))
        finally:
            if now is None:
                self._memory = older
        if now is None:
            raise RuntimeError("BlackBox: fn failed; `serve` raises its error.")
        if before is not None and np.abs(now[0] - before).max() <= _SAME * np.abs(before).max():
            self._memory = older
        else:
            self._failed = False

    def whole(self, clip: np.ndarray) -> np.ndarray | None:
        """Scores (C,) of the whole clip, where they are known."""
        return self._whole_in(self._memory, clip)

    def _whole_in(self, memory: dict[Identity, _Known], clip: np.ndarray) -> np.ndarray | None:
        known = memory.get(_identity(clip))
        row = None if known is None else known.row.get(_packed(np.ones((1, len(clip)), bool))[0])
        return None if known is None or row is None else known.scores[row]

    def noted(
        self, clip: np.ndarray, name: str, make: Callable[[], tuple[str, ...]]
    ) -> tuple[str, ...]:
        """make(), or what it gave before for this clip where its scores are still remembered."""
        notes = self._known(clip).notes
        if name not in notes:
            try:
                notes[name] = make()
            except BaseException:
                self._failed = True
                raise
        return notes[name]

    def serve(self, call: Callable[[], T], total: int | None = None) -> T:
        """call() to its end, in a thread of its own, while this thread evaluates `fn` for it.

        `fn` thus runs where the caller is, under his settings, and he can interrupt it; whatever
        it raises ends the call and is raised here, unchanged. `total` is told to the bar.
        """
        if threading.get_ident() == self._worker:  # one call within another: the worker already
            result = jax.block_until_ready(call())
            if self._error is not None:
                raise self._error
            return result
        done: list[Any] = []
        desk: queue.SimpleQueue[Any] = queue.SimpleQueue()
        settings = _settings_here()

        def work() -> None:
            self._worker = threading.get_ident()
            try:
                with settings:
                    done.append(jax.block_until_ready(call()))
            except BaseException as error:
                done.append(error)
            finally:
                self._worker = None
                desk.put(None)

        with self._serving:
            self._error = None
            for known in self._memory.values():
                known.shown.clear()
            if self._progress is not None:
                self._bar = self._progress(total=total, unit=" clips", desc="model")
            self._desk, self._server = desk, threading.get_ident()
            worker = threading.Thread(target=work, name="esv_jax", daemon=True)
            worker.start()
            while True:
                try:
                    question = desk.get()
                except BaseException as raised:  # the caller lost patience
                    self._error = self._error or raised
                    continue
                if question is None:
                    break
                answer = None
                try:
                    if self._error is None:
                        answer = self.scores(*question[0])
                except BaseException as raised:
                    self._error = self._error or raised
                question[1].put(answer)
            worker.join()
            self._desk = None
            error, self._error = self._error, None
            if error is None and isinstance(done[0], BaseException):
                error = done[0]
            self._failed, self._table, self._buffer = error is not None, None, bytearray()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        if error is not None:
            raise error
        return done[0]

    def answer(self, clip: Any, member: Any, valid: Any) -> np.ndarray:
        """What the callback returns: scores (m, C), zero where not valid.

        After an error in `fn` NaN, at once: the call runs out, and `serve` raises the error.
        """
        if self.output is None:
            raise RuntimeError("BlackBox: scores were asked for before `check` had seen x.")
        member, valid = np.asarray(member), np.asarray(valid)
        out = np.zeros((len(member), self.output[0]), self.output[1])
        if not valid.any():
            return out
        answer = self._ask_caller(np.asarray(clip), member[valid])
        out[valid] = np.nan if answer is None else answer
        return out

    def _ask_caller(self, clip: np.ndarray, member: np.ndarray) -> np.ndarray | None:
        """Scores evaluated in the thread that serves, else in this one; None after an error."""
        desk = self._desk
        if desk is None or self._server == threading.get_ident():
            return self.scores(clip, member)
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        desk.put(((clip, member), reply))
        return reply.get()

    def scores(self, clip: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Scores (m, C) of the subsequences `member` (m, n), each evaluated once per clip."""
        known, keys = self._known(clip), _packed(member)
        self._show(known, {known.row[key] for key in keys if key in known.row})
        new = {key: j for j, key in enumerate(keys) if key not in known.row}
        if new:
            self._evaluate(clip, known, list(new), member[list(new.values())])
        return known.scores[[known.row[key] for key in keys]]

    def _known(self, clip: np.ndarray) -> _Known:
        identity = _identity(clip)
        known = self._memory.setdefault(identity, _Known())
        while len(self._memory) > _MAX_SEQUENCES:
            del self._memory[next(iter(self._memory))]
        return known

    def _frames(self, clip: np.ndarray) -> np.ndarray:
        """The table that clips are gathered from, made once for a sequence after another."""
        if self._removal in ("drop", "freeze"):
            return clip
        identity = _identity(clip)
        if self._table is None or self._table[0] != identity:
            self._table = identity, frame_table(self._removal, clip)
        return self._table[1]

    def _evaluate(
        self, clip: np.ndarray, known: _Known, keys: list[bytes], member: np.ndarray
    ) -> None:
        """Ask `fn` in batches of clips of one length; what came before an error stays known."""
        table, sizes = self._frames(clip), member.sum(1)
        order = np.argsort(sizes, kind="stable")
        cuts = [0]
        if self._removal == "drop":
            cuts += (np.flatnonzero(np.diff(sizes[order])) + 1).tolist()
        for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
            for first in range(start, stop, self._batch_size):
                rows = order[first : min(first + self._batch_size, stop)]
                clips = self._gathered(table, frame_index(self._removal, member[rows]))
                before = len(known.row)
                known.learn([keys[row] for row in rows.tolist()], self._call(clips))
                del clips
                self._show(known, set(range(before, len(known.row))))

    def _gathered(self, table: np.ndarray, index: np.ndarray) -> np.ndarray:
        """table[index], in memory that is used again where `fn` has let go of earlier clips.

        Fresh memory for every batch costs as much time as the frames themselves take to copy.
        """
        shape = (*index.shape, *table.shape[1:])
        size = math.prod(shape)
        if len(self._buffer) < size * table.itemsize or _is_held(self._buffer):
            self._buffer = bytearray(size * table.itemsize)
        clips = np.frombuffer(self._buffer, table.dtype, size).reshape(shape)
        return np.take(table, index, 0, out=clips, mode="clip")

    def _show(self, known: _Known, rows: set[int]) -> None:
        """Have the bar count scores that it has not counted in this call."""
        if self._bar is not None and not rows <= known.shown:
            self._bar.update(len(rows - known.shown))
            known.shown |= rows

    def ask(self, clips: np.ndarray) -> np.ndarray:
        """Scores (B, C) of clips (B, s, ...) as they are, remembered nowhere."""
        cuts = range(0, len(clips), self._batch_size)
        return np.concatenate([self._call(clips[k : k + self._batch_size]) for k in cuts])

    def _call(self, clips: np.ndarray) -> np.ndarray:
        """fn(clips) as a checked array (B, C)."""
        b = len(clips)
        self.counts = HostCounts(self.counts.calls + 1, self.counts.clips + b)
        scores = _as_numpy(self._fn(clips))
        c = "C" if self.output is None else str(self.output[0])
        fits = scores.ndim == 2 and len(scores) == b and scores.shape[1] >= 1
        fits = fits and (self.output is None or scores.shape[1] == self.output[0])
        expect(fits, "fn", f"scores of shape (B, C) = ({b}, {c}) for clips {clips.shape}",
               f"shape {scores.shape}")  # fmt: skip
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(message("fn", "floating-point scores", f"dtype {scores.dtype}"))
        if scores.dtype.itemsize < 4:
            scores = scores.astype(np.float32)  # half precision of either kind
        wrong = np.argwhere(~np.isfinite(scores))
        if len(wrong):
            at = tuple(wrong[0].tolist())
            raise ValueError(
                message("fn", f"finite scores for clips {clips.shape}", f"{scores[at]} at {at}")
            )
        if self.output is None:
            wide = np.result_type(np.float32, scores.dtype)
            self.output = scores.shape[1], np.dtype(jax.dtypes.canonicalize_dtype(wide))
        return scores.astype(self.output[1])


def _is_held(buffer: bytearray) -> bool:
    """Whether an array on this memory is alive: its size is locked then."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False


def _identity(clip: np.ndarray) -> Identity:
    """What tells a sequence from others, bit by bit, without keeping it."""
    content = np.ascontiguousarray(clip).reshape(-1).view(np.uint8)
    return clip.shape, str(clip.dtype), hashlib.blake2b(content.data, digest_size=16).digest()


def _packed(member: np.ndarray) -> list[bytes]:
    """A key for each row of membership (m, n)."""
    packed = np.packbits(member, axis=1)
    width, flat = packed.shape[1], packed.tobytes()
    return [flat[k : k + width] for k in range(0, len(flat), width)]


def _as_numpy(scores: Any) -> np.ndarray:
    """NumPy's view of an array of any framework; of a tensor that records gradients as well."""
    for step in ("detach", "cpu"):
        if hasattr(scores, step) and not isinstance(scores, np.ndarray):
            scores = getattr(scores, step)()
    if str(getattr(scores, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have
        scores = scores.float()
    return np.asarray(scores)


def _settings_here() -> contextlib.AbstractContextManager[None]:
    """JAX settings that hold for this thread alone, to be entered in another one."""
    config: Any = jax.config
    x64, device = bool(config.jax_enable_x64), config.jax_default_device
    precision = config.jax_default_matmul_precision

    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        with (
            jax.enable_x64(x64),
            jax.default_device(device),
            jax.default_matmul_precision(precision),
        ):
            yield

    return entered()
