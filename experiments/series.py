"""Training, explaining and discarding on labelled `.ts` sequences, from one command.

What `japanese_vowels` and `basic_motions` share: settings, the course of a run, what it leaves.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

import esv_jax as ej
from esv_jax.checks import expect, expect_int
from experiments import series_figures as figures
from experiments import series_measures as measures
from experiments import series_report as report
from experiments.records import as_json, sha256, surroundings, write_json

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One data set and what is claimed of it.

    Attributes:
      name: of the script and its results.
      problem: files are `<problem>_TRAIN.ts` and `<problem>_TEST.ts`.
      expected_accuracy: least accuracy of f^ms from all elements.
      about: the script's docstring.
    """

    name: str
    problem: str
    expected_accuracy: float
    about: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the data they determine its numbers on one backend."""

    out: Path
    """Folder for the results; made if absent, and files of an earlier run are replaced."""
    data: Path = Path("../shared/data/series")
    """Folder of the `.ts` files; the default is beside a checkout, seen from its root."""
    seed: int = 0
    """Seed of training, sampling, random orders and bootstrap."""
    n_elements: int = 16
    """Elements of a sequence that are explained exactly, at segment centres; each more doubles the
    time."""
    n_max: int = 8
    """Largest scale with its own head."""
    max_epochs: int = 200
    """Passes over the training sequences."""
    max_subsequences: int = 256
    """Subsequences drawn per scale for sampled ESVs."""
    iterations: int = 4
    """Independent passes for sampled ESVs; two or more give a standard error."""
    n_random: int = 4
    """Random orders of dropping elements, drawn for each sequence."""
    n_resamples: int = 2000
    """Bootstrap resamples of the sequences."""
    limit: int | None = None
    """Measure on this many test sequences only, spread evenly over the file."""

    def __post_init__(self) -> None:
        """Refuse counts below 1; the library asks about the rest."""
        for name in ("n_elements", "n_random", "n_resamples", "limit"):
            if getattr(self, name) is not None:
                expect_int(name, getattr(self, name), minimum=1)


def main(experiment: Experiment, args: Sequence[str] | None = None) -> int:
    """Run from the command line: 0 when done, 2 where the data is missing."""
    default = Settings(out=Path("results") / experiment.name)
    prog = f"python -m experiments.{experiment.name}"
    settings = tyro.cli(
        Settings, prog=prog, description=experiment.about, default=default, args=args
    )
    missing = [path.name for path in _files(experiment, settings) if not path.is_file()]
    if missing:
        print(f"No {' and '.join(missing)} in {settings.data}; see --data.", file=sys.stderr)
        return 2
    print(report.table(run(experiment, settings)))
    return 0


def run(experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """Train, measure, write everything to `settings.out`; what `summary.json` holds."""
    settings.out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    evaluate_key, sample_key = jax.random.split(jax.random.key(settings.seed))
    train_path, test_path = _files(experiment, settings)
    train, test = ej.data.read_ts(train_path), ej.data.read_ts(test_path)
    rows = _measured(test, settings)

    with _timed(seconds, "train"):
        config = ej.models.TrainConfig(
            n_max=settings.n_max, max_epochs=settings.max_epochs, seed=settings.seed
        )
        model = ej.models.train_heads(
            train.sequences,
            train.labels,
            len(train.class_names),
            config,
            class_names=train.class_names,
            progress=True,
        )
    ej.models.save_model(settings.out / "model.safetensors", model)
    subject = measures.Subject(
        model=model,
        sequences=[test.sequences[i] for i in rows],
        labels=test.labels[rows],
        uids=[test.uids[i] for i in rows],
    )
    elements = measures.elements_of(subject.sequences, settings.n_elements)
    everything = [np.arange(len(x)) for x in subject.sequences]
    sampler = ej.Constructive(settings.max_subsequences, settings.iterations)

    with _timed(seconds, "exact ESVs"):
        exact = measures.explain_all(subject, elements, ej.Exact(), tqdm, desc="exact ESVs")
    with _timed(seconds, "accuracy by elements"):
        sizes = [n for n in _SIZES if n <= settings.n_elements]
        accuracy = measures.accuracy_by_elements(
            subject, exact, sizes, settings.n_elements, tqdm, key=evaluate_key
        )
    with _timed(seconds, "sampled ESVs, same elements"):
        desc = "sampled ESVs of the same elements"
        same = measures.explain_all(subject, elements, sampler, tqdm, key=sample_key, desc=desc)
    with _timed(seconds, "sampled ESVs, all elements"):
        desc = "sampled ESVs of all elements"
        sampled = measures.explain_all(
            subject, everything, sampler, tqdm, key=sample_key, desc=desc
        )
    with _timed(seconds, "discarding"):
        discarded = _discard(subject, elements, exact, settings)

    gap = max(float(abs(record.efficiency_gap()).max()) for record in exact)
    summary = {
        "experiment": experiment.name,
        "claims": report.claims(experiment.expected_accuracy, accuracy, discarded, gap),
        "seed": settings.seed,
        "settings": as_json(settings),
        "training": {
            **dataclasses.asdict(config),
            "epochs": len(model.history.train_loss),
            "best_epoch": model.history.best_epoch,
        },
        "weights_digest": ej.models.model_digest(model),
        "data": {path.name: sha256(path) for path in (train_path, test_path)},
        "n_train": len(train),
        "n_test": len(subject.labels),
        "lengths": [int(subject.lengths.min()), int(subject.lengths.max())],
        "accuracy_by_elements": accuracy,
        "efficiency_gap": gap,
        "agreement": measures.agreement(same, exact, subject.labels, settings.max_subsequences),
        "discard": discarded,
        **surroundings(),
        "wall_seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    _save(settings.out / "exact.nc", subject, exact, elements, settings, "Exact()")
    _save(settings.out / "sampled.nc", subject, sampled, everything, settings, repr(sampler))
    title = experiment.problem
    figures.plot_accuracy(accuracy, settings.out / "accuracy_by_elements.png", title)
    figures.plot_discard(discarded, settings.out / "discard.png", title)
    figures.plot_examples(subject, elements, exact, settings.out)
    write_json(settings.out / "summary.json", summary)
    return summary


def _files(experiment: Experiment, settings: Settings) -> tuple[Path, Path]:
    train, test = (settings.data / f"{experiment.problem}_{part}.ts" for part in ("TRAIN", "TEST"))
    return train, test


def _measured(test: ej.data.Sequences, settings: Settings) -> np.ndarray:
    """Rows of the test sequences to measure on."""
    rows = np.arange(len(test))
    if settings.limit is not None and settings.limit < len(test):
        rows = ej.data.segment_centres(len(test), settings.limit)
    longest = test.lengths[rows].max()
    expected = f"at most {longest}, the elements of the longest test sequence"
    expect(settings.n_elements <= longest, "n_elements", expected, settings.n_elements)
    return rows


def _discard(
    subject: measures.Subject,
    elements: Sequence[np.ndarray],
    exact: Sequence[ej.Attribution],
    settings: Settings,
) -> dict[str, Any]:
    """Discard curves of the sequences that have `n_elements` elements."""
    rows = np.flatnonzero(subject.lengths >= settings.n_elements)
    labels = subject.labels[rows]
    curves = measures.discard(
        subject,
        np.stack([subject.sequences[i][elements[i]] for i in rows]),
        np.stack([exact[i].values[:, c] for i, c in zip(rows, labels, strict=True)]),
        np.stack([exact[i].scores for i in rows]),
        labels,
        settings.n_random,
        tqdm,
        rng=np.random.default_rng(settings.seed),
    )
    return measures.discard_summary(curves, settings.n_resamples, settings.seed)


def _save(
    path: Path,
    subject: measures.Subject,
    records: Sequence[ej.Attribution],
    elements: Sequence[np.ndarray],
    settings: Settings,
    estimator: str,
) -> None:
    digest = ej.models.model_digest(subject.model)
    ej.results.save(
        path,
        records,
        uids=subject.uids,
        class_names=subject.model.class_names,
        labels=subject.labels,
        element_index=elements,
        settings={"estimator": estimator, "weights_digest": digest, **as_json(settings)},
        overwrite=True,
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the wall time of a block, compilation included."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
