"""Scores of subsequences from a function on the host: batches, a cache, errors as they are.

This is the one stateful thing below the front door: it remembers scores of the call under way,
counts what the model was asked, and carries errors from callbacks to the caller.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from esv_jax.checks import expect, message
from esv_jax.games.removal import Removal, expect_removable, frame_index, frame_table

T = TypeVar("T")

_MAX_CLIPS = 64  # whose scores are kept; calls that take sequences together alternate between them


class HostCounts(NamedTuple):
    """What a black box has been asked since it was made: calls of `fn`, clips in them."""

    calls: int
    clips: int


class _Clip:
    """One sequence, the frames its subsequences are made of, and the scores known so far."""

    def __init__(self, clip: np.ndarray, removal: Removal) -> None:
        self.bytes = _bytes_of(clip)
        self.shape = clip.shape
        self.table = frame_table(removal, clip)
        self.row: dict[bytes, int] = {}  # by packed membership
        self.scores = np.zeros((0, 0))  # (rows, C), grown as needed; the first len(row) count

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
        self._clips: list[_Clip] = []
        self._desk: queue.SimpleQueue[Any] | None = None  # where callbacks leave their questions
        self._server = 0  # identity of the thread that answers them
        self._serving = threading.RLock()
        self._worker: int | None = None
        self.counts = HostCounts(0, 0)
        self.output: tuple[int, np.dtype] | None = None  # C and dtype of the scores

    def forget(self) -> None:
        """Drop all known scores: the model may have changed since."""
        self._clips = []

    def try_out(self, clip: np.ndarray) -> None:
        """Ask for the whole clip's scores, so that C and dtype are known. Raises as `fn` does."""
        expect_removable(self._removal, clip.shape)
        whole = np.ones((1, len(clip)), bool)
        if self._ask_caller(clip, whole) is None:
            raise RuntimeError("BlackBox: fn failed; `serve` raises its error.")

    def serve(self, call: Callable[[], T]) -> T:
        """call() to its end, in a thread of its own, while this thread evaluates `fn` for it.

        `fn` thus runs where the caller is, under his settings, and he can interrupt it; whatever
        it raises ends the call and is raised here, unchanged.
        """
        if threading.get_ident() == self._worker:
            return call()  # one call within another: this is the worker already
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

        error: BaseException | None = None
        with self._serving:
            self._desk, self._server = desk, threading.get_ident()
            worker = threading.Thread(target=work, name="esv_jax", daemon=True)
            worker.start()
            while True:
                try:
                    question = desk.get()
                except BaseException as raised:  # the caller lost patience
                    error = error or raised
                    continue
                if question is None:
                    break
                answer = None
                try:
                    if error is None:
                        answer = self.scores(*question[0])
                except BaseException as raised:
                    error = error or raised
                question[1].put(answer)
            worker.join()
            self._desk = None
            self.forget()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        if error is None and isinstance(done[0], BaseException):
            error = done[0]
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
        known = self._known(clip)
        packed = np.packbits(member, axis=1)
        width, flat = packed.shape[1], packed.tobytes()
        keys = [flat[k : k + width] for k in range(0, len(flat), width)]
        new = {key: j for j, key in enumerate(keys) if key not in known.row}
        if new:
            self._evaluate(known, list(new), member[list(new.values())])
        return known.scores[[known.row[key] for key in keys]]

    def _known(self, clip: np.ndarray) -> _Clip:
        content = _bytes_of(clip)
        for known in self._clips:
            if known.shape == clip.shape and np.array_equal(known.bytes, content):
                return known
        known = _Clip(np.array(clip), self._removal)
        self._clips = [known, *self._clips[: _MAX_CLIPS - 1]]
        return known

    def _evaluate(self, known: _Clip, keys: list[bytes], member: np.ndarray) -> None:
        """Ask `fn` in batches of clips of one length; what came before an error stays known."""
        sizes = member.sum(1)
        order = np.argsort(sizes, kind="stable")
        cuts = [0]
        if self._removal == "drop":
            cuts += (np.flatnonzero(np.diff(sizes[order])) + 1).tolist()
        for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
            for first in range(start, stop, self._batch_size):
                rows = order[first : min(first + self._batch_size, stop)]
                clips = known.table[frame_index(self._removal, member[rows])]
                known.learn([keys[row] for row in rows.tolist()], self._call(clips))

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
        if not np.issubdtype(scores.dtype, np.floating):
            raise TypeError(message("fn", "floating-point scores", f"dtype {scores.dtype}"))
        wrong = np.argwhere(~np.isfinite(scores))
        if len(wrong):
            at = tuple(wrong[0].tolist())
            raise ValueError(
                message("fn", f"finite scores for clips {clips.shape}", f"{scores[at]} at {at}")
            )
        if self.output is None:
            wide = np.result_type(np.float32, scores.dtype)
            self.output = scores.shape[1], np.dtype(jax.dtypes.canonicalize_dtype(wide))
        if self._progress is not None:
            if self._bar is None:
                self._bar = self._progress(unit=" clips", desc="model")
            self._bar.update(b)
        return scores.astype(self.output[1])


def _bytes_of(clip: np.ndarray) -> np.ndarray:
    """The content of an array, to compare bit by bit."""
    return np.ascontiguousarray(clip).reshape(-1).view(np.uint8)


def _as_numpy(scores: Any) -> np.ndarray:
    """NumPy's view of an array of any framework; of a tensor that records gradients as well."""
    for step in ("detach", "cpu"):
        if hasattr(scores, step) and not isinstance(scores, np.ndarray):
            scores = getattr(scores, step)()
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
