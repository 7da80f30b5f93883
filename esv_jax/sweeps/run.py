"""`sweep`: every video of a set, on all the devices there are, to a store that can be continued."""

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
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax import data as sources
from esv_jax.checks import expect, expect_int, expect_key, message
from esv_jax.estimators import Estimator
from esv_jax.files import expect_writable
from esv_jax.games.protocol import Game
from esv_jax.inputs import EstimatorChoice, check_randomness, choose_estimator
from esv_jax.models import TrainedModel
from esv_jax.results import store
from esv_jax.sweeps.choices import choice_names
from esv_jax.sweeps.engine import Engine
from esv_jax.sweeps.hosts import expect_agreement, from_first
from esv_jax.sweeps.job import Job, changed_videos, data_of, differences, identity_of
from esv_jax.sweeps.planning import Shard, make_shards, share_of_host
from esv_jax.sweeps.shard_work import Task, explained, load, make_header, place_of, write

_AHEAD = 2  # shards that are read, and that wait to be written, beside the one being explained
_POLL = 0.5  # seconds between looks for the shards of other hosts


class Progress(NamedTuple):
    """Progress of a sweep.

    Attributes:
      done: videos of this host's share that are written, failed ones included.
      of: videos of this host's share. failed: of those done.
      host, n_hosts: which process this is, of how many.
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
      path: folder of the results; `results.open` takes it.
      n_videos: in the data. n_explained: by this process, this time. n_before: were there already.
      failures: reasons by uid, of all videos of the store that could not be explained.
      recomputed: shards that were there but damaged, and were made again.
      planning_seconds: opening, planning and checking, which every host does for the whole set.
      seconds: from the first shard to the last. explain_seconds: of these on devices.
      compile_seconds: of these spent on compiling; n_programs: compiled.
      padding_waste: share of the elements computed that were padding.
      block_sizes: videos in a block by elements, where not the default.
      host, n_hosts: which process this is, of how many.
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
    data: str | PathLike[str] | sources.Inputs,
    model: str | PathLike[str] | TrainedModel | Game,
    out: str | PathLike[str],
    *,
    frames: int | None = None,
    classes: str | Sequence[str] = "all",
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    marginals: bool = False,
    prior: Any = None,
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
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SweepReport:
    """Explain every video of a set and store the results; continue where an earlier call ended.

    Videos of like lengths share compiled programs of fixed shape and are dealt to all devices of
    the process; reading and writing go on beside. Called in several processes of one JAX runtime
    (`jax.distributed.initialize`), each does its share of the shards and writes its own files.

    A video's values depend on the data, the model, the settings and the shape of its block (see
    `batch_size`), not on order, devices or hosts: those of a sweep that was killed and continued
    are, byte for byte, those of one that was not.

    Args:
      data: a file of features (see `data.open_inputs`), or `Inputs`, also of videos
        (`data.open_videos`).
      model: a file of `models.save_model`, a `TrainedModel`, or any game, with `prior`.
      out: folder of the store; made where it is missing.
      frames: elements to explain, at segment centres; default all. Shorter videos keep all theirs.
      classes: whose values are kept: "all", or some of "gt", "pred", "top5" (any number), as
        "gt,pred" or in a sequence. Scores are kept of all classes.
      estimator: as for `explain`; "auto" is settled length by length.
      key: `jax.random.key(seed)`, needed where anything is sampled. Each video draws with
        `video_key(key, uid)`, or all with one (`Surrogate`).
      marginals: whether to keep mean marginals by scale, n * n numbers per class.
      prior, class_names, digest: of a game: scores of the empty sequence, (C,), C names (default
        0..C-1), and a name for its weights, needed where they are not arrays of the game's own.
      uids, limit: the videos to explain: those named, or the first so many; default all.
      min_elements: a video with fewer (before `frames`) is recorded as failed.
      batch_size: videos explained together by one device; default by their shape and its memory,
        halved where memory runs out. The last bits of values depend on it.
      shard_size: videos per file, and lost at most if the sweep is killed; default by their cost.
      devices: of this process; default all.
      max_bytes: memory that one video may take; default what is free.
      strict: whether the first video that fails ends the sweep.
      retry_failed: whether to explain again what failed in an earlier run, with its whole shard.
      overwrite: whether another sweep's results in `out` may be deleted.
      settings: what the results should say that they were made with, beside the above.
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
      OSError: a place that cannot be written to, a full disk. Finished shards stay.
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
    job = Job.of(data, model, prior, class_names, digest, uids, limit, frames)
    choices = choice_names(classes, len(job.class_names))
    labelled = job.labels is not None
    expect(labelled or not (choices and "gt" in choices), "classes", "labels for gt", "none")

    lengths = job.lengths(frames, min_elements)
    shards = _shards(job, lengths, estimator, key, choices, marginals, shard_size, max_bytes)
    asked = {
        "frames": frames,
        "classes": "all" if choices is None else ",".join(choices),
        "estimator": estimator if isinstance(estimator, str) else repr(estimator),
        "key": None if key is None else str(np.ravel(jax.random.key_data(key)).tolist()),
        "marginals": marginals,
        "min_elements": min_elements,
        "batch_size": batch_size,
    }
    identity = identity_of(job, lengths, shards, asked)
    expect_agreement(identity, differences)

    out = Path(out)
    header = make_header(job, lengths, shards, choices, marginals, asked | dict(settings or {}))
    places = [place_of(shard) for shard in shards]
    about = data_of(job)
    rows = job.rows[np.concatenate([shard.positions for shard in shards])]
    stamps = job.inputs.stamps_when_opened(rows.tolist())

    def prepare() -> tuple[list[int], int]:
        _expect_ours(out, identity, overwrite)
        held.enter_context(store.writing(out))
        return _prepare(out, identity, header, places, about, job, frames, overwrite, retry_failed)

    with ExitStack() as held:  # by the first host, until all have written
        todo, recomputed = from_first(prepare)
        host, n_hosts = jax.process_index(), jax.process_count()
        mine = share_of_host(shards, todo, host, n_hosts)
        engine = Engine(
            job.game, job.prior, key, marginals=marginals, devices=devices, batch_size=batch_size
        )
        fixed = (frames, min_elements, choices, strict, stamps)
        task = Task(job, out, header, shards, identity, engine, *fixed)
        started = time.perf_counter()
        explain_seconds = _run(task, mine, progress, host, n_hosts)
        if n_hosts > 1:
            _wait_for_others(out, len(shards))
    n_before = sum(shard.positions.size for i, shard in enumerate(shards) if i not in set(todo))
    records = store.read_records(out)
    return SweepReport(
        path=out,
        n_videos=len(lengths),
        n_explained=sum(len(shards[i].positions) for i in mine),
        n_before=n_before,
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
    def shape_of(n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *job.width), jnp.float32)

    def choose(n: int) -> Estimator:
        return choose_estimator(job.game, shape_of(n), estimator, None, max_bytes)

    n_classes = len(job.class_names)
    kept = n_classes if choices is None else len(choices)
    widest = int(lengths.max(initial=1))
    shards = make_shards(
        lengths,
        choose,
        job.game,
        shape_of,
        n_classes=n_classes,
        n_values=kept * (2 + (widest if marginals else 0)),
        shard_size=shard_size,
    )
    for shard in shards:  # a missing key is the caller's to mend, no failure of single videos
        if shard.estimator is not None:
            check_randomness(shard.estimator, shard.n, key, None)
    return shards


