"""Datasets of explanations as people read them: a summary, a long table, several side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect, message, nearest
from esv_jax.extras import require
from esv_jax.results.layout import other_methods, reading

if TYPE_CHECKING:
    import pandas
    import xarray

_SAME = ("prior", "class", "choice")  # what collated datasets must agree in


def summary(dataset: xarray.Dataset) -> str:
    """A few lines about a dataset for people: what is in it, how it was made, how good it is.

    Raises:
      ValueError: values that cannot be read, naming the file.
    """
    with reading(dataset):
        return _summary(dataset)


def _summary(dataset: xarray.Dataset) -> str:
    failures = json.loads(dataset.attrs.get("failures", "{}"))
    lines = {"videos": _counts(dataset, len(failures))}
    if failures:
        dataset = dataset.isel(video=np.flatnonzero(dataset["failed"].values == 0))
    settings = json.loads(dataset.attrs["settings"])
    estimator = settings.get("estimator", "not stated")
    classes = f"{dataset.sizes['class']}"
    if "choice" in dataset.sizes:
        classes += f", values kept of {', '.join(map(str, dataset['choice'].values))}"
    lines["classes"] = classes
    if dataset.sizes["video"]:
        lines |= _of_videos(dataset, str(estimator))
    else:
        lines["estimator"] = str(estimator)
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':<{width}}{text}" for name, text in lines.items())


def _counts(dataset: xarray.Dataset, n_failed: int) -> str:
    there = dataset.attrs.get("n_finished", dataset.sizes["video"])
    asked = dataset.attrs.get("n_videos", there)
    text = f"{there}" if there == asked else f"{there} of {asked} so far"
    return text + (f", {n_failed} failed" if n_failed else "")


def _of_videos(dataset: xarray.Dataset, estimator: str) -> dict[str, str]:
    """Lines about one or more videos that did not fail."""
    length, exact = dataset["length"].values, dataset["exact"].values
    n_exact, n_videos = int(exact.sum()), len(exact)
    how = {0: "sampled", n_videos: "exact"}.get(n_exact, f"{n_exact} of {n_videos} exact")
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
        "estimator": f"{estimator} ({how})",
        "accuracy": accuracy,
        "evidential score": f"{evidence.mean():.4f} (mean, predicted class)",
        "efficiency gap": f"{gap.max():.2g} (largest, {dataset['video'].values[gap.argmax()]})",
    }


def to_dataframe(
    dataset: xarray.Dataset, classes: str | int | Sequence[str | int] = "pred"
) -> pandas.DataFrame:
    """ESVs in long form: one row per video, element and class.

    Args:
      dataset: what `open` gives, or a selection of its videos.
      classes: "pred" (each video's predicted class), "gt" (its true class; videos without one are
        left out), "all", or class names or numbers, or the dataset's choices. A class that several
        of these name has one row, in the place of the first.
    Returns:
      Columns video, element, element_index where it is stored, class (its name), choice where the
      dataset has choices (those of `classes` that name the class: "gt", or "gt,pred" where both
      do), esv, std_error where it is stored, values of other methods, label, prediction (names; ""
      where unknown). Failed videos are left out.
    Raises:
      ValueError: classes that the dataset does not have; values that cannot be read.
    Cost: reads all values of the dataset's videos; "all" makes V * n * C rows.
    """
    pandas = require("pandas", "files")
    with reading(dataset):
        return pandas.DataFrame(_columns(dataset, classes))


def _columns(
    dataset: xarray.Dataset, classes: str | int | Sequence[str | int]
) -> dict[str, np.ndarray]:
    """Columns of the long form by name."""
    if "failed" in dataset:
        dataset = dataset.isel(video=np.flatnonzero(dataset["failed"].values == 0))
    names = [str(name) for name in dataset["class"].values]
    asked, places, ids = _class_of_values(dataset, classes, names)
    each = np.arange(len(ids))
    first = np.zeros((len(ids), len(names) + 1), int)  # column that a class has, -1 is the last
    for column in reversed(range(len(asked))):
        first[each, ids[:, column]] = column
    places = np.where(first[each[:, None], ids] == np.arange(len(asked)), places, -1)
    length = dataset["length"].values
    stored = [name for name in ("esv", "std_error") if name in dataset.variables]
    values = {name: dataset[name].values for name in (*stored, *other_methods(dataset))}
    video, element, k = np.nonzero(
        (np.arange(dataset.sizes["element"]) < length[:, None])[:, :, None]
        & (places >= 0)[:, None, :]
    )
    table: dict[str, Any] = {"video": dataset["video"].values[video], "element": element}
    if "element_index" in dataset:
        table["element_index"] = dataset["element_index"].values[video, element]
    table["class"] = np.array(names, object)[ids[video, k]]
    if "choice" in dataset.sizes:
        named = np.full(first.shape, "", object)  # choices of a class
        for name, own in zip(asked, ids.T, strict=True):
            before = named[each, own]
            named[each, own] = np.where(before == "", name, before + f",{name}")
        table["choice"] = named[video, ids[video, k]]
    for name, array in values.items():
        table[name] = array[video, element, places[video, k]]
    labelled = np.array([*names, ""], object)
    table["label"] = labelled[dataset["label"].values[video]]
    table["prediction"] = labelled[dataset["prediction"].values[video]]
    return table


def _class_of_values(
    dataset: xarray.Dataset, classes: str | int | Sequence[str | int], names: list[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The K classes asked for, as text, with their places and ids in every video.

    Returns:
      K names; places along the last axis of values, -1 for none; ids: both (V, K).
    """
    n_videos = dataset.sizes["video"]
    asked = [classes] if isinstance(classes, str | int) else list(classes)
    columns = []
    chosen = dataset["chosen"].values if "choice" in dataset.sizes else None
    choices = [] if chosen is None else [str(name) for name in dataset["choice"].values]
    if asked == ["all"]:
        asked = list(choices or range(len(names)))
    for name in asked:
        if chosen is not None:
            if str(name) not in choices:
                way_out = nearest(str(name), choices)
                raise ValueError(message("classes", f"among {choices}", repr(name), way_out))
            k = choices.index(str(name))
            columns.append((np.where(chosen[:, k] < 0, -1, k), chosen[:, k]))
            continue
        if name in ("pred", "gt"):
            ids = dataset["prediction" if name == "pred" else "label"].values
        elif str(name) in names:
            ids = np.full(n_videos, names.index(str(name)))
        elif isinstance(name, int) and 0 <= name < len(names):
            ids = np.full(n_videos, name)
        else:
            way_out = nearest(str(name), names)
            expected = "pred, gt, all, or names or numbers of classes"
            raise ValueError(message("classes", expected, repr(name), way_out))
        columns.append((ids, ids))
    places = np.stack([np.broadcast_to(place, n_videos) for place, _ in columns], axis=1)
    return [str(name) for name in asked], places, np.stack([ids for _, ids in columns], axis=1)


def collate(datasets: Mapping[str, xarray.Dataset]) -> xarray.Dataset:
    """Several sweeps side by side, on the videos that all of them explained.

    Args:
      datasets: by name (of the model, or number of frames), of one set of classes.
    Returns:
      A dataset with the dimension `sweep`; videos in the order of the first, elements padded to
      the longest with NaN. Variables that not all have are left out; `label` is that of the first
      that knows one. The settings of each are in the attribute `settings`, as JSON by name.
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
        if "failed" in dataset:
            dataset = dataset.isel(video=np.flatnonzero(dataset["failed"].values == 0))
        kept[name] = dataset
        common = common[common.isin(dataset.indexes["video"])]
        for what in ("class", "choice"):
            same = (what in dataset) == (what in first) and (
                what not in dataset or list(dataset[what].values) == list(first[what].values)
            )
            expected = f"the {what} dimension of {first_name!r}"
            expect(same, f"datasets[{name!r}]", expected, "another", "Collate sweeps of one kind.")
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
