"""`esv-jax train`: training of heads on labelled sequences."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

from esv_jax import models
from esv_jax.checks import expect, first_few
from esv_jax.cli.options import expect_free
from esv_jax.cli.printing import INTERRUPTED, say, table
from esv_jax.data.inputs import open_inputs
from esv_jax.files import make_folder
from esv_jax.models import TrainConfig


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model on labelled sequences of features.

    Example: esv-jax train Vowels_TRAIN.ts --test Vowels_TEST.ts --out model.safetensors
    """

    data: tyro.conf.Positional[Path]
    """Labelled sequences: .ts, .hdf, .hdf5 or .h5."""
    out: Path = Path("model.safetensors")
    """Output file with weights, prior, class names and settings."""
    test: Path | None = None
    """Labelled sequences on which the accuracy is reported."""
    validation: Path | None = None
    """Labelled sequences for early stopping; default a share of the training sequences."""
    kind: Literal["multi-scale", "average-consensus"] = "multi-scale"
    """Architecture: heads of scales 1..n_max (TRN), or an average over elements (TSN)."""
    checkpoint_dir: Path | None = None
    """Folder for the training state; a run stored there is continued."""
    label: str | None = None
    """Label of an HDF5 store that is the class; default "action", or the only one."""
    classes: Path | None = None
    """CSV of class names (name,id), for stores with class numbers only."""
    overwrite: bool = False
    """Replace the file at --out; a continued run replaces it always."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()
    """Settings of the training."""

    def run(self) -> int:
        """Train, save, report."""
        make_folder(self.out.parent)
        state = self.checkpoint_dir
        continues = state is not None and state.is_dir() and any(state.iterdir())
        expect_free(self.out, overwrite=self.overwrite or continues)
        sequences, labels, names = self._read(self.data)
        validation = None if self.validation is None else self._read(self.validation)[:2]
        fit = models.train_heads if self.kind == "multi-scale" else models.train_tsn
        model = fit(
            sequences,
            labels,
            len(names),
            self.config,
            class_names=names,
            validation=validation,
            checkpoint_dir=self.checkpoint_dir,
            progress=True,
        )
        models.save_model(self.out, model)
        if validation is None and self.config.validation_fraction != 0:
            _report_single(labels, names)
        self._report(model)
        history = model.history
        assert history is not None
        if history.interrupted:
            say(f"Interrupted after {history.n_epochs} epochs: the best weights are in {self.out}")
            return INTERRUPTED
        say(f"Weights in {self.out}")
        return 0

    def _read(self, path: Path) -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
        """Read sequences, labels and names of the classes."""
        inputs = open_inputs(path, self.label, self.classes)
        way_out = "An HDF5 store with several labels needs --label NAME."
        got = f"{path} without labels"
        expect(inputs.labels is not None, "data", "labelled sequences", got, way_out)
        assert inputs.labels is not None
        names = inputs.class_names or tuple(map(str, range(int(inputs.labels.max()) + 1)))
        return [inputs.read(i, None)[0] for i in range(len(inputs))], inputs.labels, names

    def _report(self, model: models.TrainedModel) -> None:
        history = model.history
        assert history is not None
        best = history.best_epoch - 1
        accuracy = history.validation_accuracy[best]
        if np.isfinite(accuracy):
            say(f"Validation accuracy {accuracy:.1%}, epoch {best + 1} of {history.n_epochs}")
        else:
            no_class = "since no class has two: pass some by --validation"
            reason = "as requested" if self.config.validation_fraction == 0 else no_class
            say(f"No sequences were held out, {reason}. Weights are those of the last epoch.")
        if self.test is None:
            return
        sequences, labels, _ = self._read(self.test)
        result = models.evaluate(model.heads, sequences, labels, key=jax.random.key(0))
        scales = [(s, f"{a:.1%}") for s, a in enumerate(result.scale_accuracy, start=1)]
        table("Test accuracy", ["scale", "accuracy"], [*scales, ("all", f"{result.accuracy:.1%}")])


def _report_single(labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Print the classes whose only sequence is trained on, if others have more."""
    counts = np.bincount(labels, minlength=len(names))
    single = [name for name, count in zip(names, counts, strict=True) if count == 1]
    if single and counts.max() > 1:
        listed = first_few(single, 5)
        say(f"None held out of {len(single)} classes that have one sequence: {listed}")
