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
from esv_jax.models.trained import model_digest
from esv_jax.models.video_model import holds_encoder, video_model_digest
from experiments.harness import MissingDataError, as_json, require, sha256

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


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Labelled sequences and the models that classify them.

    Attributes:
      name: as on the command line. title: for pictures.
      trn: multi-scale heads with prior and class names. tsn: average consensus, or None.
      sequences: all elements of each, (n_i, D) float32.
      labels: (V,) true classes. uids: V names.
      baseline: (D,) mean feature of the training sequences, or of these where there are none.
      about: digests of data and weights, for the summary.
      draw: frames of sequence i at given indices, uint8 (n, h, w, 3); None for features.
    """

    name: str
    title: str
    trn: ej.models.TrainedModel
    tsn: ej.models.TrainedModel | None
    sequences: list[np.ndarray]
    labels: np.ndarray
    uids: list[str]
    baseline: np.ndarray
    about: dict[str, Any]
    draw: Callable[[int, np.ndarray], np.ndarray] | None = None

    @cached_property
    def game(self) -> ej.MultiScale:
        """f^ms under the softmax link."""
        return ej.MultiScale(self.trn.heads)

    @cached_property
    def tsn_game(self) -> ej.AverageConsensus | None:
        """The average consensus under the softmax link."""
        if self.tsn is None:
            return None
        head = self.tsn.heads
        return ej.AverageConsensus(head.w, head.b, input_relu=head.input_relu)

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names."""
        return self.trn.class_names

    @property
    def lengths(self) -> np.ndarray:
        """Number of elements of each sequence, (V,)."""
        return np.array([len(x) for x in self.sequences])

    def at_centres(self, n: int) -> Elements:
        """The n elements at segment centres of every sequence that has at least n.

        Raises:
          ValueError: no sequence has n elements.
        """
        rows = np.flatnonzero(self.lengths >= n)
        if not len(rows):
            got = f"at most {self.lengths.max()}"
            raise ValueError(message("n", f"sequences of at least {n} elements", got))
        index = np.stack([ej.data.segment_centres(len(self.sequences[i]), n) for i in rows])
        return self.take(rows, index)

    def take(self, rows: np.ndarray, index: np.ndarray) -> Elements:
        """Elements at indices (V', n) of some sequences."""
        xs = np.stack([self.sequences[i][at] for i, at in zip(rows, index, strict=True)])
        return Elements(rows, index, xs, self.labels[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Elements:
    """The same number of elements of some sequences of a subject.

    Attributes:
      rows: (V',) indices of the sequences. index: (V', n) indices of their elements.
      xs: (V', n, D) features. labels: (V',) true classes.
    """

    rows: np.ndarray
    index: np.ndarray
    xs: np.ndarray
    labels: np.ndarray


def explain_exactly(
    game: Any, prior: np.ndarray, elements: Elements
) -> tuple[np.ndarray, np.ndarray]:
    """Exact ESVs (V', n, C) and scores (V', C) of the elements, float64 on the host."""
    batch = jax.device_get(ej.explain_batch(game, elements.xs, prior=prior, estimator=ej.Exact()))
    return np.asarray(batch.values, float), np.asarray(batch.scores, float)


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
    sequences = [np.asarray(model.encoder(clip)) for clip in clips.clips]
    train_key = jax.random.key(40_000 + seed)
    centres = ej.data.segment_centres(_CLIP_FRAMES, 8)
    videos = ej.data.synthetic_videos(
        choice.train_clips, key=train_key, n_frames=_CLIP_FRAMES, frames=centres
    )
    train = [np.asarray(model.encoder(clip)) for clip in videos.clips]
    names = model.trained.class_names
    digest = video_model_digest(model)
    stem = ("tsn", digest, choice.train_clips, seed)
    config = ej.models.TrainConfig(seed=seed, max_epochs=60)
    tsn = _stored(
        out / "models",
        stem,
        config,
        lambda: ej.models.train_tsn(
            train, videos.labels, len(names), config, class_names=names, progress=True
        ),
    )
    return Subject(
        name=choice.subject,
        title="synthetic videos",
        trn=model.trained,
        tsn=tsn,
        sequences=sequences,
        labels=np.asarray(clips.labels),
        uids=[f"clip-{i}" for i in range(n)],
        baseline=np.concatenate(train).mean(0),
        about={
            "trn_digest": digest,
            "tsn_digest": model_digest(tsn),
            "n_sequences": n,
        },
        draw=lambda i, index: clips.clips[i][index],
    )


def _series(choice: Choice, out: Path, seed: int) -> Subject:
    """Labelled series, with both models trained on the training part."""
    problem = _PROBLEMS[choice.subject]
    paths = [choice.data / f"{problem}_{part}.ts" for part in ("TRAIN", "TEST")]
    archive = f"They are the problem {problem} of the UEA archive, in .ts format."
    require(choice.data, [path.name for path in paths], "--data", archive)
    train, test = map(ej.data.read_ts, paths)
    rows = np.arange(len(test))
    if choice.limit is not None and choice.limit < len(test):
        rows = ej.data.segment_centres(len(test), choice.limit)
    digests = [sha256(path) for path in paths]
    config = ej.models.TrainConfig(seed=seed)
    models = {
        name: _stored(
            out / "models",
            (name, digests[0], seed),
            config,
            lambda learn=learn: learn(
                train.sequences,
                train.labels,
                len(train.class_names),
                config,
                class_names=train.class_names,
                progress=True,
            ),
        )
        for name, learn in [("trn", ej.models.train_heads), ("tsn", ej.models.train_tsn)]
    }
    return Subject(
        name=choice.subject,
        title=problem,
        trn=models["trn"],
        tsn=models["tsn"],
        sequences=[np.asarray(test.sequences[i], np.float32) for i in rows],
        labels=np.asarray(test.labels)[rows],
        uids=[test.uids[i] for i in rows],
        baseline=np.concatenate(train.sequences).mean(0).astype(np.float32),
        about={
            "data": {path.name: digest for path, digest in zip(paths, digests, strict=True)},
            **{f"{name}_digest": model_digest(m) for name, m in models.items()},
            "n_sequences": len(rows),
        },
    )


def _features(choice: Choice) -> Subject:
    """Features and models from files."""
    for option, path, kind in [
        ("--features", choice.features, "an HDF5 file of features (esv-jax extract, or play-fair)"),
        ("--model", choice.model, "a .safetensors model (esv-jax import-play-fair, or train)"),
    ]:
        if path is None or not path.is_file():
            got = "none" if path is None else f"{path}, which does not exist"
            raise MissingDataError(f"{option}: expected {kind}, got {got}.")
    if choice.tsn is not None and not choice.tsn.is_file():
        raise MissingDataError(f"--tsn: {choice.tsn} does not exist.")
    trn = _model(choice.model)
    tsn = None if choice.tsn is None else _model(choice.tsn)
    with ej.data.FeatureStore(choice.features) as store:
        uids = list(store.uids)
        if choice.limit is not None and choice.limit < len(uids):
            uids = [uids[i] for i in ej.data.segment_centres(len(uids), choice.limit)]
        found = [store[uid] for uid in uids]
    known = sorted(found[0][1])
    label = choice.label or ("action" if "action" in known else known[0] if known else None)
    if label not in known:
        raise ValueError(message("label", f"one of {known} of {choice.features}", repr(label)))
    sequences = [x for x, _ in found]
    return Subject(
        name=choice.subject,
        title=choice.features.stem,
        trn=trn,
        tsn=tsn,
        sequences=sequences,
        labels=np.array([labels[label] for _, labels in found]),
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
    folder: Path, stem: tuple[Any, ...], config: Any, train: Callable[[], ej.models.TrainedModel]
) -> ej.models.TrainedModel:
    """The stored model of these settings and data; trained and stored where absent."""
    text = json.dumps([*stem, as_json(config)])
    path = folder / f"{stem[0]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if path.is_file():
        return ej.models.load_model(path)
    model = train()
    ej.models.save_model(path, model)
    return model
