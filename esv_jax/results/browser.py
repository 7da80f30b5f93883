"""List of the videos of stored explanations: filtered, sorted, read one at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_choice
from esv_jax.results.layout import other_methods, reading
from esv_jax.results.sequences import load_attribution

if TYPE_CHECKING:
    import xarray

SORTS = ("file", "uid", "evidence", "score", "gap", "length")


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
        has_choices = "choice" in dataset.sizes
        self.choices = tuple(map(str, dataset["choice"].values)) if has_choices else None
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
        kept = np.array([search.lower() in uid.lower() for uid in self._uids], bool)
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
        i = self._row_of[uid]
        if "element_index" not in self.dataset:
            return np.arange(self._length[i])
        with reading(self.dataset):
            return self.dataset["element_index"].isel(video=i).values[: self._length[i]]
