"""Explanations of many sequences in one netCDF-4 file, which opens with xarray.

Dimensions: video, element (padded to the longest sequence), class, scale. ESVs are NaN beyond a
sequence's length. The attributes hold versions, device, time, settings. Needs the `files` extra.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, message, nearest
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.results.layout import (
    ELEMENT,
    LAYOUT,
    OTHER_METHOD,
    Encoding,
    compressed,
    expect_layout,
    open_format,
    provenance,
    reading,
    unreadable,
    write_dataset,
)
from esv_jax.results.store import VIEW, is_sweep, open_sweep

if TYPE_CHECKING:
    import xarray

FORMAT = "esv_jax results, version 1"
_CHUNK_BYTES = 2**18  # decompressed together: whole videos, at least one


def save(
    path: str | os.PathLike[str],
    attributions: Sequence[Attribution],
    *,
    uids: Sequence[str],
    class_names: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    element_index: Sequence[Sequence[int]] | None = None,
    settings: Mapping[str, object] | None = None,
    marginals: bool = False,
    methods: Mapping[str, Sequence[ArrayLike]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the explanations of V sequences to one file, complete or not at all.

    Values are stored in single precision; `coverage` is not stored. Warnings and removal policies
    are stored for the file as a whole.

    Args:
      path: the file, e.g. "results.nc", in a folder that exists.
      attributions: V records of one sequence each, (n_i, C), with the same C.
      uids: V distinct names of the sequences.
      class_names: C names; default the numbers 0..C-1.
      labels: V true classes, 0..C-1, or -1 where unknown.
      element_index: V rows of n_i indices of the elements in the original sequences.
      settings: of the explanations (estimator, model, seed, ...), as JSON.
      marginals: store mean marginals by scale, max(n)**2 * C values per sequence.
      methods: values of other methods by name, V arrays (n_i, C) each.
      overwrite: replace an existing file.
    Returns:
      The path.
    Raises:
      ValueError: no records, records of a batch or of differing C, arguments of the wrong length
        or shape, repeated uids, marginals that a record lacks, names of methods that are no
        identifiers or are taken, a path that is a folder.
      TypeError: settings that JSON cannot hold.
      FileExistsError, FileNotFoundError, OSError: a path that is taken, whose folder is missing,
        or that cannot be written.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        given = (uids, class_names, labels, element_index, settings, marginals, methods)
        write_sequences(temporary, dataset_of(attributions, *given))
    return Path(path)


def dataset_of(
    attributions: Sequence[Attribution],
    uids: Sequence[str],
    class_names: Sequence[str] | None,
    labels: Sequence[int] | None,
    element_index: Sequence[Sequence[int]] | None,
    settings: Mapping[str, object] | None,
    marginals: bool,
    methods: Mapping[str, Sequence[ArrayLike]] | None,
) -> xarray.Dataset:
    """Build the dataset that `save` writes; arguments and errors as of `save`."""
    records = _expect_records(attributions, marginals)
    n, n_classes = max(record.n for record in records), records[0].n_classes
    names = [str(uid) for uid in uids]
    expect(len(names) == len(records), "uids", f"{len(records)} names", len(names))
    name, times = Counter(names).most_common(1)[0]
    expect(times == 1, "uids", "distinct names", f"{name!r} {times} times")
    classes = range(n_classes) if class_names is None else [str(name) for name in class_names]
    expect(len(classes) == n_classes, "class_names", f"{n_classes} names", len(classes))
    coords = {
        "video": ("video", np.array(names, object), {"long_name": "uid of the sequence"}),
        "element": np.arange(n),
        "class": np.array(classes, np.int64 if class_names is None else object),
        "scale": np.arange(1, n + 1),
    }
    variables = {}
    arrays = _variables(records, n) | _given(records, labels, element_index, n)
    for name, array in arrays.items():
        dims, text = LAYOUT[name]
        variables[name] = (dims[-array.ndim :], array, {"long_name": text, "units": "1"})
    for name, rows in (methods or {}).items():
        free = name.isidentifier() and name not in {*LAYOUT, *coords}
        expect(free, "methods", "names like integrated_gradients that are free", repr(name))
        expect(len(rows) == len(records), f"methods[{name!r}]", f"{len(records)} rows", len(rows))
        for i, (row, record) in enumerate(zip(rows, records, strict=True)):
            expected = record.values.shape
            expect(np.shape(row) == expected, f"{name}[{i}]", f"shape {expected}", np.shape(row))
        about = {"long_name": f"values by {name.replace('_', ' ')}", OTHER_METHOD: name}
        variables[name] = (ELEMENT, _padded(rows, (n, n_classes)), about)
    attrs = provenance("Element Shapley Values", FORMAT, attributions[0].values, settings)
    warnings = list(dict.fromkeys(text for record in records for text in record.warnings))
    removals = sorted({record.removal for record in records if record.removal is not None})
    attrs |= {"warnings": json.dumps(warnings), "removal": ", ".join(removals)}
    dataset: xarray.Dataset = require("xarray", "files").Dataset(variables, coords, attrs)
    return dataset


def write_sequences(path: Path, dataset: xarray.Dataset) -> None:
    """Write the dataset of `dataset_of`, to which variables of strings may have been added."""
    encoding: dict[str, Encoding] = {}
    for name, array in dataset.items():
        if array.dtype != object:
            n_videos = max(1, min(len(array), _CHUNK_BYTES // array[0].nbytes))
            encoding[str(name)] = compressed((n_videos, *array.shape[1:]))
    write_dataset(path, dataset, encoding)


def open(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Open a file written by `save`, or a sweep; variables are read when used.

    An unfinished sweep, or one that lost a shard, has the videos of its complete shards: the
    attributes `n_finished` and `n_videos` count them and all. `failures` holds, as JSON, the reason
    for each video that could not be explained, whose values are missing.

    Close it, or use it as a context manager: `with results.open(path) as dataset: ...`.

    Args:
      path: a file, or a folder with a sweep's results or with a results.nc in it.
    Raises:
      ValueError: a file that is missing, empty, damaged, or of another format; names it.
    Cost: reads names, lengths and labels; of a sweep also the view and the records of its shards.
    """
    if is_sweep(path):
        dataset = open_sweep(path)
    else:
        inside = Path(path) / VIEW
        dataset = open_format(inside if inside.is_file() else path, FORMAT, "results.save")
    try:
        expect_layout(dataset, str(path))
    except BaseException:
        dataset.close()
        raise
    return dataset


