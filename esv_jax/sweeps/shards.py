"""One shard of a sweep: reading, explaining, writing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from esv_jax.checks import expect, message
from esv_jax.files import JSONObject
from esv_jax.results import store
from esv_jax.results.layout import provenance
from esv_jax.results.shard_files import FORMAT, Header, as_stored
from esv_jax.sweeps.engine import Engine, Values
from esv_jax.sweeps.planning import Job, Shard


class Task(NamedTuple):
    """Everything needed to explain a shard.

    Attributes:
      stamps: sizes and times of the files when the sweep began, by row; None without files.
      The others are as in `sweep`.
    """

    job: Job
    out: Path
    header: Header
    shards: list[Shard]
    identity: JSONObject
    engine: Engine
    frames: int | None
    min_elements: int
    choices: tuple[str, ...] | None
    strict: bool
    stamps: list[str] | None


class Loaded(NamedTuple):
    """Videos of a shard that could be read.

    Attributes:
      shard: its index.
      read: features and elements of these videos, by row within the shard.
      failures: reasons of the others, by uid. contents: digests of the data of all, by uid.
    """

    shard: int
    read: dict[int, tuple[np.ndarray, np.ndarray]]
    failures: dict[str, str]
    contents: dict[str, str]


def make_header(
    job: Job,
    lengths: np.ndarray,
    shards: Sequence[Shard],
    choices: tuple[str, ...] | None,
    marginals: bool,
    settings: JSONObject,
) -> Header:
    """Return the metadata of all videos in the store; rows in the order of the shards."""
    order = np.concatenate([shard.positions for shard in shards])
    labels = np.full(len(order), -1) if job.labels is None else job.labels
    attributes = provenance("Element Shapley Values", FORMAT, job.prior, settings)
    attributes |= {"model_digest": job.digest, "removal": job.game.removal_name or ""}
    uids = job.uids
    return Header(
        uids=[uids[i] for i in order],
        lengths=lengths[order].astype(np.int32),
        labels=labels[order].astype(np.int32),
        class_names=job.class_names,
        prior=np.asarray(job.prior, np.float32),
        choices=choices,
        marginals=marginals,
        attributes=attributes,
    )


# Reading


def load(task: Task, index: int) -> Loaded:
    """Read a shard's videos; those that cannot be explained are omitted, with reasons.

    Called in a thread ahead of the engine; also makes the draw that the shard's videos share.

    Raises:
      ValueError: files that changed since the sweep began.
    """
    job, shard = task.job, task.shards[index]
    uids, lengths = task.header.uids[shard.rows], task.header.lengths[shard.rows]
    source = job.rows[shard.positions]
    order = np.argsort(source, kind="stable")  # neighbours in the file are read together
    positions = source[order].tolist()
    reads = job.inputs.read_many(positions, task.frames)
    found = dict(zip(order.tolist(), reads, strict=True))
    digests = job.inputs.contents(positions, task.frames, reads)
    contents = {uids[row]: digest for row, digest in zip(order.tolist(), digests, strict=True)}
    stamps = job.inputs.stamps(source.tolist())
    if stamps is not None and task.stamps is not None:
        before = zip(uids, stamps, task.stamps[shard.rows], strict=True)
        changed = [uid for uid, now, was in before if now != was]
        got, way_out = f"others for {changed[:1]}", "Sweep again when no process writes to them."
        expected = "files that stay as they were when the sweep began"
        expect(not changed, "data", expected, got, way_out)
    failures, read = {}, {}
    for row, (uid, n) in enumerate(zip(uids, lengths.tolist(), strict=True)):
        one = found[row]
        if isinstance(one, Exception):
            failures[uid] = str(one)
        elif reason := shard.reason or _defect(one[0], n, task.min_elements, job.width):
            failures[uid] = reason
        else:
            read[row] = one
    if read:
        assert shard.estimator is not None
        with suppress(ValueError, MemoryError):  # raised again when the engine needs the draw
            task.engine.prepare(shard.estimator, shard.n)
    return Loaded(index, read, failures, contents)


def _defect(x: np.ndarray, n: int, least: int, width: tuple[int, ...]) -> str:
    """Return the reason why features cannot be explained; "" if they can."""
    if n == 0:
        return message("length", f"at least {least} elements", len(x))
    if x.shape != (n, *width):
        return message("features", f"shape {(n, *width)}, as when the sweep began", x.shape)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        return message("features", "finite values", f"NaN or infinity in element {bad[0][0]}")
    return ""


# Explaining


def explain(task: Task, loaded: Loaded) -> tuple[Loaded, Values | None]:
    """Run the engine on the loaded videos; None if there are none.

    Videos that raise ValueError, or do not fit the memory, become failures.
    """
    shard = task.shards[loaded.shard]
    uids = task.header.uids[shard.rows]

    def values(rows: list[int]) -> Values:
        assert shard.estimator is not None
        features = [loaded.read[row][0] for row in rows]
        return task.engine.explain(shard.estimator, features, [uids[row] for row in rows], shard.n)

    if not loaded.read:
        return loaded, None
    try:
        return loaded, values(list(loaded.read))
    except (ValueError, MemoryError):
        pass  # one by one shows which
    parts, failures = {}, dict(loaded.failures)
    for row in loaded.read:
        try:
            parts[row] = values([row])
        except (ValueError, MemoryError) as error:
            failures[uids[row]] = str(error)
    kept = {row: loaded.read[row] for row in parts}
    loaded = loaded._replace(read=kept, failures=failures)
    if not parts:
        return loaded, None
    every = list(parts.values())
    fields = {
        name: np.concatenate([part.fields[name] for part in every]) for name in every[0].fields
    }
    return loaded, Values(fields, tuple(dict.fromkeys(w for part in every for w in part.warnings)))


# Classes whose values are stored


def choice_names(classes: str | Sequence[str], n_classes: int) -> tuple[str, ...] | None:
    """Return the names of the classes to store per video; None for all classes.

    Args:
      classes: "all", or some of "gt" (true), "pred" (predicted) and "topK" (the K of highest
        score), separated by commas or in a sequence. "top2" stands for top1 and top2.
      n_classes: C.
    Raises:
      ValueError: another name, a repeated one, none, or a K beyond C.
    """
    given = [name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes)]
    if given == ["all"]:
        return None
    names: list[str] = []
    for name in given:
        top = re.fullmatch(r"top([1-9]\d*)", name)
        if name not in ("gt", "pred") and top is None:
            expected = "all, or some of gt, pred and top1, top2, ..."
            raise ValueError(message("classes", expected, repr(",".join(given))))
        k = int(top[1]) if top else 0
        expect(k <= n_classes, "classes", f"at most top{n_classes}, as there are classes", name)
        names += [f"top{rank}" for rank in range(1, k + 1)] if top else [name]
    distinct = bool(names) and len(set(names)) == len(names)
    expect(distinct, "classes", "each class once", repr(",".join(given)))
    return tuple(names)


def chosen_classes(names: Sequence[str], scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class for each of K `choice_names`, (V, K), from scores (V, C) and labels (V,)."""
    ranked = np.argsort(-scores, axis=1, kind="stable")  # ties: the first class, as argmax
    columns = {"gt": labels, "pred": ranked[:, 0]}
    columns |= {f"top{k + 1}": column for k, column in enumerate(ranked.T)}
    return np.stack([columns[name] for name in names], 1).astype(np.int32)


