"""A model of play-fair from its folder: checkpoints of the heads, class priors, class names.

    trn_<s>_frames.pth       the head of scale s, trained on its own
    mtrn_<n_max>_frames.pth  the heads of all scales in one file; read where there is no trn_1
    tsn.pth                  the average-consensus head
    class-priors.csv         or train-action-counts.csv, scores of the empty subsequence
    classes.csv              names; without it the classes are called by their numbers

The folder is the project itself, its `checkpoints/features`, or one that holds all of these. In a
project, tables are looked for in `metadata`, `datasets/*` and `src/datasets/metadata/*` too.
Source: willprice/play-fair at 5b4ad20; Price & Damen (2020), Section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np

from esv_jax import data, models
from esv_jax.checkpoints.heads import Layers, by_scale, expect_scales_fit, trn_layers, tsn_layers
from esv_jax.checkpoints.inert import CheckpointError, expect
from esv_jax.checkpoints.report import FileRecord, ImportReport, digest_of, parity_of
from esv_jax.checkpoints.state_dicts import read_torch
from esv_jax.checks import expect_choice, expect_int, message

Kind: TypeAlias = Literal["mtrn", "tsn"]
StrPath: TypeAlias = str | PathLike[str]

_FEATURES = ("checkpoints/features", "features", "checkpoints", ".")
_TABLES = (".", "metadata", "datasets/*", "src/datasets/metadata/*", *_FEATURES[:-1])
_PRIORS = ("class-priors.csv", "train-action-counts.csv")
_CLASSES = ("classes.csv",)
_TRN = re.compile(r"trn_(\d{1,4})_frames\.pth")
_MTRN = re.compile(r"mtrn_(\d{1,4})_frames\.pth")
_TSN = "tsn.pth"


@dataclass(frozen=True, eq=False)
class PlayFairImport:
    """A model that was read, with the record of what was read."""

    model: models.TrainedModel
    report: ImportReport


def import_play_fair(
    directory: StrPath,
    model: Kind | None = None,
    *,
    n_max: int | None = None,
    priors: StrPath | None = None,
    classes: StrPath | None = None,
) -> models.TrainedModel:
    """A model of play-fair on frame features, from its checkpoints; nothing in them is run.

        model = import_play_fair("play-fair")
        att = explain(make_game(model.heads), x, prior=model.prior)

    Args:
      directory: the project, its `checkpoints/features`, or a folder with all files.
      model: "mtrn", the heads of scales 1..n_max, or "tsn"; default "mtrn" where the folder has
        any of its heads.
      n_max: the largest scale to read (the published settings: 8); default all that are there.
      priors: class priors; default the `class-priors.csv` of the folder.
      classes: class names; default its `classes.csv`, or numbers where there is none.
    Returns:
      The model in single precision; `save_model` writes it. Features of a TSN pass a ReLU first,
      as in its published settings; those of a TRN where its layers say so.
    Raises:
      FileNotFoundError: no such folder.
      CheckpointError: (a ValueError) naming the file: a missing scale, layers that do not fit,
        priors or names of another number of classes, a file that cannot be read.
    Cost: reads the state dicts that are used, and every checkpoint in the folder once, for its
      digest.
    """
    return read_play_fair(directory, model, n_max=n_max, priors=priors, classes=classes).model


def read_play_fair(
    directory: StrPath,
    model: Kind | None = None,
    *,
    n_max: int | None = None,
    priors: StrPath | None = None,
    classes: StrPath | None = None,
) -> PlayFairImport:
    """As `import_play_fair`, with the record of what was read and how exactly."""
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(message(str(directory), "a folder of play-fair", "none"))
    if model is not None:
        expect_choice("model", model, get_args(Kind))
    if n_max is not None:
        expect_int("n_max", n_max, minimum=1)
    features = _features(folder)
    kind = model or ("mtrn" if _scales(features, _TRN) or _scales(features, _MTRN) else "tsn")
    records: dict[Path, FileRecord] = {}
    if kind == "tsn":
        expect(n_max is None, "n_max", "no scales for a TSN", n_max)
        layers = {1: _read_tsn(folder, features, records)}
        w, b = layers[1].layers[0]
        heads: models.HeadStack | models.TsnHead = models.TsnHead(
            jnp.asarray(w.T), jnp.asarray(b), input_relu=layers[1].input_relu
        )
    else:
        layers = _read_trn(folder, features, n_max, records)
        expect_scales_fit(layers)
        stacked = {s: head.head() for s, head in layers.items()}
        heads = models.stack_heads(stacked, input_relu=layers[1].input_relu)
    prior, names = _tables(folder, priors, classes, layers[1], records)
    for path in sorted(features.glob("*.pth")):
        if path not in records:
            records[path] = FileRecord(_shown(path, folder), "not used", "", digest_of(path))
    sizes = {"D": heads.feature_dim, "C": heads.n_classes}
    if isinstance(heads, models.HeadStack):
        sizes = {"n_max": heads.n_max, **sizes, "H": heads.hidden_dim}
    report = ImportReport(kind, tuple(records.values()), parity_of(heads, layers), sizes)
    return PlayFairImport(models.TrainedModel(heads, prior, names), report)


def _features(folder: Path) -> Path:
    """The folder with the checkpoints of the heads."""
    for place in _FEATURES:
        candidate = folder / place
        if _scales(candidate, _TRN) or _scales(candidate, _MTRN) or (candidate / _TSN).is_file():
            return candidate
    found = ", ".join(path.name for path in sorted(folder.glob("*"))[:8]) or "nothing"
    expected = "trn_<s>_frames.pth, mtrn_<n>_frames.pth or tsn.pth"
    raise CheckpointError(message(str(folder), expected, found))


def _scales(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The files of a kind in a folder, by the number in their name."""
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(folder.glob("*.pth")))
    return {int(match[1]): path for match, path in matches if match}


