"""Tables of stored explanations: summary, long form, collation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from esv_jax.checks import expect, message, nearest
from esv_jax.extras import require
from esv_jax.results.layout import other_methods, reading

if TYPE_CHECKING:
    import pandas
    import xarray

Classes = str | int | Sequence[str | int]


def summary(dataset: xarray.Dataset) -> str:
    """Describe a dataset in a few lines: videos, estimator, accuracy, efficiency gap.

    Raises:
      ValueError: values that cannot be read, naming the file.
    """
    n_finished = dataset.attrs.get("n_finished", dataset.sizes["video"])
    n_videos = dataset.attrs.get("n_videos", n_finished)
    videos = f"{n_finished}" if n_finished == n_videos else f"{n_finished} of {n_videos} so far"
    if failures := json.loads(dataset.attrs.get("failures", "{}")):
        videos += f", {len(failures)} failed"
    classes = f"{dataset.sizes['class']}"
    if "choice" in dataset.sizes:
        classes += f", values kept of {', '.join(map(str, dataset['choice'].values))}"
    lines = {"videos": videos, "classes": classes}
    estimator = str(json.loads(dataset.attrs["settings"]).get("estimator", "not stated"))
    with reading(dataset):
        kept = _without_failures(dataset)
        lines |= _statistics(kept, estimator) if kept.sizes["video"] else {"estimator": estimator}
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':<{width}}{text}" for name, text in lines.items())


def _without_failures(dataset: xarray.Dataset) -> xarray.Dataset:
    if "failed" not in dataset:
        return dataset
    return dataset.isel(video=np.flatnonzero(dataset["failed"].values == 0))


def _statistics(dataset: xarray.Dataset, estimator: str) -> dict[str, str]:
    """Return lines about one or more videos that did not fail."""
    length, exact = dataset["length"].values, dataset["exact"].values
    n_exact, n_videos = int(exact.sum()), len(exact)
    kind = {0: "sampled", n_videos: "exact"}.get(n_exact, f"{n_exact} of {n_videos} exact")
    prediction, label = dataset["prediction"].values, dataset["label"].values
    known = label >= 0
    accuracy = "no labels"
    if known.any():
        rate = 100 * (prediction == label)[known].mean()
        accuracy = f"{rate:.1f} % of {known.sum()} labelled videos"
    evidence = (dataset["scores"] - dataset["prior"]).transpose("video", "class").values
    evidence = np.take_along_axis(evidence, prediction[:, None], axis=1)
    gap = dataset["efficiency_gap"].values
    return {
        "elements": f"{length.min()} / {np.median(length):g} / {length.max()} (min / median / max)",
        "estimator": f"{estimator} ({kind})",
        "accuracy": accuracy,
        "evidential score": f"{evidence.mean():.4f} (mean, predicted class)",
        "efficiency gap": f"{gap.max():.2g} (largest, {dataset['video'].values[gap.argmax()]})",
    }


def to_dataframe(dataset: xarray.Dataset, classes: Classes = "pred") -> pandas.DataFrame:
    """Return ESVs in long form: one row per video, element and class.

    Args:
      dataset: from `open`, or a selection of its videos.
      classes: "pred" (each video's predicted class), "gt" (its true class; videos without one are
        omitted), "all", or class names or numbers, or the dataset's choices. A class that several
        of these name has one row, at the position of the first.
    Returns:
      Columns video, element, element_index if stored, class (its name), choice if the dataset has
      choices (those of `classes` that name the class, e.g. "gt,pred"), esv, std_error if stored,
      values of other methods, label, prediction (names; "" if unknown). Failed videos are omitted.
    Raises:
      ValueError: classes that the dataset does not have; values that cannot be read.
    Cost: reads all values of the dataset's videos; "all" makes V * n * C rows.
    """
    pandas = require("pandas", "files")
    with reading(dataset):
        return pandas.DataFrame(_columns(dataset, classes))


def _columns(dataset: xarray.Dataset, classes: Classes) -> dict[str, np.ndarray]:
    """Return the columns of the long form by name."""
    dataset = _without_failures(dataset)
    names = [str(name) for name in dataset["class"].values]
    requested, positions, ids = _class_of_values(dataset, classes, names)
    each = np.arange(len(ids))
    first = np.zeros((len(ids), len(names) + 1), int)  # column that a class has, -1 is the last
    for column in reversed(range(len(requested))):
        first[each, ids[:, column]] = column
    positions = np.where(first[each[:, None], ids] == np.arange(len(requested)), positions, -1)
    stored = [name for name in ("esv", "std_error") if name in dataset.variables]
    values = {name: dataset[name].values for name in (*stored, *other_methods(dataset))}
    present = np.arange(dataset.sizes["element"]) < dataset["length"].values[:, None]
    video, element, k = np.nonzero(present[:, :, None] & (positions >= 0)[:, None, :])
    table = {"video": dataset["video"].values[video], "element": element}
    if "element_index" in dataset:
        table["element_index"] = dataset["element_index"].values[video, element]
    table["class"] = np.array(names, object)[ids[video, k]]
    if "choice" in dataset.sizes:
        named = np.full(first.shape, "", object)  # choices of a class
        for name, own in zip(requested, ids.T, strict=True):
            before = named[each, own]
            named[each, own] = np.where(before == "", name, before + f",{name}")
        table["choice"] = named[video, ids[video, k]]
    for name, array in values.items():
        table[name] = array[video, element, positions[video, k]]
    labelled = np.array([*names, ""], object)
    table["label"] = labelled[dataset["label"].values[video]]
    table["prediction"] = labelled[dataset["prediction"].values[video]]
    return table


def _class_of_values(
    dataset: xarray.Dataset, classes: Classes, names: list[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Resolve K requested classes for every video.

    Returns:
      K names; positions along the last axis of values, -1 for none; class ids: both (V, K).
    """
    requested = [classes] if isinstance(classes, str | int) else list(classes)
    chosen = dataset["chosen"].values if "choice" in dataset.sizes else None
    choices = [] if chosen is None else [str(name) for name in dataset["choice"].values]
    if requested == ["all"]:
        requested = list(choices or range(len(names)))
    columns = []
    for name in requested:
        known, expected = choices, f"among {choices}"
        if chosen is None:
            known, expected = names, "pred, gt, all, or names or numbers of classes"
        if chosen is not None and str(name) in choices:
            k = choices.index(str(name))
            columns.append((np.where(chosen[:, k] < 0, -1, k), chosen[:, k]))
        elif chosen is None and name in ("pred", "gt"):
            columns.append((dataset["prediction" if name == "pred" else "label"].values,) * 2)
        elif chosen is None and (str(name) in names or name in range(len(names))):
            c = names.index(str(name)) if str(name) in names else name
            columns.append((np.full(dataset.sizes["video"], c),) * 2)
        else:
            way_out = nearest(str(name), known)
            raise ValueError(message("classes", expected, repr(name), way_out))
    positions, class_ids = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    return [str(name) for name in requested], positions, class_ids


