"""`sweep`: Element Shapley Values of a set of videos, on all devices and hosts, in one store."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.typing import ArrayLike

from esv_jax import data as sources
from esv_jax.checks import expect, expect_int, expect_key, first_few, message
from esv_jax.estimators import Estimator
from esv_jax.files import JSONObject, expect_writable
from esv_jax.games.protocol import Game
from esv_jax.inputs import EstimatorChoice, check_randomness, choose_estimator
from esv_jax.models import TrainedModel
from esv_jax.results import store
from esv_jax.sweeps.engine import Engine
from esv_jax.sweeps.planning import (
    Job,
    Shard,
    changed_videos,
    data_of,
    differences,
    identity_of,
    make_job,
    make_shards,
    share_of_host,
)
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
      seconds: from the first shard to the last. explain_seconds: of these on devices.
      compile_seconds: of these spent on compiling. n_programs: number of compiled programs.
      padding_waste: share of the computed elements that were padding.
      block_sizes: number of videos in a block by elements, where not the default.
      host, n_hosts: index of this process, and number of processes.
    """

    path: Path
    n_videos: int
    n_explained: int
    n_before: int
    failures: Mapping[str, str]
    recomputed: int
    planning_seconds: float
    seconds: float
    explain_seconds: float
    compile_seconds: float
    n_programs: int
    padding_waste: float
    block_sizes: Mapping[int, int]
    host: int
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
    devices: Sequence[jax.Device] | None = None,
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
      devices: of this process; default all.
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

    lengths = job.lengths(frames, min_elements)
    shards = _shards(job, lengths, estimator, key, choices, marginals, shard_size, max_bytes)
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
    _expect_agreement(identity)

    out = Path(out)
    header = make_header(job, lengths, shards, choices, marginals, options | dict(settings or {}))
    rows = job.rows[np.concatenate([shard.positions for shard in shards])]
    stamps = job.inputs.stamps_when_opened(rows.tolist())
    engine = Engine(
        job.game, job.prior, key, marginals=marginals, devices=devices, batch_size=batch_size
    )
    limits = (frames, min_elements, choices, strict, stamps)
    task = Task(job, out, header, shards, identity, engine, *limits)

    def prepare() -> tuple[list[int], int]:
        _is_same_sweep(task, overwrite)
        lock.enter_context(store.writing(out))
        return _prepare(task, overwrite, retry_failed)

    with ExitStack() as lock:  # held by the first host until all have written
        todo, recomputed = _from_first(prepare)
        host, n_hosts = jax.process_index(), jax.process_count()
        mine = share_of_host(shards, todo, host, n_hosts)
        started = time.perf_counter()
        explain_seconds = _run(task, mine, progress, host, n_hosts)
        while n_hosts > 1 and not _all_complete(task):  # JAX's runtime ends it if a host is lost
            time.sleep(_POLL)
    records = store.read_records(out)
    n_todo = sum(len(shards[i].positions) for i in todo)
    return SweepReport(
        path=out,
        n_videos=len(lengths),
        n_explained=sum(len(shards[i].positions) for i in mine),
        n_before=len(lengths) - n_todo,
        failures={uid: why for each in records.values() for uid, why in each["failures"].items()},
        recomputed=recomputed,
        planning_seconds=started - began,
        seconds=time.perf_counter() - started,
        explain_seconds=explain_seconds,
        compile_seconds=engine.compile_seconds,
        n_programs=engine.n_programs,
        padding_waste=1 - engine.n_elements / max(engine.n_padded, 1),
        block_sizes={n: size for (_, n), size in engine.block_sizes.items()},
        host=host,
        n_hosts=n_hosts,
    )