def is_results(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file, or a folder with results, that `open` could open."""
    return is_sweep(path) or Path(path).is_file() or (Path(path) / VIEW).is_file()


def videos_within(path: Path) -> Path | None:
    """Return the folder "videos" within a folder of results, if it exists; the demo has one."""
    return path / "videos" if (path / "videos").is_dir() else None


def load_attribution(dataset: xarray.Dataset, uid: str) -> Attribution:
    """Return the record of one sequence without padding; the stored values, bit for bit.

    Args:
      dataset: from `open`, or a selection of its videos.
      uid: the name of the sequence.
    Returns:
      `Attribution` with values (n, C) in single precision. `std_error` and `marginals` are None
      if the file has none. For a sweep that stored some classes only, C is their number, in the
      order of the dimension `choice`; scores and prior are those of these classes.
    Raises:
      ValueError: a uid that is not in the dataset, or whose sequence could not be explained;
        values that cannot be read.
    """
    names = dataset.indexes["video"]
    if uid not in names:
        got, way_out = repr(uid), nearest(str(uid), names.tolist())
        raise ValueError(message("uid", f"one of {len(names)} in the file", got, way_out))
    reason = json.loads(dataset.attrs.get("failures", "{}")).get(uid)
    expect(reason is None, str(uid), "a sequence that was explained", f"one that failed: {reason}")
    with reading(dataset):
        stored = dataset[[name for name in LAYOUT if name in dataset]]
        video = stored.isel(video=names.get_loc(uid)).load()
        n = int(video["length"])
        scores, prior = video["scores"].values, video["prior"].values
        if "choice" in video.dims:
            scores, prior = scores[video["chosen"].values], prior[video["chosen"].values]
    values = video["esv"].values[:n]
    if not (np.isfinite(values).all() and np.isfinite(scores).all()):
        raise unreadable(dataset, f"NaN for {uid!r}, as of a shard that is no longer there")
    optional = {}
    for name in ("marginals", "std_error"):
        if name in video and not np.isnan(video[name].values).all():
            cut = {dim: slice(n) for dim in ("element", "scale") if dim in video[name].dims}
            optional[name] = jnp.asarray(video[name].isel(cut).values)
    return Attribution(
        values=jnp.asarray(values),
        scores=jnp.asarray(scores),
        prior=jnp.asarray(prior),
        n_evaluations=int(video["n_evaluations"]),
        exact=bool(video["exact"]),
        warnings=tuple(json.loads(dataset.attrs.get("warnings", "[]"))),
        removal=dataset.attrs.get("removal") or None,
        **optional,
    )


def _expect_records(attributions: Sequence[Attribution], marginals: bool) -> list[Attribution]:
    """Check records; return their stored fields on the host, in one transfer."""
    expect(len(attributions) > 0, "attributions", "at least one record", "none")
    c = attributions[0].n_classes
    stored = []
    for i, record in enumerate(attributions):
        name = f"attributions[{i}]"
        batch = record.lengths is not None or np.ndim(record.values) != 2
        expect(not batch, name, "one sequence", "a batch", "Index it first.")
        expect(record.n_classes == c, name, f"{c} classes, as before", record.n_classes)
        missing = marginals and record.marginals is None
        expect(not missing, name, "marginals to store", "none", "Pass marginals=False.")
        kept = record.marginals if marginals else None
        stored.append(dataclasses.replace(record, coverage=None, marginals=kept))
    return jax.device_get(stored)


def _variables(records: Sequence[Attribution], n: int) -> dict[str, np.ndarray]:
    """Return the variables of V records, padded to n elements."""
    length, c = np.array([record.n for record in records]), records[0].n_classes
    esv = _padded([record.values for record in records], (n, c))
    scores = np.array([record.scores for record in records], np.float32)
    prior = np.array([record.prior for record in records], np.float32)
    present = np.arange(n) < length[:, None]
    total = esv.sum(1, np.float64, where=present[:, :, None])
    variables = {
        "esv": esv,
        "scores": scores,
        "prior": prior[0] if (prior == prior[0]).all() else prior,
        "length": length,
        "prediction": scores.argmax(1),
        "exact": np.array([record.exact for record in records]),
        "n_evaluations": np.array([int(record.n_evaluations) for record in records]),
        "efficiency_gap": abs(total - (scores.astype(np.float64) - prior)).max(1),
    }
    for name, shape in (("std_error", (n, c)), ("marginals", (n, n, c))):
        rows = [getattr(record, name) for record in records]
        if any(row is not None for row in rows):
            variables[name] = _padded(rows, shape)
    return variables


def _given(
    records: Sequence[Attribution],
    labels: Sequence[int] | None,
    element_index: Sequence[Sequence[int]] | None,
    n: int,
) -> dict[str, np.ndarray]:
    """Return the variables that the caller passes beside the records."""
    n_videos, n_classes = len(records), records[0].n_classes
    label = _integers("labels", [-1] * n_videos if labels is None else labels, n_videos)
    fits = label.min() >= -1 and label.max() < n_classes
    expect(fits, "labels", f"-1..{n_classes - 1}", f"{label.min()}..{label.max()}")
    if element_index is None:
        return {"label": label}
    rows = len(element_index)
    expect(rows == n_videos, "element_index", f"{n_videos} rows", rows)
    index = np.full((rows, n), -1, np.int32)
    for i, (row, record) in enumerate(zip(element_index, records, strict=True)):
        index[i, : record.n] = _integers(f"element_index[{i}]", row, record.n)
    return {"label": label, "element_index": index}


def _integers(name: str, values: Sequence[int], n: int) -> np.ndarray:
    array = np.asarray(values)
    expect(array.shape == (n,), name, f"{n} integers", f"shape {array.shape}")
    whole = np.issubdtype(array.dtype, np.integer)
    expect(whole, name, "integers", f"dtype {array.dtype}", kind=TypeError)
    return array.astype(np.int32)


def _padded(rows: Sequence[ArrayLike | None], shape: tuple[int, ...]) -> np.ndarray:
    """Stack V arrays (None for a missing one), padded with NaN: (V, *shape)."""
    padded = np.full((len(rows), *shape), np.nan, np.float32)
    for row, target in zip(rows, padded, strict=True):
        if row is not None:
            target[tuple(slice(size) for size in np.shape(row))] = row
    return padded