def _expect_ours(out: Path, identity: dict[str, Any], overwrite: bool) -> bool:
    """Return whether a folder has this sweep's results; others are refused without `overwrite`."""
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
    ours = bool(before == json.loads(json.dumps(identity)))
    got = f"another sweep ({differences(before, identity)})"
    way_out = "Choose another folder, or pass overwrite to delete it."
    expected = "a folder without results, or with this sweep's"
    expect(ours or overwrite, "out", expected, got, way_out, kind=FileExistsError)
    return ours


def _prepare(
    out: Path,
    identity: dict[str, Any],
    header: store.Header,
    places: list[store.ShardPlace],
    about: dict[str, Any],
    job: Job,
    frames: int | None,
    overwrite: bool,
    retry_failed: bool,
) -> tuple[list[int], int]:
    """Make or check the store; shards still to be done, and how many of them were damaged."""
    ours = _expect_ours(out, identity, overwrite)  # again, now that nobody else writes
    store.clear_leftovers(out)
    if ours:
        records = store.read_records(out)
        recorded = [store.record_path(out, i).exists() for i in range(len(places))]
        broken = set(store.damaged(out, records))
        whole = {index: record for index, record in records.items() if index not in broken}
        if _same_data(out, about, job, frames, whole, overwrite):
            if store.read_manifest(out).get("data") != about or not store.view_is_whole(out):
                store.renew(out, identity, header, places, about)
            if retry_failed:
                again = {index for index in whole if records[index]["failures"]}
                whole = {index: record for index, record in whole.items() if index not in again}
                recorded = [there and i not in again for i, there in enumerate(recorded)]
            todo = [index for index in range(len(places)) if index not in whole]
            return todo, sum(recorded[index] for index in todo)
    expect_writable(out / store.VIEW)
    store.create(out, identity, header, places, about)
    return list(range(len(places))), 0


def _same_data(
    out: Path,
    about: dict[str, Any],
    job: Job,
    frames: int | None,
    whole: dict[int, dict[str, Any]],
    overwrite: bool,
) -> bool:
    """Return whether finished shards were made of these data; refuses others, unless `overwrite`.

    Files of the same size and time are the same; of others, and of data without files, the content
    that each finished shard was made of is compared.
    """
    before = store.read_manifest(out).get("data", {}).get("stamp")
    if before is not None and before == about["stamp"]:
        return True
    changed = changed_videos(job.inputs, whole, frames)
    named = ", ".join(map(repr, changed[:3])) + (", ..." if len(changed) > 3 else "")
    got = f"others for {len(changed)} videos that are explained ({named})"
    way_out = "Choose another folder, or pass overwrite to delete what is there."
    expect(not changed or overwrite, "data", "the features that the sweep began with", got, way_out)
    return not changed


def _run(
    task: Task,
    mine: list[int],
    progress: Callable[[Progress], None] | None,
    host: int,
    n_hosts: int,
) -> float:
    """Read, explain and write the shards of this host; seconds that explaining took."""
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
        for read in sources.prefetch(
            mine, lambda index: load(task, index), workers=1, ahead=_AHEAD
        ):
            started = time.perf_counter()
            loaded, found = explained(task, read)
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


def _wait_for_others(out: Path, n_shards: int) -> None:
    """Until the shards of all hosts are there; JAX's runtime ends the wait if a host is lost."""
    while not all(store.record_path(out, index).exists() for index in range(n_shards)):
        time.sleep(_POLL)
