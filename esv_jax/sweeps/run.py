"""`sweep`: Element Shapley Values of a set of videos, on all devices and hosts, in one store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import data as sources
from esv_jax.checks import expect, expect_int, expect_key, message
from esv_jax.estimators import Estimator
from esv_jax.games.protocol import Game
from esv_jax.inputs import EstimatorChoice, check_randomness, choose_estimator
from esv_jax.models import TrainedModel
from esv_jax.results import store
from esv_jax.sweeps.continuation import identity_of, is_same_sweep, prepare
from esv_jax.sweeps.engine import Engine
from esv_jax.sweeps.hosts import expect_agreement, from_first
from esv_jax.sweeps.planning import make_job, make_shards, share_of_host
from esv_jax.sweeps.shards import Task, choice_names, explain, load, make_header, write

_AHEAD = 2  # shards that are read, and that wait to be written, beside the one being explained
_POLL = 0.5  # seconds between checks for the shards of other hosts


class Progress(NamedTuple):
    """Progress of a sweep.

    Attributes:
      done: number of videos of this host's share that are written, failed ones included.
      of: number of videos of this host's share. failed: those of `done` that failed.
      host, n_hosts: index of this process, and number of processes.
    """

    done: int
    of: int
    failed: int
    host: int
    n_hosts: int


@dataclasses.dataclass(frozen=True)
class SweepReport:
    """Summary of a finished sweep.

    Attributes:
      path: folder of the results, for `results.open`.
      n_videos: in the data. n_explained: by this process, in this run. n_before: in earlier runs.
      failures: reasons by uid, of all videos of the store that could not be explained.
      recomputed: number of damaged shards that were computed again.
      planning_seconds: opening, planning and checking, which every host does for the whole set.
      seconds: from the first shard to the last.
      compile_seconds: of these spent on compiling. n_programs: number of compiled programs.
      padding_waste: share of the computed elements that were padding.
      block_sizes: number of videos in a block by elements, where not the default.
      n_hosts: number of processes.
    """

    path: Path
    n_videos: int
    n_explained: int
    n_before: int
    failures: Mapping[str, str]
    recomputed: int
    planning_seconds: float
    seconds: float
    compile_seconds: float
    n_programs: int
    padding_waste: float
    block_sizes: Mapping[int, int]
    n_hosts: int


def sweep(
    data: str | PathLike[str] | sources.inputs.Inputs,
    model: str | PathLike[str] | TrainedModel | Game,
    out: str | PathLike[str],
    *,
    frames: int | None = None,
    classes: str | Sequence[str] = "all",
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    marginals: bool = False,
    prior: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    digest: str | None = None,
    uids: Sequence[str] = (),
    limit: int | None = None,
    min_elements: int = 1,
    batch_size: int | None = None,
    shard_size: int | None = None,
    max_bytes: float | None = None,
    strict: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, object] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SweepReport:
    """Explain every video of a set and store the results; continue an interrupted sweep.

    Videos of similar lengths share compiled programs of fixed shape and are distributed over all
    devices of the process; reading and writing run in threads. Called in several processes of one
    JAX runtime (`connect`), each computes its share of the shards and writes its own files.

    A video's values depend on the data, the model, the settings and the shape of its block (see
    `batch_size`), not on order, devices or hosts: a sweep that was killed and continued has, byte
    for byte, the values of one that was not.

    Args:
      data: a file of features (see `data.open_inputs`), or `Inputs`, also of videos
        (`data.open_videos`).
      model: a file of `models.save_model`, a `TrainedModel`, or any game, with `prior`.
      out: folder of the store; created if missing.
      frames: elements to explain, at segment centres; default all. Of shorter videos all.
      classes: classes whose values are stored: "all", or some of "gt", "pred", "top5" (any number),
        as "gt,pred" or in a sequence. Scores of all classes are stored.
      estimator: as for `explain`; "auto" is resolved for each length.
      key: `jax.random.key(seed)`, needed if anything is sampled. Each video draws with
        `video_key(key, uid)`, or all with one (`Surrogate`).
      marginals: store mean marginals by scale, n * n numbers per class.
      prior, class_names, digest: of a game: scores of the empty sequence, (C,), C names (default
        0..C-1), and a name for its weights, needed if they are not arrays of the game itself.
      uids, limit: the videos to explain: those named, or the first N; default all.
      min_elements: a video with fewer (before `frames`) is recorded as failed.
      batch_size: videos explained together by one device; default by their shape and its memory,
        halved if memory runs out. The last bits of values depend on it.
      shard_size: videos per file, the most that a killed sweep loses; default by their cost.
      max_bytes: memory for one video; default what is free.
      strict: end the sweep at the first video that fails.
      retry_failed: explain again what failed in an earlier run, with its whole shard.
      overwrite: delete another sweep's results in `out`.
      settings: further settings to store with the results.
      progress: called after each shard.
    Returns:
      `SweepReport`.
    Raises:
      ValueError: no videos, data that do not fit the model, labels missing for "gt", features that
        changed since the sweep began (naming videos), hosts that differ; a failed video if
        `strict`.
      FileExistsError: results of another sweep in `out` (saying what differs), a folder to which
        another process is writing.
      TypeError: a model or key of another kind.
      OSError: a folder that cannot be written, a full disk. Finished shards stay.
    Cost: see `plan_cost`, per video; one compilation per length (exact, `Surrogate`) or bucket of
      lengths (`Constructive`), at most 16. Memory of the host: a few shards.
    """
    began = time.perf_counter()
    for name, value in (("frames", frames), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value is not None:
            expect_int(name, value, 1)
    expect_int("min_elements", min_elements, 1)
    if key is not None:
        expect_key("key", key)
    job = make_job(data, model, prior, class_names, digest, uids, limit, frames)
    choices = choice_names(classes, len(job.class_names))
    labelled = job.labels is not None
    expect(labelled or not (choices and "gt" in choices), "classes", "labels for gt", "none")

    def choose(n: int) -> Estimator:
        return choose_estimator(job.game, job.example(n), estimator, None, max_bytes)

    lengths = job.lengths(frames, min_elements)
    per_class = 2 + (int(lengths.max(initial=1)) if marginals else 0)  # numbers of an element
    n_values = per_class * len(choices or job.class_names)
    shards = make_shards(job, lengths, choose, n_values, shard_size)
    for shard in shards:  # a missing key is an error of the call, not a failure of videos
        if shard.estimator is not None:
            check_randomness(shard.estimator, shard.n, key, None)
    options = {
        "frames": frames,
        "classes": "all" if choices is None else ",".join(choices),
        "estimator": estimator if isinstance(estimator, str) else repr(estimator),
        "key": None if key is None else str(np.ravel(jax.random.key_data(key)).tolist()),
        "marginals": marginals,
        "min_elements": min_elements,
        "batch_size": batch_size,
    }
    identity = identity_of(job, lengths, shards, options)
    expect_agreement(identity)

    out = Path(out)
    header = make_header(job, lengths, shards, choices, marginals, options | dict(settings or {}))
    rows = job.rows[np.concatenate([shard.positions for shard in shards])]
    stamps = job.inputs.stamps_when_opened(rows.tolist())
    engine = Engine(job.game, job.prior, key, marginals=marginals, batch_size=batch_size)
    limits = (frames, min_elements, choices, strict, stamps)
    task = Task(job, out, header, shards, identity, engine, *limits)

    def begin() -> tuple[list[int], int]:
        is_same_sweep(task, overwrite)
        lock.enter_context(store.writing(out))
        return prepare(task, overwrite, retry_failed)

    with ExitStack() as lock:  # held by the first host until all have written
        todo, recomputed = from_first(begin)
        n_hosts = jax.process_count()
        mine = share_of_host(shards, todo, jax.process_index(), n_hosts)
        started = time.perf_counter()
        _run(task, mine, progress)
        records = [store.record_path(out, index) for index in range(len(shards))]
        while n_hosts > 1 and not all(path.exists() for path in records):
            time.sleep(_POLL)  # JAX's runtime ends the wait if a host is lost
    return SweepReport(
        path=out,
        n_videos=len(lengths),
        n_explained=sum(len(shards[i].positions) for i in mine),
        n_before=len(lengths) - sum(len(shards[i].positions) for i in todo),
        failures=store.all_failures(store.read_records(out)),
        recomputed=recomputed,
        planning_seconds=started - began,
        seconds=time.perf_counter() - started,
        compile_seconds=engine.compile_seconds,
        n_programs=engine.n_programs,
        padding_waste=1 - engine.n_elements / max(engine.n_padded, 1),
        block_sizes={n: size for (_, n), size in engine.block_sizes.items()},
        n_hosts=n_hosts,
    )


def _run(task: Task, mine: list[int], progress: Callable[[Progress], None] | None) -> None:
    """Read, explain and write the shards of this host."""
    total = sum(len(task.shards[index].positions) for index in mine)
    done = failed = 0
    waiting: list[tuple[Future[None], int, int]] = []

    def settle(most: int) -> None:
        nonlocal done, failed
        while len(waiting) > most:
            first, n, n_failed = waiting.pop(0)
            first.result()
            done, failed = done + n, failed + n_failed
            if progress is not None:
                progress(Progress(done, total, failed, jax.process_index(), jax.process_count()))

    writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
    try:
        reads = sources.inputs.prefetch(
            mine, lambda index: load(task, index), workers=1, ahead=_AHEAD
        )
        for read in reads:
            started = time.perf_counter()
            loaded, found = explain(task, read)
            if task.strict and loaded.failures:
                uid, reason = next(iter(loaded.failures.items()))
                raise ValueError(message(f"video {uid!r}", "one that can be explained", reason))
            written = writer.submit(write, task, loaded, found, time.perf_counter() - started)
            waiting.append(
                (written, len(task.shards[loaded.shard].positions), len(loaded.failures))
            )
            settle(_AHEAD)
        settle(0)
    finally:
        writer.shutdown(cancel_futures=True)
