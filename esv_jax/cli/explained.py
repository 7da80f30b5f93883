"""Sequences explained by `esv-jax explain`: stored, read again, and shown as tables and figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from esv_jax import plots, results
from esv_jax.attribution import Attribution
from esv_jax.checks import expect, message
from esv_jax.cli.outputs import file_name
from esv_jax.cli.printing import signed, table
from esv_jax.cli.video_figures import draw_video
from esv_jax.data.classes import class_index
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.results.layout import reading
from esv_jax.results.sequences import dataset_of, write_sequences
from esv_jax.sweeps.job import differences

_SHOWN = 20  # rows of the printed table
_FREE = (
    ("data", "limit", "uids", "label", "classes", "model", "backbone")  # compared by content
    + ("target", "contrast", "figures", "overlay", "out", "overwrite")
)
"""Settings in which a run that goes on may differ from the one before."""

WRITING = ".writing"  # folder within --out of the lock and of temporary files
WAY_OUT = "Choose another folder, or add --overwrite."


class Explained(NamedTuple):
    """One sequence.

    Attributes:
      uid: its name. label: its true class, -1 where unknown. video: its file, None of features.
      attribution: its values. elements: (n,) indices of its elements in the whole sequence.
      methods: values (n, C) of other methods by name.
      content, stamp: digests of what was read, and of the size and time of its file.
    """

    uid: str
    label: int
    video: Path | None
    attribution: Attribution
    elements: np.ndarray
    methods: dict[str, np.ndarray]
    content: str = ""
    stamp: str = ""

    def class_called(self, name: str, names: tuple[str, ...]) -> int:
        """The number of a class: gt (predicted where unknown), pred, a name or an id."""
        if name == "gt" and self.label >= 0:
            return self.label
        if name in ("gt", "pred"):
            return int(np.argmax(self.attribution.scores))
        return class_index(name, names)


def save_explained(
    path: Path, found: Sequence[Explained], names: tuple[str, ...], settings: Mapping[str, Any]
) -> None:
    """Write the results file, complete or not at all; an existing one is replaced.

    Warnings are sorted, so that the file does not depend on the order of the work.
    """
    warnings = tuple(sorted({text for one in found for text in one.attribution.warnings}))
    methods = found[0].methods
    dataset = dataset_of(
        [dataclasses.replace(one.attribution, warnings=warnings) for one in found],
        uids=[one.uid for one in found],
        class_names=names,
        labels=[one.label for one in found],
        element_index=[one.elements.tolist() for one in found],
        settings=settings,
        marginals=False,
        methods={name: [one.methods[name] for one in found] for name in methods},
    )
    contents = np.array([one.content for one in found], object)
    stamps = np.array([one.stamp for one in found], object)
    dataset = dataset.assign(content=("video", contents), stamp=("video", stamps))
    with atomic_path(path, within=path.parent / WRITING) as temporary:
        write_sequences(temporary, dataset)


def read_explained(
    path: Path, names: tuple[str, ...], settings: Mapping[str, Any]
) -> list[Explained]:
    """The sequences in a results file of the same settings, model and versions, in its order.

    Args:
      path: the file, written by `save_explained`.
      names: of the classes. settings: of the present run, as `save_explained` takes them.
    Returns:
      What was explained; `video` is None.
    Raises:
      FileExistsError: another or a damaged file, or one of other settings; says what differs.
    """
    expected = "a folder without results, or with those of the same command"
    try:
        with results.open(path) as dataset:
            there = _identity(
                json.loads(dataset.attrs["settings"]),
                dataset["class"].values.tolist(),
                {name: dataset.attrs.get(f"{name}_version") for name in ("esv_jax", "jax")},
                str(dataset.attrs.get("device")).partition(":")[0],
            )
            versions = {"esv_jax": metadata.version("esv-jax"), "jax": jax.__version__}
            here = _identity(settings, names, versions, jax.devices()[0].platform)
            other = there.get("command")
            got = f"{path} ({differences(there, here)})"
            got = got if other == here["command"] else f"{path} of esv-jax {other}"
            expect(there == here, "out", expected, got, WAY_OUT, kind=FileExistsError)
            ours = {"content", "stamp", "element_index"} <= set(dataset.variables)
            got = f"{path}, which does not say what was read"
            expect(ours, "out", expected, got, WAY_OUT, kind=FileExistsError)
            with reading(dataset):
                return _explained_in(dataset.load(), settings)
    except ValueError as error:
        text = message("out", expected, f"{path}, which cannot be read ({error})", WAY_OUT)
        raise FileExistsError(text) from error


def _identity(
    settings: Mapping[str, Any],
    names: Sequence[str],
    versions: Mapping[str, Any],
    platform: str,
) -> dict[str, Any]:
    """Return the settings that must be equal for results to be continued."""
    kept = {name: value for name, value in settings.items() if name not in _FREE}
    classes = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
    whole = {**kept, "classes": f"{len(names)} ({classes})", **versions, "platform": platform}
    return dict(json.loads(json.dumps(whole)))


def _explained_in(dataset: Any, settings: Mapping[str, Any]) -> list[Explained]:
    tolerance = settings.get("tolerance")
    found = []
    for k, uid in enumerate(dataset["video"].values.tolist()):
        att = results.load_attribution(dataset, uid)
        if tolerance is not None:
            within = bool(np.asarray(att.half_width()).max() <= tolerance)
            att = dataclasses.replace(att, within_tolerance=within)
        one = Explained(
            uid=uid,
            label=int(dataset["label"].values[k]),
            video=None,
            attribution=att,
            elements=dataset["element_index"].values[k, : att.n],
            methods={name: dataset[name].values[k, : att.n] for name in settings["methods"]},
            content=str(dataset["content"].values[k]),
            stamp=str(dataset["stamp"].values[k]),
        )
        found.append(one)
    return found


class Shown(NamedTuple):
    """Which values of a sequence are shown.

    Attributes:
      classes: one class, or two whose difference is shown.
      title: in words. values: (n,). evidence: what they sum to.
    """

    classes: tuple[int, ...]
    title: str
    values: np.ndarray
    evidence: float


def choose(found: Explained, asked: Sequence[str], names: tuple[str, ...]) -> Shown:
    """The values of one class given by name, or of the first of two minus the second.

    Raises:
      ValueError: no such class.
    """
    att = found.attribution
    classes = tuple(found.class_called(name, names) for name in asked)
    title = " - ".join(names[c] for c in classes)
    values = [np.asarray(att.for_class(c)) for c in classes]
    evidence = [float(att.evidential_score(c)) for c in classes]
    if len(classes) == 1:
        return Shown(classes, title, values[0], evidence[0])
    return Shown(classes, title, values[0] - values[1], evidence[0] - evidence[1])


def print_table(found: Sequence[Explained], shown: Sequence[Shown], names: tuple[str, ...]) -> None:
    """A row for each of the first sequences."""
    columns = ["uid", "n", "class", "predicted", "score", "evidence", "most", "least", "values"]
    title = "Element Shapley Values"
    if len(found) > _SHOWN:
        title += f" (first {_SHOWN} of {len(found)}; all in table.csv)"
    pairs = zip(found[:_SHOWN], shown[:_SHOWN], strict=True)
    table(title, columns, [_row(one, values, names) for one, values in pairs])


def write_table(path: Path, found: Sequence[Explained], names: tuple[str, ...]) -> None:
    """All values as CSV, one row per sequence, element and class; complete or not at all."""
    frames = []
    for one in found:
        frame = one.attribution.to_dataframe(names)
        frame.insert(0, "uid", one.uid)
        frame.insert(2, "element_index", one.elements[frame["element"].to_numpy()])
        frames.append(frame)
    with atomic_path(path) as temporary:
        require("pandas", "files").concat(frames).to_csv(temporary, index=False)


def draw(
    folder: Path,
    one: Explained,
    shown: Shown,
    names: tuple[str, ...],
    overlay: Literal["mp4", "gif", "none"],
) -> None:
    """Bars, and of a video also a strip of frames and an overlay, named by the uid."""
    att, labels = one.attribution, [str(e) for e in one.elements]
    c = shown.classes[0]
    if len(shown.classes) == 2:
        axes = plots.plot_contrast(
            att, *shown.classes, class_names=names, element_labels=labels, title=one.uid
        )
    else:
        name = f"class {names[c]}" if names[c].isdigit() else names[c]
        axes = plots.plot_elements(att, c, class_name=name, element_labels=labels, title=one.uid)
    folder.mkdir(exist_ok=True)
    figure = axes.get_figure(root=True)
    assert figure is not None
    plots.save_figure(figure, folder / f"{file_name(one.uid)}.png")
    if one.video is not None:
        place = folder / file_name(one.uid)
        draw_video(one.video, att, c, one.elements, names[c], place, overlay)


def _row(one: Explained, shown: Shown, names: tuple[str, ...]) -> tuple[object, ...]:
    att, predicted = one.attribution, int(np.argmax(one.attribution.scores))
    ends = [int(shown.values.argmax()), int(shown.values.argmin())]
    return (
        one.uid,
        att.n,
        shown.title,
        names[predicted],
        f"{float(att.scores[predicted]):.3f}",
        signed(shown.evidence),
        *(f"{one.elements[i]} ({signed(shown.values[i])})" for i in ends),
        _how(att),
    )


def _how(att: Attribution) -> str:
    """Describe the estimator of the values."""
    if att.exact:
        return "exact"
    wide = att.within_tolerance is not None and not bool(att.within_tolerance)
    return "sampled, beyond the tolerance" if wide else "sampled"
