"""Tables of stored explanations: summary, long form, collation, list of videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_choice, message, nearest
from esv_jax.extras import require
from esv_jax.results.layout import other_methods, reading
from esv_jax.results.sequences import load_attribution

if TYPE_CHECKING:
    import pandas
    import xarray

Classes = str | int | Sequence[str | int]
SORTS = ("file", "uid", "evidence", "score", "gap", "length")


def summary(dataset: xarray.Dataset) -> str:
    """Describe a dataset in a few lines: videos, estimator, accuracy, efficiency gap.

    Raises:
      ValueError: values that cannot be read, naming the file.
    """
    with reading(dataset):
        return _summary(dataset)


def _summary(dataset: xarray.Dataset) -> str:
    failures = json.loads(dataset.attrs.get("failures", "{}"))
    lines = {"videos": _counts(dataset, len(failures))}
    dataset = _without_failures(dataset)
    settings = json.loads(dataset.attrs["settings"])
    estimator = settings.get("estimator", "not stated")
    classes = f"{dataset.sizes['class']}"
    if "choice" in dataset.sizes:
        classes += f", values kept of {', '.join(map(str, dataset['choice'].values))}"
    lines["classes"] = classes
    if dataset.sizes["video"]:
        lines |= _statistics(dataset, str(estimator))
    else:
        lines["estimator"] = str(estimator)
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':<{width}}{text}" for name, text in lines.items())


def _without_failures(dataset: xarray.Dataset) -> xarray.Dataset:
    if "failed" not in dataset:
        return dataset
    return dataset.isel(video=np.flatnonzero(dataset["failed"].values == 0))


def _counts(dataset: xarray.Dataset, n_failed: int) -> str:
    n_finished = dataset.attrs.get("n_finished", dataset.sizes["video"])
    n_videos = dataset.attrs.get("n_videos", n_finished)
    text = f"{n_finished}" if n_finished == n_videos else f"{n_finished} of {n_videos} so far"
    return text + (f", {n_failed} failed" if n_failed else "")


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
    length = dataset["length"].values
    stored = [name for name in ("esv", "std_error") if name in dataset.variables]
    values = {name: dataset[name].values for name in (*stored, *other_methods(dataset))}
    video, element, k = np.nonzero(
        (np.arange(dataset.sizes["element"]) < length[:, None])[:, :, None]
        & (positions >= 0)[:, None, :]
    )
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
    n_videos = dataset.sizes["video"]
    requested = [classes] if isinstance(classes, str | int) else list(classes)
    columns = []
    chosen = dataset["chosen"].values if "choice" in dataset.sizes else None
    choices = [] if chosen is None else [str(name) for name in dataset["choice"].values]
    if requested == ["all"]:
        requested = list(choices or range(len(names)))
    for name in requested:
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


# One video at a time


class VideoRow(NamedTuple):
    """Numbers of one video.

    Attributes:
      uid: its name. n: number of elements.
      label, prediction: class numbers, -1 if unknown or failed.
      score, evidence: of the predicted class: f(X), and f(X) - prior; NaN if failed.
      gap: largest |sum of ESVs - evidence| over classes.
      exact: whether values are exact. failed: the reason, "" if it was explained.
    """

    uid: str
    n: int
    label: int
    prediction: int
    score: float
    evidence: float
    gap: float
    exact: bool
    failed: str

    @property
    def correct(self) -> bool | None:
        """Correctness of the prediction; None if unknown."""
        known = self.label >= 0 and self.prediction >= 0
        return self.prediction == self.label if known else None


class Browser:
    """Lists the videos of a dataset, filtered and sorted; reads their values one by one.

    Attributes:
      dataset: from `results.open`.
      class_names: C names. choices: names of the classes whose values are stored; None for all.
      failures: reasons by uid.
      methods: names of the other methods whose values are stored.
    Cost: one pass over scores and the numbers per video; 25,000 videos of 174 classes take about
      20 MB and a fraction of a second.
    """

    def __init__(self, dataset: xarray.Dataset) -> None:
        """Read scores and the numbers per video."""
        self.dataset = dataset
        self.class_names = tuple(str(name) for name in dataset["class"].values)
        self.choices = (
            tuple(map(str, dataset["choice"].values)) if "choice" in dataset.sizes else None
        )
        self.methods = other_methods(dataset)
        self.failures: dict[str, str] = json.loads(dataset.attrs.get("failures", "{}"))
        self._uids = np.array([str(uid) for uid in dataset["video"].values], object)
        self._row_of = {uid: row for row, uid in enumerate(self._uids)}
        names = ("length", "label", "prediction", "exact", "efficiency_gap", "scores", "prior")
        with reading(dataset):
            read = [dataset[name].values for name in names]
        self._length, self._label, self._prediction, self._exact, self._gap, scores, prior = read
        at, prior = np.maximum(self._prediction, 0), np.broadcast_to(prior, scores.shape)
        rows = np.arange(len(scores))
        self._score = scores[rows, at]
        self._evidence = self._score - prior[rows, at]

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._uids)

    def __contains__(self, uid: object) -> bool:
        """Return whether a video has that name."""
        return uid in self._row_of

    def find(
        self,
        *,
        search: str = "",
        true_class: int | None = None,
        predicted_class: int | None = None,
        correct: bool | None = None,
        failed: bool | None = None,
        sort: str = "file",
        descending: bool = False,
    ) -> list[str]:
        """Return the uids of the videos that meet all conditions; ties in the order of the file.

        Args:
          search: part of the uid, case-insensitive.
          true_class, predicted_class: class numbers. correct: whether prediction and label agree;
            videos without a label are neither. failed: whether they could not be explained.
          sort: one of `SORTS`; videos without a value come last.
        Raises:
          ValueError: on another `sort`.
        """
        expect_choice("sort", sort, SORTS)
        kept = np.ones(len(self), bool)
        if search:
            part = search.lower()
            kept &= np.array([part in uid.lower() for uid in self._uids], bool)
        if true_class is not None:
            kept &= self._label == true_class
        if predicted_class is not None:
            kept &= self._prediction == predicted_class
        if correct is not None:
            known = (self._label >= 0) & (self._prediction >= 0)
            kept &= known & ((self._label == self._prediction) == correct)
        if failed is not None:
            kept &= np.array([uid in self.failures for uid in self._uids], bool) == failed
        rows = np.flatnonzero(kept)
        if sort == "uid":
            order = np.argsort(self._uids[rows].astype(str), kind="stable")
            order = order[::-1] if descending else order
        else:
            keys = {
                "file": np.arange(len(self)),
                "evidence": self._evidence,
                "score": self._score,
                "gap": self._gap,
                "length": self._length,
            }
            key = keys[sort][rows].astype(float)
            order = np.argsort(-key if descending else key, kind="stable")  # NaN is last
        return [str(uid) for uid in self._uids[rows[order]]]

    def row(self, uid: str) -> VideoRow:
        """Return the numbers of one video.

        Raises:
          ValueError: no such video.
        """
        expect(uid in self, "uid", f"one of {len(self)} videos", repr(uid))
        i = self._row_of[uid]
        return VideoRow(
            uid=uid,
            n=int(self._length[i]),
            label=int(self._label[i]),
            prediction=int(self._prediction[i]),
            score=float(self._score[i]),
            evidence=float(self._evidence[i]),
            gap=float(self._gap[i]),
            exact=bool(self._exact[i]),
            failed=self.failures.get(uid, ""),
        )

    def attribution(self, uid: str) -> Attribution:
        """Return the values of one video; see `results.load_attribution`."""
        return load_attribution(self.dataset, uid)

    def method_values(self, uid: str) -> dict[str, np.ndarray]:
        """Return the values (n, C) of one video by each of `methods`.

        Raises:
          ValueError: no such video.
        """
        n = self.row(uid).n
        video = self.dataset.isel(video=self._row_of[uid])
        with reading(self.dataset):
            return {name: video[name].values[:n] for name in self.methods}

    def classes_of(self, uid: str) -> tuple[int, ...]:
        """Return the class numbers along the last axis of the values of one video."""
        if self.choices is None:
            return tuple(range(len(self.class_names)))
        with reading(self.dataset):
            chosen = self.dataset["chosen"].isel(video=self._row_of[uid]).values
        return tuple(int(c) for c in chosen)

    def element_index(self, uid: str) -> np.ndarray:
        """Return the indices (n,) of a video's elements in the original sequence."""
        i, n = self._row_of[uid], int(self._length[self._row_of[uid]])
        if "element_index" not in self.dataset:
            return np.arange(n)
        with reading(self.dataset):
            return self.dataset["element_index"].isel(video=i).values[:n]
