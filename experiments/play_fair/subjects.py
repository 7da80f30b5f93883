"""Labelled sequences and models that the figures are measured on.

  synthetic         clips of `data.synthetic_videos`, under the model that comes with the package
  japanese-vowels   the UEA data set of that name; heads are trained on its training part
  basic-motions     the same for BasicMotions
  features          an HDF5 file of features and a model, for example those imported from the
                    public project of Play Fair

For the first three an average-consensus model (TSN) is trained on the same features. Trained
models are stored in `<out>/<subject>/models` and reused by later runs with the same settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import esv_jax as ej
from esv_jax.checks import message
from esv_jax.data.ts import Sequences
from esv_jax.models.trained import model_digest
from esv_jax.models.video_model import holds_encoder, video_model_digest
from experiments.harness import MissingDataError, as_json, sha256
from experiments.sequences import Labelled, evenly, read_problem, train_on

SubjectName = Literal["synthetic", "japanese-vowels", "basic-motions", "features"]
_PROBLEMS = {"japanese-vowels": "JapaneseVowels", "basic-motions": "BasicMotions"}
_CLIP_FRAMES = 32


@dataclasses.dataclass(frozen=True)
class Choice:
    """Name of the subject, and paths of its files."""

    subject: SubjectName = "synthetic"
    """Synthetic videos, a data set of the UEA archive, or features from a file."""
    features: Path | None = None
    """For "features": HDF5 file of features, written by `esv-jax extract` or play-fair."""
    model: Path | None = None
    """For "features": multi-scale model, .safetensors of `import-play-fair` or `train`."""
    tsn: Path | None = None
    """For "features": average-consensus model of the same features; figure 4a needs it."""
    label: str | None = None
    """For "features": name of the label; by default "action", else the first."""
    data: Path = Path("../shared/data/series")
    """Folder of the `.ts` files; the default is relative to the root of a checkout."""
    limit: int | None = None
    """Number of sequences; by default 1,000 synthetic clips, or all of another subject."""
    train_clips: int = 2000
    """Synthetic clips to train the average consensus on."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Subject(Labelled):
    """Labelled sequences and the models that classify them.

    Attributes:
      name: as on the command line. title: for pictures.
      tsn: average consensus, or None.
      baseline: (D,) mean feature of the training sequences, or of these where there are none.
      about: digests of data and weights, for the summary.
      draw: frames of sequence i at given indices, uint8 (n, h, w, 3); None for features.
    """

    name: str
    title: str
    tsn: ej.models.TrainedModel | None
    baseline: np.ndarray
    about: dict[str, Any]
    draw: Callable[[int, np.ndarray], np.ndarray] | None = None

    @cached_property
    def tsn_game(self) -> ej.AverageConsensus | None:
        """The average consensus under the softmax link."""
        if self.tsn is None:
            return None
        head = self.tsn.heads
        return ej.AverageConsensus(head.w, head.b, input_relu=head.input_relu)

    def at_centres(self, n: int, rows: np.ndarray | None = None) -> Elements:
        """The n elements at segment centres of some sequences, by default all of at least n.

        Raises:
          ValueError: no sequence has n elements.
        """
        if rows is None:
            rows = np.flatnonzero(self.lengths >= n)
        if not len(rows):
            got = f"at most {self.lengths.max()}"
            raise ValueError(message("n", f"sequences of at least {n} elements", got))
        index = np.stack([ej.data.segment_centres(len(self.sequences[i]), n) for i in rows])
        return self.take(rows, index)

    def take(self, rows: np.ndarray, index: np.ndarray) -> Elements:
        """Elements at indices (V', n) of some sequences."""
        xs = np.stack([self.sequences[i][at] for i, at in zip(rows, index, strict=True)])
        return Elements(rows, index, xs, self.labels[rows], [self.uids[i] for i in rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Elements:
    """The same number of elements of some sequences of a subject.

    Attributes:
      rows: (V',) indices of the sequences. index: (V', n) indices of their elements.
      xs: (V', n, D) features. labels: (V',) true classes. uids: V' names.
    """

    rows: np.ndarray
    index: np.ndarray
    xs: np.ndarray
    labels: np.ndarray
    uids: list[str]


def explain_exactly(
    game: Any, prior: np.ndarray, elements: Elements
) -> tuple[np.ndarray, np.ndarray]:
    """Exact ESVs (V', n, C) and scores (V', C) of the elements, float64 on the host."""
    batch = jax.device_get(ej.explain_batch(game, elements.xs, prior=prior, estimator=ej.Exact()))
    return np.asarray(batch.values, float), np.asarray(batch.scores, float)


def true_class_esv(game: Any, prior: np.ndarray, elements: Elements) -> np.ndarray:
    """Exact ESVs (V', n) of the true class."""
    return of_class(explain_exactly(game, prior, elements)[0], elements.labels)


def of_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Values (V, n) of one class per sequence, from (V, n, C)."""
    return values[np.arange(len(values)), :, classes]


def load_subject(choice: Choice, out: Path, seed: int) -> Subject:
    """Loads a subject; trains its models or loads them.

    Raises:
      MissingDataError: a file is absent.
      ValueError, TypeError: files do not fit each other.
    """
    if choice.subject == "synthetic":
        return _synthetic(choice, out, seed)
    if choice.subject == "features":
        return _features(choice)
    return _series(choice, out, seed)


def _synthetic(choice: Choice, out: Path, seed: int) -> Subject:
    """Held-out clips of 32 frames, every frame encoded."""
    model = ej.models.load_synthetic_world()
    n = 1000 if choice.limit is None else choice.limit
    clips = ej.data.synthetic_videos(n, key=jax.random.key(30_000 + seed), n_frames=_CLIP_FRAMES)
    videos = ej.data.synthetic_videos(
        choice.train_clips,
        key=jax.random.key(40_000 + seed),
        n_frames=_CLIP_FRAMES,
        frames=ej.data.segment_centres(_CLIP_FRAMES, 8),
    )
    encoded = [np.asarray(model.encoder(clip)) for clip in videos.clips]
    names, uids = model.trained.class_names, tuple(f"clip-{i}" for i in range(len(encoded)))
    train = Sequences(encoded, videos.labels, names, uids, "synthetic")
    digest = video_model_digest(model)
    stem = ("tsn", digest, choice.train_clips, seed)
    config = ej.models.TrainConfig(seed=seed, max_epochs=60)
    tsn = _stored(out, stem, config, ej.models.train_tsn, train)
    return Subject(
        name=choice.subject,
        title="synthetic videos",
        trn=model.trained,
        tsn=tsn,
        sequences=[np.asarray(model.encoder(clip)) for clip in clips.clips],
        labels=np.asarray(clips.labels),
        uids=[f"clip-{i}" for i in range(n)],
        baseline=np.concatenate(encoded).mean(0),
        about={"trn_digest": digest, "tsn_digest": model_digest(tsn), "n_sequences": n},
        draw=lambda i, index: clips.clips[i][index],
    )


def _series(choice: Choice, out: Path, seed: int) -> Subject:
    """Labelled series, with both models trained on the training part."""
    problem = _PROBLEMS[choice.subject]
    train, test, data = read_problem(choice.data, problem, choice.limit)
    config, digest = ej.models.TrainConfig(seed=seed), data[f"{problem}_TRAIN.ts"]
    trn, tsn = (
        _stored(out, (name, digest, seed), config, learn, train)
        for name, learn in (("trn", ej.models.train_heads), ("tsn", ej.models.train_tsn))
    )
    return Subject(
        name=choice.subject,
        title=problem,
        trn=trn,
        tsn=tsn,
        sequences=[np.asarray(x, np.float32) for x in test.sequences],
        labels=np.asarray(test.labels),
        uids=test.uids,
        baseline=np.concatenate(train.sequences).mean(0).astype(np.float32),
        about={
            "data": data,
            "trn_digest": model_digest(trn),
            "tsn_digest": model_digest(tsn),
            "n_sequences": len(test),
        },
    )


def _features(choice: Choice) -> Subject:
    """Features and models from files."""
    models = "a .safetensors model (esv-jax import-play-fair, or train)"
    for option, path, kind in (
        ("--features", choice.features, "an HDF5 file of features (esv-jax extract, or play-fair)"),
        ("--model", choice.model, models),
        ("--tsn", choice.tsn, models),
    ):
        if (path is None and option != "--tsn") or (path is not None and not path.is_file()):
            got = "none" if path is None else f"{path}, which does not exist"
            raise MissingDataError(f"{option}: expected {kind}, got {got}.")
    trn = _model(choice.model)
    tsn = None if choice.tsn is None else _model(choice.tsn)
    with ej.data.FeatureStore(choice.features) as store:
        uids = evenly(np.array(store.uids, object), choice.limit).tolist()
        sequences, found = zip(*(store[uid] for uid in uids), strict=True)
    known = sorted(found[0])
    label = choice.label or ("action" if "action" in known else known[0] if known else None)
    if label not in known:
        raise ValueError(message("label", f"one of {known} of {choice.features}", repr(label)))
    return Subject(
        name=choice.subject,
        title=choice.features.stem,
        trn=trn,
        tsn=tsn,
        sequences=list(sequences),
        labels=np.array([labels[label] for labels in found]),
        uids=uids,
        baseline=np.asarray(jax.numpy.concatenate(sequences).mean(0)),
        about={
            "data": {choice.features.name: sha256(choice.features)},
            "trn_digest": model_digest(trn),
            **({} if tsn is None else {"tsn_digest": model_digest(tsn)}),
            "n_sequences": len(uids),
        },
    )


def _model(path: Path) -> ej.models.TrainedModel:
    """A model of features, also from a file that contains a frame encoder."""
    if holds_encoder(path):
        return ej.models.load_video_model(path).trained
    return ej.models.load_model(path)


def _stored(
    out: Path, stem: tuple[Any, ...], config: Any, learn: Any, train: Sequences
) -> ej.models.TrainedModel:
    """The stored model of these settings and data; trained and stored where absent."""
    name = hashlib.sha256(json.dumps([*stem, as_json(config)]).encode()).hexdigest()[:12]
    path = out / "models" / f"{stem[0]}-{name}.safetensors"
    if path.is_file():
        return ej.models.load_model(path)
    model = train_on(learn, train, config)
    ej.models.save_model(path, model)
    return model
