"""Labelled sequences, the heads trained on them, and selections of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from esv_jax.data.ts import Sequences
from experiments.harness import require, sha256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Labelled:
    """Labelled sequences and the multi-scale model that classifies them.

    Attributes:
      trn: multi-scale heads with prior and class names.
      sequences: all elements of each, (n_i, D) float32.
      labels: (V,) true classes. uids: V names.
    """

    trn: ej.models.TrainedModel
    sequences: list[np.ndarray]
    labels: np.ndarray
    uids: Sequence[str]

    @cached_property
    def game(self) -> ej.MultiScale:
        """f^ms under the softmax link."""
        return ej.MultiScale(self.trn.heads)

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names."""
        return self.trn.class_names

    @property
    def lengths(self) -> np.ndarray:
        """Number of elements of each sequence, (V,)."""
        return np.array([len(x) for x in self.sequences])


def read_problem(
    folder: Path, problem: str, limit: int | None
) -> tuple[Sequences, Sequences, dict[str, str]]:
    """Both parts of a problem of the UEA archive, and the digests of their files by name.

    At most `limit` sequences of the test part are kept, evenly spaced.

    Raises:
      MissingDataError: a file is absent.
    """
    names = [f"{problem}_{part}.ts" for part in ("TRAIN", "TEST")]
    archive = f"They are the problem {problem} of the UEA archive, in .ts format."
    require(folder, names, "--data", archive)
    train, test = (ej.data.read_ts(folder / name) for name in names)
    rows = evenly(np.arange(len(test)), limit)
    kept = dataclasses.replace(
        test,
        sequences=[test.sequences[i] for i in rows],
        labels=test.labels[rows],
        uids=tuple(test.uids[i] for i in rows),
    )
    return train, kept, {name: sha256(folder / name) for name in names}


def train_on(learn: Any, train: Sequences, config: ej.models.TrainConfig) -> Any:
    """The model of `train_heads` or `train_tsn`, with a progress bar."""
    names = train.class_names
    return learn(
        train.sequences, train.labels, len(names), config, class_names=names, progress=True
    )


def evenly(rows: np.ndarray, most: int | None) -> np.ndarray:
    """At most `most` of the rows, evenly spaced; None for all."""
    if most is None or len(rows) <= most:
        return rows
    return rows[ej.data.segment_centres(len(rows), most)]


def elements_of(sequences: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Indices of the n elements at segment centres; of all elements of shorter sequences."""
    return [ej.data.segment_centres(len(x), min(n, len(x))) for x in sequences]