def _shards(
    job: Job,
    lengths: np.ndarray,
    estimator: EstimatorChoice,
    key: Array | None,
    choices: tuple[str, ...] | None,
    marginals: bool,
    shard_size: int | None,
    max_bytes: float | None,
) -> list[Shard]:
    """Divide the videos into shards; check that a key is given if one is needed."""

    def choose(n: int) -> Estimator:
        return choose_estimator(job.game, job.example(n), estimator, None, max_bytes)

    n_classes = len(job.class_names)
    kept = n_classes if choices is None else len(choices)
    widest = int(lengths.max(initial=1))
    shards = make_shards(
        lengths,
        choose,
        job.game,
        job.example,
        n_classes=n_classes,
        n_values=kept * (2 + (widest if marginals else 0)),
        shard_size=shard_size,
    )
    for shard in shards:  # a missing key is an error of the call, not a failure of videos
        if shard.estimator is not None:
            check_randomness(shard.estimator, shard.n, key, None)
    return shards


def _run(
    task: Task,
    mine: list[int],
    progress: Callable[[Progress], None] | None,
    host: int,
    n_hosts: int,
) -> float:
    """Read, explain and write the shards of this host; return the seconds spent on explaining."""
    total = sum(len(task.shards[index].positions) for index in mine)
    done = failed = 0
    seconds = 0.0
    waiting: list[tuple[Future[None], int, int]] = []

    def settle(most: int) -> None:
        nonlocal done, failed
        while len(waiting) > most:
            first, n, n_failed = waiting.pop(0)
            first.result()
            done, failed = done + n, failed + n_failed
            if progress is not None:
                progress(Progress(done, total, failed, host, n_hosts))

    writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
    try:
        reads = sources.inputs.prefetch(
            mine, lambda index: load(task, index), workers=1, ahead=_AHEAD
        )
        for read in reads:
            started = time.perf_counter()
            loaded, found = explain(task, read)
            took = time.perf_counter() - started
            seconds += took
            if task.strict and loaded.failures:
                uid, reason = next(iter(loaded.failures.items()))
                raise ValueError(message(f"video {uid!r}", "one that can be explained", reason))
            written = writer.submit(write, task, loaded, found, took)
            n = len(task.shards[loaded.shard].positions)
            waiting.append((written, n, len(loaded.failures)))
            settle(_AHEAD)
        settle(0)
    finally:
        writer.shutdown(cancel_futures=True)
    return seconds


# The store before the work


def _is_same_sweep(task: Task, overwrite: bool) -> bool:
    """Return whether the folder has results of this sweep; refuse others without `overwrite`."""
    out = task.out
    if not store.is_sweep(out):
        taken = (out / store.VIEW).exists()
        got = f"{out / store.VIEW}, which no sweep wrote"
        expect(not taken or overwrite, "out", "a folder without results", got, kind=FileExistsError)
        store.expect_free(out)
        return False
    try:
        before = store.read_manifest(out)["identity"]
    except ValueError:
        if not overwrite:
            raise
        return False
    same = bool(before == json.loads(json.dumps(task.identity)))
    got = f"another sweep ({differences(before, task.identity)})"
    way_out = "Choose another folder, or pass overwrite to delete it."
    expected = "a folder without results, or with this sweep's"
    expect(same or overwrite, "out", expected, got, way_out, kind=FileExistsError)
    return same


def _prepare(task: Task, overwrite: bool, retry_failed: bool) -> tuple[list[int], int]:
    """Create the store, or check it; return missing shards, and how many of them were damaged."""
    out, n_shards, data = task.out, len(task.shards), data_of(task.job)
    extents = [shard.extent for shard in task.shards]
    same = _is_same_sweep(task, overwrite)  # again, now that no other process writes
    store.clear_leftovers(out)
    if same:
        records = store.read_records(out)
        recorded = {i for i in range(n_shards) if store.record_path(out, i).exists()}
        broken = store.damaged(out, records)
        whole = {index: record for index, record in records.items() if index not in broken}
        if _is_same_data(task, data, whole, overwrite):
            if store.read_manifest(out).get("data") != data or not store.view_is_whole(out):
                store.create(out, task.identity, task.header, extents, data, keep_shards=True)
            if retry_failed:
                again = {index for index in whole if records[index]["failures"]}
                whole = {index: record for index, record in whole.items() if index not in again}
                recorded -= again
            todo = [index for index in range(n_shards) if index not in whole]
            return todo, len(recorded.intersection(todo))
    expect_writable(out / store.VIEW)
    store.create(out, task.identity, task.header, extents, data)
    return list(range(n_shards)), 0


