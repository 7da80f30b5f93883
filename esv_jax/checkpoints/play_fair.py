"""A model of play-fair from its folder: checkpoints of the heads, class priors, class names.

    trn_<s>_frames.pth       the head of scale s, trained on its own
    mtrn_<n_max>_frames.pth  the heads of all scales in one file; read if there is no trn_<s>
    tsn.pth                  the average-consensus head
    class-priors.csv         or train-action-counts.csv, scores of the empty subsequence
    classes.csv              names; without it the classes are named by their numbers

The folder is the project itself, its `checkpoints/features`, or one that holds all of these. In a
project, tables are looked for in `metadata`, `datasets/*` and `src/datasets/metadata/*` too.
Source: willprice/play-fair at 5b4ad20; Price & Damen (2020), Section 5.1.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np

from esv_jax import data, models
from esv_jax.checkpoints.archives import read_torch
from esv_jax.checkpoints.heads import (
    Layers,
    check_scales,
    logit_errors,
    split_scales,
    trn_layers,
    tsn_layers,
)
from esv_jax.checkpoints.unpickle import CheckpointError, StrPath, expect
from esv_jax.checks import expect_choice, expect_int, message
from esv_jax.models.heads import HeadStack, TsnHead

Kind: TypeAlias = Literal["mtrn", "tsn"]

TOLERANCE = 1e-5  # of the largest logit; single precision gives about 1e-7
_FEATURES = ("checkpoints/features", "features", "checkpoints", ".")
_TABLES = (".", "metadata", "datasets/*", "src/datasets/metadata/*", *_FEATURES[:-1])
_PRIORS = ("class-priors.csv", "train-action-counts.csv")
_CLASSES = ("classes.csv",)
_TRN = re.compile(r"trn_(\d{1,4})_frames\.pth")
_MTRN = re.compile(r"mtrn_(\d{1,4})_frames\.pth")
_TSN = "tsn.pth"


@dataclass(frozen=True)
class FileRecord:
    """One file of the folder.

    Attributes:
      path: relative to the folder.
      role: its use, e.g. "head of scale 3"; "not used".
      layout: "zip", "legacy", "csv", or "" if it was not read.
      digest: SHA-256 of its bytes, 64 hexadecimal digits.
      used: entries that became part of the model.
      ignored: entries that were not read, e.g. "'optimizer'".
    """

    path: str
    role: str
    layout: str
    digest: str
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportReport:
    """Files read for a model, and the error of its logits.

    Attributes:
      model: "mtrn" or "tsn".
      files: those of the folder, used or not.
      parity: for each head, the largest difference between its logits and those computed from
        the file's tensors alone (NumPy, double precision) on random features, as a share of the
        largest logit.
      sizes: n_max, D, H and C by name.
    """

    model: str
    files: tuple[FileRecord, ...]
    parity: dict[str, float]
    sizes: dict[str, int]

    @property
    def faithful(self) -> bool:
        """True if all differences are within the tolerance of single precision, 1e-5."""
        return all(error <= TOLERANCE for error in self.parity.values())

    def to_json(self) -> dict[str, Any]:
        """The report as values that JSON can represent."""
        return {**asdict(self), "tolerance": TOLERANCE}


class PlayFairImport(NamedTuple):
    """An imported model with its report."""

    model: models.TrainedModel
    report: ImportReport


@dataclass(frozen=True, eq=False)
class _Folder:
    """The folder of an import, its subfolder of checkpoints, and records of the files read."""

    path: Path
    features: Path
    records: dict[Path, FileRecord]

    def record(self, path: Path, role: str, layout: str, **entries: tuple[str, ...]) -> None:
        """Enter a file in the records, with its entries `used` and `ignored`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shown = _relative(path, self.path)
        self.records[path] = FileRecord(shown, role, layout, digest, **entries)

    def read(self, path: Path, role: str) -> Mapping[str, np.ndarray]:
        """Read a state dict and enter the file in the records."""
        found = read_torch(path)
        self.record(path, role, found.layout, used=tuple(found.arrays), ignored=found.ignored)
        return found.arrays

    def listed(self) -> str:
        """The checkpoints, used or not, for messages."""
        names = sorted(path.name for path in self.features.glob("*.pth"))
        return ", ".join(names) or "no checkpoints"


