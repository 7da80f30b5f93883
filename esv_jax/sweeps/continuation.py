"""Continuation of a sweep: comparison of its settings and data with stored results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from os import PathLike
from pathlib import Path

import jax
import numpy as np

from esv_jax import data as sources
from esv_jax.checks import expect, first_few
from esv_jax.files import JSONObject, expect_writable, remove_leftovers
from esv_jax.results import store
from esv_jax.sweeps.planning import Job, Shard
from esv_jax.sweeps.shards import Task


def identity_of(
    job: Job, lengths: np.ndarray, shards: Sequence[Shard], options: JSONObject
) -> JSONObject:
    """Return the settings that must be equal on all hosts, and for a sweep to be continued."""

    def digest(content: str | bytes) -> str:
        content = content.encode() if isinstance(content, str) else content
        return hashlib.sha256(content).hexdigest()[:16]

    videos = json.dumps([job.uids, lengths.tolist(), job.width])
    rows = [",".join(map(str, shard.positions.tolist())) for shard in shards]
    plan = [f"{s.n} {s.estimator} {own};" for s, own in zip(shards, rows, strict=True)]
    return {
        "videos": f"{len(lengths)} ({digest(videos)})",
        "labels": digest("none" if job.labels is None else str(job.labels.tolist())),
        "classes' names": digest(json.dumps(job.class_names)),
        "model": job.digest,
        "prior": digest(np.asarray(job.prior).tobytes()),
        **options,
        "shards": f"{len(shards)} ({digest(''.join(plan))})",
        "platform": jax.local_devices()[0].platform,
        "esv_jax": metadata.version("esv-jax"),
        "jax": jax.__version__,
    }


def differences(there: JSONObject, here: JSONObject) -> str:
    """Describe the differences between two identities."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)


def data_of(job: Job) -> JSONObject:
    """Return the paths of the data, with a digest of the files' sizes and times.

    They may change without the content (see `changed_videos`), so the identity excludes them.
    """
    stamps, source = job.inputs.stamps_when_opened(job.rows.tolist()), job.inputs.source
    return {
        "path": None if source is None else str(source.absolute()),
        "videos": job.inputs.videos is not None,
        "stamp": None if stamps is None else hashlib.sha256(repr(stamps).encode()).hexdigest(),
    }


def changed_videos(
    inputs: sources.inputs.Inputs, records: Mapping[int, JSONObject], frames: int | None
) -> list[str]:
    """Return the uids of the videos whose content differs from the input of recorded shards.

    Cost: reads the videos of all these shards, `frames` elements of each.
    """
    position, changed = {uid: i for i, uid in enumerate(inputs.uids)}, []
    for record in records.values():
        before = {uid: digest for uid, digest in record.get("read", {}).items() if digest}
        present = [uid for uid in before if uid in position]
        now = inputs.contents([position[uid] for uid in present], frames)
        same = {uid for uid, digest in zip(present, now, strict=True) if digest == before[uid]}
        changed += [uid for uid in before if uid not in same]
    return changed


def compare_data(
    out: str | PathLike[str], records: Mapping[int, JSONObject]
) -> tuple[list[str], str]:
    """Compare the data of a sweep, if they still exist, with the input of its recorded shards.

    Returns:
      Uids of videos with other content or none; a sentence about the comparison.
    Raises:
      ValueError: data that can no longer be read.
    Cost: reads the data.
    """
    manifest = store.read_manifest(out)
    about = manifest.get("data") or {}
    path = about.get("path")
    if path is None:
        return [], "The data came from no file: not compared."
    if not Path(path).exists():
        return [], f"The data are no longer at {path}: not compared."
    if about.get("videos"):
        inputs = sources.open_videos(Path(path), np.asarray)  # files are read, not decoded
    else:
        inputs = sources.open_inputs(path)
    changed = changed_videos(inputs, records, manifest["identity"].get("frames"))
    n = sum(len(record.get("read", {})) for record in records.values())
    return changed, f"{n} videos compared with the data at {path}."


# The store before the work


def is_same_sweep(task: Task, overwrite: bool) -> bool:
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


def prepare(task: Task, overwrite: bool, retry_failed: bool) -> tuple[list[int], int]:
    """Create the store, or check it; return missing shards, and how many of them were damaged."""
    out, every, data = task.out, range(len(task.shards)), data_of(task.job)
    extents = [shard.extent for shard in task.shards]
    same = is_same_sweep(task, overwrite)  # again, now that no other process writes
    remove_leftovers(out / store.WRITING)
    if same:
        records = store.read_records(out)
        recorded = {i for i in every if store.record_path(out, i).exists()}
        broken = store.damaged(out, records)
        whole = {index: record for index, record in records.items() if index not in broken}
        if _is_same_data(task, data, whole, overwrite):
            if store.read_manifest(out).get("data") != data or not store.view_is_whole(out):
                store.create(out, task.identity, task.header, extents, data, keep_shards=True)
            again = {i for i in whole if retry_failed and whole[i]["failures"]}
            todo = [i for i in every if i not in whole or i in again]
            return todo, len((recorded - again).intersection(todo))
    expect_writable(out / store.VIEW)
    store.create(out, task.identity, task.header, extents, data)
    return list(every), 0


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