def _is_same_data(
    task: Task, data: JSONObject, whole: Mapping[int, JSONObject], overwrite: bool
) -> bool:
    """Return whether finished shards were computed from these data; refuse others.

    Files of the same size and time are the same. For other files, and for data without files, the
    content is compared. With `overwrite` other data are not refused.
    """
    before = store.read_manifest(task.out).get("data", {}).get("stamp")
    if before is not None and before == data["stamp"]:
        return True
    changed = changed_videos(task.job.inputs, whole, task.frames)
    names = first_few(map(repr, changed))
    got = f"others for {len(changed)} videos that are explained ({names})"
    way_out = "Choose another folder, or pass overwrite to delete its results."
    expect(not changed or overwrite, "data", "the features that the sweep began with", got, way_out)
    return not changed


def _all_complete(task: Task) -> bool:
    paths = (store.record_path(task.out, index) for index in range(len(task.shards)))
    return all(path.exists() for path in paths)


# Several processes of one JAX runtime


def connect(
    coordinator: str | None = None,
    n_hosts: int | None = None,
    host: int | None = None,
    *,
    cluster: bool = False,
) -> None:
    """Join the other processes of a run; call it before any computation.

    Args:
      coordinator: address and port of the first process, "10.0.0.1:1234".
      n_hosts: number of processes. host: index of this one, 0..n_hosts - 1.
      cluster: let JAX read all three from its cluster (SLURM, Open MPI, TPU pods, Kubernetes).
    Raises:
      ValueError: some of the three without the others, or beside `cluster`; a number out of range.
      RuntimeError: by JAX, if the others do not join.
    """
    given = (coordinator, n_hosts, host)
    if cluster:
        expect(given == (None,) * 3, "cluster", "nothing beside it", f"{given}")
        jax.distributed.initialize()
        return
    if given == (None,) * 3:
        return
    expected = "all of coordinator, hosts and host"
    expect(None not in given, "hosts", expected, f"{given}", "Or --cluster alone.")
    assert n_hosts is not None and host is not None
    expect(n_hosts >= 1, "hosts", "a number >= 1", n_hosts)
    expect(0 <= host < n_hosts, "host", f"a number in 0..{n_hosts - 1}", host)
    jax.distributed.initialize(coordinator, n_hosts, host)


def _expect_agreement(identity: JSONObject) -> None:
    """Raise, on every host, if one has another identity than the first."""
    if jax.process_count() == 1:
        return
    every = _gather(identity)
    for host, other in enumerate(every):
        if other != every[0]:
            got, way_out = differences(every[0], other), "Start all hosts with the same options."
            expected = f"what host 0 has, on host {host} too"
            raise ValueError(message("hosts", expected, got, way_out))


def _from_first(work: Callable[[], Any]) -> Any:
    """Return the result of `work` on the first host, a JSON value, on every host; or its error.

    Raises:
      ValueError, OSError: as raised by `work`.
    """
    if jax.process_count() == 1:
        return work()
    answer: JSONObject = {}
    if jax.process_index() == 0:
        try:
            answer = {"result": work()}
        except (ValueError, OSError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
    answer = _gather(answer)[0]
    if "error" in answer:
        kinds = {kind.__name__: kind for kind in (FileExistsError, PermissionError, OSError)}
        raise kinds.get(answer["kind"], ValueError)(answer["error"])
    return answer["result"]


def _gather(content: JSONObject) -> list[JSONObject]:
    """Return the JSON of every host on every host."""
    text = np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.array([len(text)], np.int32)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [
        json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)
    ]