def read_play_fair(
    directory: StrPath,
    model: Kind | None = None,
    *,
    n_max: int | None = None,
    priors: StrPath | None = None,
    classes: StrPath | None = None,
) -> PlayFairImport:
    """Import a model of play-fair on frame features, without running code of its checkpoints.

        model = read_play_fair("play-fair").model
        att = explain(make_game(model.heads), x, prior=model.prior)

    Args:
      directory: the project, its `checkpoints/features`, or a folder with all files.
      model: "mtrn", the heads of scales 1..n_max, or "tsn"; default "mtrn" if the folder has any of
        its heads.
      n_max: the largest scale to read (the published settings: 8); default all in the folder.
      priors: class priors; default the `class-priors.csv` of the folder.
      classes: class names; default its `classes.csv`, or numbers without one.
    Returns:
      The model in single precision, which `save_model` writes, with a report of the files and the
      error of the logits. Features of a TSN pass a ReLU first, as in its published settings; those
      of a TRN if its layers have one.
    Raises:
      FileNotFoundError: no such folder.
      CheckpointError: (a ValueError) naming the file: a missing scale, layers that do not fit,
        priors or names of another number of classes, a file that cannot be read.
    Cost: reads the state dicts that are used, and every checkpoint in the folder once, for its
      digest.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(message(str(directory), "a folder of play-fair", "none"))
    if model is not None:
        expect_choice("model", model, get_args(Kind))
    if n_max is not None:
        expect_int("n_max", n_max, minimum=1)
    folder = _Folder(Path(directory), _features(Path(directory)), {})
    features = folder.features
    kind = model or ("mtrn" if _by_scale(features, _TRN) or _by_scale(features, _MTRN) else "tsn")
    heads: HeadStack | TsnHead
    if kind == "tsn":
        expect(n_max is None, "n_max", "no scales for a TSN", n_max)
        path = features / _TSN
        expect(path.is_file(), str(path), "the checkpoint of the TSN", f"only {folder.listed()}")
        layers = {1: tsn_layers(folder.read(path, "average-consensus head"), str(path))}
        ((w, b),), input_relu = layers[1].layers, layers[1].input_relu
        heads = TsnHead(jnp.asarray(w.T), jnp.asarray(b), input_relu)
        sizes = {"D": heads.feature_dim, "C": heads.n_classes}
    else:
        layers = _read_trn(folder, n_max)
        check_scales(layers)
        heads = models.stack_heads(
            {s: head.head() for s, head in layers.items()}, layers[1].input_relu
        )
        sizes = {"n_max": heads.n_max, "D": heads.feature_dim, "C": heads.n_classes}
        sizes["H"] = heads.hidden_dim
    prior, names = _read_tables(folder, priors, classes, layers[1])
    for path in sorted(features.glob("*.pth")):
        if path not in folder.records:
            folder.record(path, "not used", "")
    report = ImportReport(kind, tuple(folder.records.values()), logit_errors(heads, layers), sizes)
    return PlayFairImport(models.TrainedModel(heads, prior, names), report)


def import_play_fair(
    directory: StrPath, model: Kind | None = None, **options: Any
) -> models.TrainedModel:
    """The model of `read_play_fair`, whose arguments it takes, without the report."""
    return read_play_fair(directory, model, **options).model


def _features(folder: Path) -> Path:
    """The folder with the checkpoints of the heads."""
    for name in _FEATURES:
        found = folder / name
        if _by_scale(found, _TRN) or _by_scale(found, _MTRN) or (found / _TSN).is_file():
            return found
    got = ", ".join(path.name for path in sorted(folder.glob("*"))[:8]) or "nothing"
    expected = "trn_<s>_frames.pth, mtrn_<n>_frames.pth or tsn.pth"
    raise CheckpointError(message(str(folder), expected, got))


def _by_scale(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The files of a folder that match, by the number in their name."""
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(folder.glob("*.pth")))
    return {int(match[1]): path for match, path in matches if match}


def _read_trn(folder: _Folder, n_max: int | None) -> dict[int, Layers]:
    """The heads by scale: of one file each, or, if there are none, of one file with all."""
    features = folder.features
    paths, together = _by_scale(features, _TRN), _by_scale(features, _MTRN)
    if not paths and together:
        path = together.get(n_max or max(together), together[max(together)])
        states = split_scales(folder.read(path, "heads of all scales"), str(path))
        scales = range(1, (n_max or max(states)) + 1)
        for s in scales:
            got = f"none for scale {s} (scales {sorted(states)})"
            expect(s in states, str(path), f"a head for every scale 1..{max(scales)}", got)
        return {s: trn_layers(states[s], f"{path}, scale {s}") for s in scales}
    expect(bool(paths), str(features), "checkpoints trn_<s>_frames.pth", folder.listed())
    scales = range(1, (n_max or max(paths)) + 1)
    way_out = "Choose n_max= to read fewer scales"
    way_out += ", or model='tsn'." if (features / _TSN).is_file() else "."
    expected, got = f"a checkpoint for every scale 1..{max(scales)}", f"only {folder.listed()}"
    for s in scales:
        expect(s in paths, str(features / f"trn_{s}_frames.pth"), expected, got, way_out)
    return {
        s: trn_layers(folder.read(paths[s], f"head of scale {s}"), str(paths[s])) for s in scales
    }


def _read_tables(
    folder: _Folder, priors: StrPath | None, classes: StrPath | None, head: Layers
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Priors (C,) and names of the classes, as many as the head has."""

    def rows(path: Path, read: Callable[[Path], Any], role: str) -> Any:
        found, expected = read(path), f"{head.n_classes} classes, as {head.name} has"
        expect(len(found) == head.n_classes, str(path), expected, len(found))
        folder.record(path, role, "csv")
        return found

    path = Path(priors) if priors is not None else _table(folder.path, _PRIORS, "priors")
    if path is None:
        name, way_out = str(folder.path / _PRIORS[0]), "Pass the file with priors=."
        raise CheckpointError(message(name, "class priors", "none", way_out))
    prior = rows(path, data.classes.read_class_priors, "class priors")
    path = Path(classes) if classes is not None else _table(folder.path, _CLASSES, "classes")
    if path is None:
        return prior, tuple(map(str, range(head.n_classes)))
    return prior, rows(path, data.classes.read_classes, "class names")


def _table(folder: Path, names: tuple[str, ...], argument: str) -> Path | None:
    """The only table of these names in the folder, or in the project around it."""
    whole, roots = folder.resolve(), [folder]
    if whole.parts[-2:] == ("checkpoints", "features"):
        roots.append(whole.parent.parent)
    elif whole.name == "checkpoints":
        roots.append(whole.parent)
    for root, name, subfolder in itertools.product(roots, names, _TABLES):
        found = sorted(root.glob(name if subfolder == "." else f"{subfolder}/{name}"))
        if len(found) > 1:
            got = ", ".join(_relative(path, root) for path in found)
            way_out = f"Pass one with {argument}=."
            raise CheckpointError(message(str(folder), f"one {name}", got, way_out))
        if found:
            return found[0]
    return None


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
