"""One shard of a sweep: read, explained, written."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from esv_jax.checks import expect, message
from esv_jax.results import store
from esv_jax.results.layout import provenance
from esv_jax.sweeps.choices import chosen_classes, of_chosen
from esv_jax.sweeps.engine import Engine
from esv_jax.sweeps.job import Job
from esv_jax.sweeps.planning import Shard


class Task(NamedTuple):
    """All that explaining a shard needs."""

    job: Job
    out: Path
    header: store.Header
    shards: list[Shard]
    identity: dict[str, Any]
    engine: Engine
    frames: int | None
    min_elements: int
    choices: tuple[str, ...] | None
    strict: bool
    stamps: list[str] | None


class Loaded(NamedTuple):
    """A shard's videos, as far as they could be read: which rows, features, indices, reasons.

    `contents`: digests of what was read, by uid.
    """

    shard: int
    rows: list[int]
    features: list[np.ndarray]
    elements: list[np.ndarray]
    failures: dict[str, str]
    contents: dict[str, str]


def make_header(
    job: Job,
    lengths: np.ndarray,
    shards: list[Shard],
    choices: tuple[str, ...] | None,
    marginals: bool,
    settings: dict[str, Any],
) -> store.Header:
    """Metadata of all videos in the store; rows in the order of the shards."""
    order = np.concatenate([shard.positions for shard in shards])
    labels = np.full(len(order), -1) if job.labels is None else job.labels
    attributes = provenance("Element Shapley Values", store.FORMAT, job.prior, settings)
    removal = job.game.removal_name
    attributes |= {"model_digest": job.digest, "removal": removal or ""}
    uids = job.uids
    return store.Header(
        uids=[uids[i] for i in order],
        lengths=lengths[order].astype(np.int32),
        labels=labels[order].astype(np.int32),
        class_names=job.class_names,
        prior=np.asarray(job.prior, np.float32),
        choices=choices,
        marginals=marginals,
        attributes=attributes,
    )


def place_of(shard: Shard) -> store.ShardPlace:
    """Position of a shard in the store."""
    sampled = shard.estimator is not None and shard.estimator.needs_key
    return store.ShardPlace(shard.start, len(shard.positions), shard.n, sampled)


def load(task: Task, index: int) -> Loaded:
    """Read a shard's videos; those that cannot be explained are left out, with reasons.

    Called ahead of the engine, in a thread: what the estimator prepares on the host is made, too.

    Raises:
      ValueError: files that changed since the sweep began.
    """
    job, shard = task.job, task.shards[index]
    uids = task.header.uids[shard.start : shard.start + len(shard.positions)]
    failures: dict[str, str] = {}
    rows, features, elements = [], [], []
    source = job.rows[shard.positions]
    lengths = task.header.lengths[shard.start : shard.start + len(source)]
    order = np.argsort(source, kind="stable")  # neighbours in the file are read together
    positions = source[order].tolist()
    reads = job.inputs.read_many(positions, task.frames)
    found = dict(zip(order.tolist(), reads, strict=True))
    digests = job.inputs.contents(positions, task.frames, reads)
    contents = {uids[row]: digest for row, digest in zip(order.tolist(), digests, strict=True)}
    stamps = job.inputs.stamps(source.tolist())
    if stamps is not None and task.stamps is not None:
        began = [task.stamps[shard.start + row] for row in range(len(source))]
        changed = [uid for uid, now, was in zip(uids, stamps, began, strict=True) if now != was]
        got, way_out = f"others for {changed[:1]}", "Sweep again when nobody writes to them."
        expected = "files that stay as they were when the sweep began"
        expect(not changed, "data", expected, got, way_out)
    for row, uid in enumerate(uids):
        read = found[row]
        reason = shard.reason
        if isinstance(read, Exception):
            reason = str(read)
        elif not reason:
            reason = _reason(read[0], int(lengths[row]), task.min_elements, job.width)
        if reason or isinstance(read, Exception):
            failures[uid] = reason
            continue
        rows.append(row)
        features.append(read[0])
        elements.append(read[1])
    if rows:
        assert shard.estimator is not None
        with suppress(ValueError, MemoryError):  # told when the engine asks for it
            task.engine.prepare(shard.estimator, shard.n)
    return Loaded(index, rows, features, elements, failures, contents)


def _reason(x: np.ndarray, n: int, least: int, width: tuple[int, ...]) -> str:
    """Why a video that was read cannot be explained; "" where it can."""
    if n == 0:
        return message("length", f"at least {least} elements", len(x))
    if x.shape != (n, *width):
        return message("features", f"shape {(n, *width)}, as when the sweep began", x.shape)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        return message("features", "finite values", f"NaN or infinity in element {bad[0][0]}")
    return ""


def explained(task: Task, loaded: Loaded) -> tuple[Loaded, dict[str, Any]]:
    """Run the engine on the videos that could be read; nothing if there are none.

    Videos that raise ValueError, or do not fit the memory, join those that failed.
    """
    shard = task.shards[loaded.shard]
    uids = [task.header.uids[shard.start + row] for row in loaded.rows]

    def found(which: slice) -> dict[str, Any]:
        assert shard.estimator is not None
        return task.engine.explain(shard.estimator, loaded.features[which], uids[which], shard.n)

    if not uids:
        return loaded, {}
    try:
        return loaded, found(slice(None))
    except (ValueError, MemoryError):
        pass  # one by one tells which
    parts, kept, failures = [], [], dict(loaded.failures)
    for place, uid in enumerate(uids):
        try:
            parts.append(found(slice(place, place + 1)))
            kept.append(place)
        except (ValueError, MemoryError) as error:
            failures[uid] = str(error)
    rows = [loaded.rows[place] for place in kept]
    features = [loaded.features[place] for place in kept]
    elements = [loaded.elements[place] for place in kept]
    joined: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts])
        for name in (parts[0] if parts else ())
        if name != "warnings"
    }
    if parts:
        joined["warnings"] = list(
            dict.fromkeys(text for part in parts for text in part["warnings"])
        )
    contents = loaded.contents
    return Loaded(loaded.shard, rows, features, elements, failures, contents), joined


def variables_of(task: Task, loaded: Loaded, found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays to store for a shard, over all its rows: missing where a video failed."""
    shard, header = task.shards[loaded.shard], task.header
    n_rows, n, c = len(shard.positions), shard.n, len(header.class_names)
    empty = {"esv": (n_rows, n, c), "scores": (n_rows, c)}
    if place_of(shard).sampled:
        empty["std_error"] = (n_rows, n, c)
    if header.marginals:
        empty["marginals"] = (n_rows, n, n, c)
    whole = {name: np.full(shape, np.nan, np.float32) for name, shape in empty.items()}
    whole["failed"], whole["prediction"] = np.ones(n_rows, bool), np.full(n_rows, -1)
    whole["n_evaluations"] = np.zeros(n_rows, int)
    whole["exact"] = np.zeros(n_rows, bool)
    whole["efficiency_gap"] = np.full(n_rows, np.nan)
    whole["element_index"] = np.full((n_rows, n), -1)
    chosen = np.full((n_rows, len(task.choices or ())), -1)
    if found:
        assert shard.estimator is not None
        rows, scores = np.array(loaded.rows), found["scores"]
        total = found["values"].sum(1, np.float64)  # zero beyond a video's length
        whole["failed"][rows] = False
        whole["prediction"][rows] = scores.argmax(1)
        whole["exact"][rows] = not shard.estimator.needs_key
        gap = abs(total - (scores.astype(np.float64) - header.prior)).max(1)
        whole["efficiency_gap"][rows] = gap
        for row, index in zip(loaded.rows, loaded.elements, strict=True):
            whole["element_index"][row, : len(index)] = index
        fields = _without_padding(found, np.array([len(x) for x in loaded.features]))
        fields["esv"] = fields.pop("values")
        if len(rows) == n_rows:
            whole |= fields
        else:
            for name, array in fields.items():
                whole[name][rows] = array
        if task.choices is not None:
            labels = header.labels[shard.start : shard.start + n_rows]
            chosen[rows] = chosen_classes(task.choices, scores, labels[rows])
    if task.choices is not None:
        for name in {"esv", "std_error", "marginals"} & set(whole):
            whole[name] = of_chosen(whole[name], chosen)
        whole["chosen"] = chosen
    return {name: store.as_stored(name, array) for name, array in sorted(whole.items())}


