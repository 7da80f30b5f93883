"""Results as people look through them: filtered, sorted, one video at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_choice
from esv_jax.results.layout import other_methods, reading
from esv_jax.results.sequences import load_attribution

if TYPE_CHECKING:
    import xarray

SORTS = ("file", "uid", "evidence", "score", "gap", "length")


class VideoRow(NamedTuple):
    """One video in a list.

    Attributes:
      uid: its name. n: elements explained.
      label, prediction: class numbers, -1 where unknown or failed.
      score, evidence: of the predicted class: f(X), and f(X) less the prior; NaN if failed.
      gap: largest |sum of ESVs - evidence| over classes.
      exact: whether values are exact. failed: the reason, "" where it was explained.
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
        """Return whether the prediction is right; None where that is not known."""
        known = self.label >= 0 and self.prediction >= 0
        return self.prediction == self.label if known else None


class Browser:
    """The videos of a dataset; what lists need is held in memory, values are read when asked for.

    Attributes:
      dataset: what `results.open` gave.
      class_names: C names. choices: names of the classes that values are stored of, or None.
      failures: reasons by uid.
      methods: names of the other methods whose values are stored beside ESVs.
    Cost: one pass over scores and the numbers per video; 25,000 videos of 174 classes take about
      20 MB and a fraction of a second.
    """

    def __init__(self, dataset: xarray.Dataset) -> None:
        """Read what lists need."""
        self.dataset = dataset
        self.class_names = tuple(str(name) for name in dataset["class"].values)
        self.choices = (
            tuple(map(str, dataset["choice"].values)) if "choice" in dataset.sizes else None
        )
        self.methods = other_methods(dataset)
        self.failures: dict[str, str] = json.loads(dataset.attrs.get("failures", "{}"))
        self._uids = np.array([str(uid) for uid in dataset["video"].values], object)
        self._place = {uid: place for place, uid in enumerate(self._uids)}
        names = ("length", "label", "prediction", "exact", "efficiency_gap", "scores", "prior")
        with reading(dataset):
            read = [dataset[name].values for name in names]
        self._length, self._label, self._prediction, self._exact, self._gap, scores, prior = read
        at, prior = np.maximum(self._prediction, 0), np.broadcast_to(prior, scores.shape)
        rows = np.arange(len(scores))
        self._score = scores[rows, at]
        self._evidence = self._score - prior[rows, at]

    def __len__(self) -> int:
        """Videos in all."""
        return len(self._uids)

    def __contains__(self, uid: object) -> bool:
        """Return whether there is a video of that name."""
        return uid in self._place

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
        """Uids of the videos that meet all conditions, sorted; ties in the order of the file.

        Args:
          search: part of the uid, in any case of letters.
          true_class, predicted_class: class numbers. correct: whether prediction and label agree;
            videos without a label are neither. failed: whether they could not be explained.
          sort: one of `SORTS`; videos without a number come last.
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
        places = np.flatnonzero(kept)
        if sort == "uid":
            order = np.argsort(self._uids[places].astype(str), kind="stable")
            order = order[::-1] if descending else order
        else:
            keys: dict[str, Any] = {
                "file": np.arange(len(self)),
                "evidence": self._evidence,
                "score": self._score,
                "gap": self._gap,
                "length": self._length,
            }
            key = keys[sort][places].astype(float)
            order = np.argsort(-key if descending else key, kind="stable")  # NaN is last
        return [str(uid) for uid in self._uids[places[order]]]

    def row(self, uid: str) -> VideoRow:
        """Return the row of a list for one video.

        Raises:
          ValueError: no such video.
        """
        expect(uid in self, "uid", f"one of {len(self)} videos", repr(uid))
        i = self._place[uid]
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
        """The values of one video; see `results.load_attribution`."""
        return load_attribution(self.dataset, uid)

    def method_values(self, uid: str) -> dict[str, np.ndarray]:
        """Values (n, C) of one video by each of `methods`.

        Raises:
          ValueError: no such video.
        """
        n = self.row(uid).n
        video = self.dataset.isel(video=self._place[uid])
        with reading(self.dataset):
            return {name: video[name].values[:n] for name in self.methods}

    def classes_of(self, uid: str) -> tuple[int, ...]:
        """Class numbers behind the last axis of the values of one video."""
        if self.choices is None:
            return tuple(range(len(self.class_names)))
        with reading(self.dataset):
            chosen = self.dataset["chosen"].isel(video=self._place[uid]).values
        return tuple(int(c) for c in chosen)

    def element_index(self, uid: str) -> np.ndarray:
        """Indices (n,) of a video's elements in the original sequence."""
        i, n = self._place[uid], int(self._length[self._place[uid]])
        if "element_index" not in self.dataset:
            return np.arange(n)
        with reading(self.dataset):
            return self.dataset["element_index"].isel(video=i).values[:n]