def collate(datasets: Mapping[str, xarray.Dataset]) -> xarray.Dataset:
    """Join several results along a new dimension, for the videos that all of them explained.

    Args:
      datasets: by name (of the model, or number of frames), of one set of classes.
    Returns:
      A dataset with the dimension `sweep`; videos in the order of the first, elements padded to
      the longest with NaN. Variables that some lack are omitted; `label` is the first known one.
      The settings of each are in the attribute `settings`, as JSON by name.
    Raises:
      ValueError: no datasets, other classes or choices, no video in common, other labels; values
        that cannot be read.
    Cost: reads all values; the result is in memory.
    """
    xarray = require("xarray", "files")
    expect(len(datasets) > 0, "datasets", "at least one", "none")
    (first_name, first), *_ = datasets.items()
    common = first.indexes["video"]
    kept = {}
    for name, dataset in datasets.items():
        kept[name] = _without_failures(dataset)
        common = common[common.isin(kept[name].indexes["video"])]
        for dim in ("class", "choice"):
            same = (dim in dataset) == (dim in first) and (
                dim not in dataset or list(dataset[dim].values) == list(first[dim].values)
            )
            expected, way_out = f"the {dim} dimension of {first_name!r}", "Use the same classes."
            expect(same, f"datasets[{name!r}]", expected, "another", way_out)
    expect(len(common) > 0, "datasets", "videos in common", "none")
    label = np.full(len(common), -1)
    parts = []
    shared = set.intersection(*(set(map(str, dataset.data_vars)) for dataset in kept.values()))
    for name, dataset in kept.items():
        with reading(dataset):
            part = dataset[sorted(shared)].sel(video=common).load()
        own = part["label"].values
        clash = np.flatnonzero((own >= 0) & (label >= 0) & (own != label))
        got = f"{own[clash[:1]]} and {label[clash[:1]]} for {common[clash[:1]].tolist()}"
        expect(not len(clash), f"datasets[{name!r}]", "the same labels", got)
        label = np.where(label < 0, own, label)
        parts.append(part.drop_vars("label"))
    names = xarray.Variable("sweep", np.array(list(datasets), object))
    together = xarray.concat(
        parts,
        dim=names.to_index_variable(),
        join="outer",
        data_vars="all",
        combine_attrs="drop",
        fill_value=dict.fromkeys({"element_index", "chosen"} & shared, -1),
    )
    together = together.sel(video=common)
    together["label"] = ("video", label)
    settings = {name: json.loads(data.attrs["settings"]) for name, data in datasets.items()}
    return together.assign_attrs(
        title="Element Shapley Values, side by side",
        format="esv_jax collation, version 1",
        settings=json.dumps(settings),
    )
