"""What the figures are drawn of: labelled sequences, a multi-scale model and an average consensus.

  synthetic         clips of `data.synthetic_videos` under the model that comes with the package
  japanese-vowels   the UEA data set of that name; heads are trained on its training part
  basic-motions     likewise
  features          one's own: an HDF5 file of features and a model, such as those imported from
                    the public project of Play Fair

Of the first three an average-consensus model (TSN) is trained on the same features. What is
trained is kept in `<out>/<subject>/models` and found there by later runs of the same settings.
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
from experiments.records import as_json, sha256

SubjectName = Literal["synthetic", "japanese-vowels", "basic-motions", "features"]
_PROBLEMS = {"japanese-vowels": "JapaneseVowels", "basic-motions": "BasicMotions"}
_CLIP_FRAMES = 32


class MissingDataError(FileNotFoundError):
    """Data that an experiment was asked for is not there; says what is expected where."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which subject, and where its files are."""

    subject: SubjectName = "synthetic"
    """synthetic videos, a data set of the UEA archive, or one's own features."""
    features: Path | None = None
    """Of "features": an HDF5 file of features, as `esv-jax extract` or play-fair write it."""
    model: Path | None = None
    """Of "features": the multi-scale model, .safetensors of `import-play-fair` or `train`."""
    tsn: Path | None = None
    """Of "features": an average-consensus model of the same features; figure 4a needs it."""
    label: str | None = None
    """Of "features": which label is the class; by default "action", or the only one."""
    data: Path = Path("../shared/data/series")
    """Folder of the `.ts` files; the default is beside a checkout, seen from its root."""
    limit: int | None = None
    """Sequences to measure on; by default 1,000 synthetic clips, all of the others."""
    train_clips: int = 2000
    """Synthetic clips that the average consensus is trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Labelled sequences and the models that are asked about them.

    Attributes:
      name: as on the command line. title: for pictures.
      trn: multi-scale heads with prior and class names. tsn: average consensus, or None.
      sequences: every element there is of each, (n_i, D) float32.
      labels: (V,) true classes. uids: V names.
      baseline: (D,) mean feature of the training sequences where there are any, else of these.
      about: digests of data and weights, for the summary.
      draw: frames of sequence i at given indices, uint8 (n, h, w, 3); None of mere features.
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
        """Elements of each sequence, (V,)."""
        return np.array([len(x) for x in self.sequences])

    def at_centres(self, n: int) -> Elements:
        """The n elements at segment centres of every sequence that has as many."""
        rows = np.flatnonzero(self.lengths >= n)
        if not len(rows):
            got = f"at most {self.lengths.max()}"
            raise ValueError(message("n", f"sequences of at least {n} elements", got))
        index = np.stack([ej.data.segment_centres(len(self.sequences[i]), n) for i in rows])
        return self.take(rows, index)

    def take(self, rows: np.ndarray, index: np.ndarray) -> Elements:
        """Elements at given indices (V', n) of some sequences."""
        xs = np.stack([self.sequences[i][at] for i, at in zip(rows, index, strict=True)])
        return Elements(rows, index, xs, self.labels[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Elements:
    """The same number of elements of some sequences of a subject.

    Attributes:
      rows: (V',) which sequences. index: (V', n) which of their elements.
      xs: (V', n, D) features. labels: (V',) true classes.
    """

    rows: np.ndarray
    index: np.ndarray
    xs: np.ndarray
    labels: np.ndarray


def explain_true(game: Any, prior: np.ndarray, elements: Elements) -> tuple[np.ndarray, np.ndarray]:
    """Exact ESVs (V', n, C) and scores (V', C) of the elements, float64 on the host."""
    batch = ej.explain_batch(game, elements.xs, prior=prior, estimator=ej.Exact())
    batch = jax.device_get(batch)
    return np.asarray(batch.values, float), np.asarray(batch.scores, float)


def load_subject(choice: Choice, out: Path, seed: int) -> Subject:
    """The subject, its models trained or loaded.

    Raises:
      MissingDataError: files that are not there, with what is expected where.
      ValueError, TypeError: files that do not fit each other, naming them.
    """
    if choice.subject == "synthetic":
        return _synthetic(choice, out, seed)
    if choice.subject == "features":
        return _features(choice)
    return _series(choice, out, seed)


def _synthetic(choice: Choice, out: Path, seed: int) -> Subject:
    """Held-out clips of 32 frames; every frame is encoded, so that figures may choose."""
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
    digest = ej.models.video_model_digest(model)
    stem = ("tsn", digest, choice.train_clips, seed)
    config = ej.models.TrainConfig(seed=seed, max_epochs=60)
    tsn = _kept(
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
            "tsn_digest": ej.models.model_digest(tsn),
            "n_sequences": n,
        },
        draw=lambda i, index: clips.clips[i][index],
    )


def _series(choice: Choice, out: Path, seed: int) -> Subject:
    """A data set of labelled series; both models are trained on its training part."""
    problem = _PROBLEMS[choice.subject]
    paths = [choice.data / f"{problem}_{part}.ts" for part in ("TRAIN", "TEST")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise MissingDataError(
            f"No {' and '.join(missing)} in {choice.data}. Both come with the problem {problem} of"
            " the UEA archive of time series classification (.ts format); name their folder with"
            " --data."
        )
    train, test = map(ej.data.read_ts, paths)
    rows = np.arange(len(test))
    if choice.limit is not None and choice.limit < len(test):
        rows = ej.data.segment_centres(len(test), choice.limit)
    digests = [sha256(path) for path in paths]
    config = ej.models.TrainConfig(seed=seed)
    models = {
        name: _kept(
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
            **{f"{name}_digest": ej.models.model_digest(m) for name, m in models.items()},
            "n_sequences": len(rows),
        },
    )


def _features(choice: Choice) -> Subject:
    """Features and models of one's own."""
    for option, path, what in [
        ("--features", choice.features, "an HDF5 file of features (esv-jax extract, or play-fair)"),
        ("--model", choice.model, "a .safetensors model (esv-jax import-play-fair, or train)"),
    ]:
        if path is None or not path.is_file():
            got = "none was named" if path is None else f"there is no {path}"
            raise MissingDataError(f"{option}: {what} is needed, {got}.")
    if choice.tsn is not None and not choice.tsn.is_file():
        raise MissingDataError(f"--tsn: there is no {choice.tsn}.")
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
            "trn_digest": ej.models.model_digest(trn),
            **({} if tsn is None else {"tsn_digest": ej.models.model_digest(tsn)}),
            "n_sequences": len(uids),
        },
    )


def _model(path: Path) -> ej.models.TrainedModel:
    """A model of features, also out of a file that holds a frame encoder beside it."""
    if ej.models.holds_encoder(path):
        return ej.models.load_video_model(path).trained
    return ej.models.load_model(path)


def _kept(
    folder: Path, named: tuple[Any, ...], config: Any, train: Callable[[], ej.models.TrainedModel]
) -> ej.models.TrainedModel:
    """The model trained before with these settings on these data, or one trained now and kept."""
    text = json.dumps([*named, as_json(config)])
    path = folder / f"{named[0]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if path.is_file():
        return ej.models.load_model(path)
    model = train()
    ej.models.save_model(path, model)
    return model