def _without_padding(found: dict[str, Any], lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The engine's arrays, NaN in place of zero beyond each video's length."""
    fields = {name: array for name, array in found.items() if name != "warnings"}
    absent = np.arange(fields["values"].shape[1]) >= lengths[:, None]  # (V, n)
    if not absent.any():
        return fields
    nothing = np.float32(np.nan)
    for name in {"values", "std_error"} & set(fields):
        fields[name] = np.where(absent[:, :, None], nothing, fields[name])
    if "marginals" in fields:
        beyond = absent[:, :, None] | absent[:, None, :]
        fields["marginals"] = np.where(beyond[..., None], nothing, fields["marginals"])
    return fields


def write(task: Task, loaded: Loaded, found: dict[str, Any], seconds: float) -> None:
    """Write a shard and its record: who made it, when, with what."""
    shard, device = task.shards[loaded.shard], jax.local_devices()[0]
    about = {
        "failures": loaded.failures,
        "read": loaded.contents,
        "warnings": list(found.get("warnings", ())),
        "estimator": repr(shard.estimator),
        "host": jax.process_index(),
        "n_hosts": jax.process_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "seconds": round(seconds, 3),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    variables = variables_of(task, loaded, found)
    place, identity = place_of(shard), task.identity
    store.write_shard(task.out, loaded.shard, variables, task.header, place, identity, about)