def select_classes(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Select classes (V, K) of values (V, ..., C): (V, ..., K), NaN for class -1."""
    middle = values.ndim - 2
    index = np.maximum(chosen, 0).reshape(len(chosen), *[1] * middle, -1)
    picked = np.take_along_axis(values, index, axis=-1)
    missing = (chosen < 0).reshape(index.shape)
    return np.where(missing, np.float32(np.nan), picked)


# Writing


def write(task: Task, loaded: Loaded, found: Values | None, seconds: float) -> None:
    """Write a shard and its record."""
    shard, device = task.shards[loaded.shard], jax.local_devices()[0]
    about: JSONObject = {
        "failures": loaded.failures,
        "read": loaded.contents,
        "warnings": list(found.warnings) if found else [],
        "estimator": repr(shard.estimator),
        "host": jax.process_index(),
        "n_hosts": jax.process_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "seconds": round(seconds, 3),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    variables = _variables(task, loaded, found)
    store.write_shard(
        task.out, loaded.shard, variables, task.header, shard.extent, task.identity, about
    )


def _variables(task: Task, loaded: Loaded, found: Values | None) -> dict[str, np.ndarray]:
    """Return the arrays to store for a shard, over all its rows: missing for failed videos."""
    shard, header = task.shards[loaded.shard], task.header
    n_rows, n, c = len(shard.positions), shard.n, len(header.class_names)
    shapes = {"esv": (n, c), "scores": (c,)}
    if shard.extent.sampled:
        shapes["std_error"] = (n, c)
    if header.marginals:
        shapes["marginals"] = (n, n, c)
    whole = {
        **{name: np.full((n_rows, *each), np.nan, np.float32) for name, each in shapes.items()},
        "failed": np.ones(n_rows, bool),
        "prediction": np.full(n_rows, -1),
        "n_evaluations": np.zeros(n_rows, int),
        "exact": np.zeros(n_rows, bool),
        "efficiency_gap": np.full(n_rows, np.nan),
        "element_index": np.full((n_rows, n), -1),
    }
    chosen = np.full((n_rows, len(task.choices or ())), -1)
    if found is not None:
        assert shard.estimator is not None
        rows, scores = list(loaded.read), found.fields["scores"]
        total = found.fields["values"].sum(1, np.float64)  # zero beyond a video's length
        whole["failed"][rows] = False
        whole["prediction"][rows] = scores.argmax(1)
        whole["exact"][rows] = not shard.estimator.needs_key
        gap = abs(total - (scores.astype(np.float64) - header.prior)).max(1)
        whole["efficiency_gap"][rows] = gap
        for row, (_, elements) in loaded.read.items():
            whole["element_index"][row, : len(elements)] = elements
        lengths = np.array([len(features) for features, _ in loaded.read.values()])
        for name, array in _without_padding(found.fields, lengths).items():
            whole["esv" if name == "values" else name][rows] = array
        if task.choices is not None:
            labels = header.labels[shard.rows][rows]
            chosen[rows] = chosen_classes(task.choices, scores, labels)
    if task.choices is not None:
        for name in {"esv", "std_error", "marginals"} & set(whole):
            whole[name] = select_classes(whole[name], chosen)
        whole["chosen"] = chosen
    return {name: as_stored(name, array) for name, array in sorted(whole.items())}


def _without_padding(fields: dict[str, np.ndarray], lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return the engine's arrays with NaN in place of zero beyond each video's length."""
    absent = np.arange(fields["values"].shape[1]) >= lengths[:, None]  # (V, n)
    if not absent.any():
        return fields
    beyond = {"values": absent, "std_error": absent}
    beyond["marginals"] = absent[:, :, None] | absent[:, None, :]
    nan = np.float32(np.nan)
    return {
        name: np.where(beyond[name][..., None], nan, array) if name in beyond else array
        for name, array in fields.items()
    }