def _found(features: Path) -> str:
    """List the candidates, for messages."""
    names = [path.name for path in sorted(features.glob("*.pth"))]
    return ", ".join(names) or "no checkpoints"


def _read_tsn(folder: Path, features: Path, records: dict[Path, FileRecord]) -> Layers:
    path = features / _TSN
    expect(path.is_file(), str(path), "the checkpoint of the TSN", f"only {_found(features)}")
    arrays = _read(path, folder, "average-consensus head", records)
    return tsn_layers(arrays, str(path))


def _read_trn(
    folder: Path, features: Path, n_max: int | None, records: dict[Path, FileRecord]
) -> dict[int, Layers]:
    """The heads by scale, one file each, or all from one file where there are none such."""
    paths = _scales(features, _TRN)
    together = _scales(features, _MTRN)
    if not paths and together:
        path = together.get(n_max or max(together), together[max(together)])
        state = _read(path, folder, "heads of all scales", records)
        scales = by_scale(state, str(path))
        wanted = range(1, (n_max or max(scales)) + 1)
        for s in wanted:
            got = f"none for scale {s} (scales {sorted(scales)})"
            expect(s in scales, str(path), f"a head for every scale 1..{max(wanted)}", got)
        return {s: trn_layers(scales[s], f"{path}, scale {s}") for s in wanted}
    expect(bool(paths), str(features), "checkpoints trn_<s>_frames.pth", _found(features))
    wanted = range(1, (n_max or max(paths)) + 1)
    for s in wanted:
        if s not in paths:
            name = str(features / f"trn_{s}_frames.pth")
            expected = f"a checkpoint for every scale 1..{max(wanted)}"
            way_out = "Choose n_max= to read fewer scales."
            if (features / _TSN).is_file():
                way_out = "Choose n_max= to read fewer scales, or model='tsn'."
            raise CheckpointError(message(name, expected, f"only {_found(features)}", way_out))
    heads = {}
    for s in wanted:
        arrays = _read(paths[s], folder, f"head of scale {s}", records)
        heads[s] = trn_layers(arrays, str(paths[s]))
    return heads


def _read(
    path: Path, folder: Path, role: str, records: dict[Path, FileRecord]
) -> Mapping[str, np.ndarray]:
    """A state dict, entered in the record."""
    found = read_torch(path)
    records[path] = FileRecord(
        _shown(path, folder),
        role,
        found.layout,
        digest_of(path),
        used=tuple(found.arrays),
        ignored=found.ignored,
    )
    return found.arrays


def _tables(
    folder: Path,
    priors: StrPath | None,
    classes: StrPath | None,
    head: Layers,
    records: dict[Path, FileRecord],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Priors (C,) and names of the classes, as many as the heads have."""
    c = head.n_classes
    expected = f"{c} classes, as {head.name} has"
    path = Path(priors) if priors is not None else _table(folder, _PRIORS, "priors")
    if path is None:
        way_out = "Pass the file with priors=."
        raise CheckpointError(message(str(folder / _PRIORS[0]), "class priors", "none", way_out))
    prior = data.read_class_priors(path)
    expect(len(prior) == c, str(path), expected, len(prior))
    records[path] = FileRecord(_shown(path, folder), "class priors", "csv", digest_of(path))
    path = Path(classes) if classes is not None else _table(folder, _CLASSES, "classes")
    if path is None:
        return prior, tuple(map(str, range(c)))
    names = data.read_classes(path)
    expect(len(names) == c, str(path), expected, len(names))
    records[path] = FileRecord(_shown(path, folder), "class names", "csv", digest_of(path))
    return prior, names


def _table(folder: Path, names: tuple[str, ...], argument: str) -> Path | None:
    """The one table of these names in the places where a project keeps it."""
    for root in _roots(folder):
        for name in names:
            for place in _TABLES:
                found = sorted(root.glob(name if place == "." else f"{place}/{name}"))
                if len(found) > 1:
                    got = ", ".join(_shown(path, root) for path in found)
                    way_out = f"Pass one with {argument}=."
                    raise CheckpointError(message(str(folder), f"one {name}", got, way_out))
                if found:
                    return found[0]
    return None


def _roots(folder: Path) -> list[Path]:
    """The folder, and the project around it where it is one of its own folders."""
    whole = folder.resolve()
    if whole.parts[-2:] == ("checkpoints", "features"):
        return [folder, whole.parent.parent]
    return [folder, whole.parent] if whole.name == "checkpoints" else [folder]


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
