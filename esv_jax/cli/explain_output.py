"""Outputs of `esv-jax explain`: the stored results, the tables, the figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np

from esv_jax import data, plots, results
from esv_jax.attribution import Attribution
from esv_jax.checks import expect, message
from esv_jax.cli.options import file_name
from esv_jax.cli.printing import ROWS, signed, table
from esv_jax.data.classes import class_index
from esv_jax.extras import require
from esv_jax.files import JSONObject, atomic_path
from esv_jax.results.layout import reading
from esv_jax.results.sequences import dataset_of, write_sequences
from esv_jax.sweeps.planning import differences

if TYPE_CHECKING:
    import xarray

_FREE = (
    ("data", "limit", "uids", "label", "classes", "model", "backbone")  # compared by content
    + ("target", "contrast", "figures", "overlay", "out", "overwrite")
)
"""Settings in which a run may differ from the one that it continues."""
_SHORT_SIDE = 240  # pixels, of the frames in the overlay
_CHUNK = 64  # frames decoded at once
_MAX_FRAMES = 1500  # of the overlay; longer videos are thinned out evenly

WRITING = ".writing"  # folder within --out of the lock and of temporary files
WAY_OUT = "Choose another folder, or add --overwrite."
Overlay = Literal["mp4", "gif", "none"]


class Explained(NamedTuple):
    """One explained sequence.

    Attributes:
      uid: its name. label: its true class, -1 if unknown. video: its file; None for features.
      attribution: its values. elements: (n,) indices of its elements in the whole sequence.
      methods: values (n, C) of other methods by name.
      content, stamp: digests of the features, and of the size and time of the file.
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
        """Return the index of a class: gt (predicted if unknown), pred, a name or an id."""
        if name == "gt" and self.label >= 0:
            return self.label
        if name in ("gt", "pred"):
            return int(np.argmax(self.attribution.scores))
        return class_index(name, names)


# The results file


def save_explained(
    path: Path, found: Sequence[Explained], names: tuple[str, ...], settings: JSONObject
) -> None:
    """Write the results file, complete or not at all; an existing one is replaced.

    Warnings are sorted: the file does not depend on the order of the work.
    """
    warnings = tuple(sorted({text for one in found for text in one.attribution.warnings}))
    dataset = dataset_of(
        [dataclasses.replace(one.attribution, warnings=warnings) for one in found],
        uids=[one.uid for one in found],
        class_names=names,
        labels=[one.label for one in found],
        element_index=[one.elements.tolist() for one in found],
        settings=settings,
        marginals=False,
        methods={name: [one.methods[name] for one in found] for name in found[0].methods},
    )
    contents = np.array([one.content for one in found], object)
    stamps = np.array([one.stamp for one in found], object)
    dataset = dataset.assign(content=("video", contents), stamp=("video", stamps))
    with atomic_path(path, within=path.parent / WRITING) as temporary:
        write_sequences(temporary, dataset)


def read_explained(path: Path, names: tuple[str, ...], settings: JSONObject) -> list[Explained]:
    """Read the sequences of a results file of the same settings, model and versions, in its order.

    Args:
      path: the file, written by `save_explained`.
      names: of the classes. settings: of the present run, as for `save_explained`.
    Returns:
      Records whose `video` is None.
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
            complete = {"content", "stamp", "element_index"} <= set(dataset.variables)
            got = f"{path}, without digests of its inputs"
            expect(complete, "out", expected, got, WAY_OUT, kind=FileExistsError)
            with reading(dataset):
                return _explained_in(dataset.load(), settings)
    except ValueError as error:
        text = message("out", expected, f"{path}, which cannot be read ({error})", WAY_OUT)
        raise FileExistsError(text) from error


def _identity(
    settings: JSONObject, names: Sequence[str], versions: Mapping[str, object], platform: str
) -> JSONObject:
    """Return the settings that must be equal for results to be continued."""
    kept = {name: value for name, value in settings.items() if name not in _FREE}
    classes = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
    whole = {**kept, "classes": f"{len(names)} ({classes})", **versions, "platform": platform}
    return dict(json.loads(json.dumps(whole)))


def _explained_in(dataset: xarray.Dataset, settings: JSONObject) -> list[Explained]:
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


# Tables


class Shown(NamedTuple):
    """The values of a sequence that are shown.

    Attributes:
      classes: one class, or two whose difference is shown.
      title: in words. values: (n,). evidence: their sum.
    """

    classes: tuple[int, ...]
    title: str
    values: np.ndarray
    evidence: float


def choose(found: Explained, class_names: Sequence[str], names: tuple[str, ...]) -> Shown:
    """Return the values of one class given by name, or of the first of two minus the second.

    Raises:
      ValueError: no such class.
    """
    att = found.attribution
    classes = tuple(found.class_called(name, names) for name in class_names)
    title = " - ".join(names[c] for c in classes)
    values = [np.asarray(att.for_class(c)) for c in classes]
    evidence = [float(att.evidential_score(c)) for c in classes]
    if len(classes) == 1:
        return Shown(classes, title, values[0], evidence[0])
    return Shown(classes, title, values[0] - values[1], evidence[0] - evidence[1])


def print_table(found: Sequence[Explained], shown: Sequence[Shown], names: tuple[str, ...]) -> None:
    """Print a row for each of the first sequences."""
    columns = ["uid", "n", "class", "predicted", "score", "evidence", "most", "least", "values"]
    pairs = zip(found[:ROWS], shown[:ROWS], strict=True)
    rows = [_row(one, values, names) for one, values in pairs]
    table("Element Shapley Values", columns, rows, n=len(found), file="table.csv")


def _row(one: Explained, shown: Shown, names: tuple[str, ...]) -> tuple[object, ...]:
    att, predicted = one.attribution, int(np.argmax(one.attribution.scores))
    ends = [int(shown.values.argmax()), int(shown.values.argmin())]
    kind = "exact" if att.exact else "sampled"
    if not att.exact and att.within_tolerance is not None and not bool(att.within_tolerance):
        kind = "sampled, beyond the tolerance"
    return (
        one.uid,
        att.n,
        shown.title,
        names[predicted],
        f"{float(att.scores[predicted]):.3f}",
        signed(shown.evidence),
        *(f"{one.elements[i]} ({signed(shown.values[i])})" for i in ends),
        kind,
    )


def write_table(path: Path, found: Sequence[Explained], names: tuple[str, ...]) -> None:
    """Write all values as CSV, one row per sequence, element and class; complete or not at all."""
    frames = []
    for one in found:
        frame = one.attribution.to_dataframe(names)
        frame.insert(0, "uid", one.uid)
        frame.insert(2, "element_index", one.elements[frame["element"].to_numpy()])
        frames.append(frame)
    with atomic_path(path) as temporary:
        require("pandas", "files").concat(frames).to_csv(temporary, index=False)


# Figures


def draw(
    folder: Path, one: Explained, shown: Shown, names: tuple[str, ...], overlay: Overlay
) -> None:
    """Draw bars, and for a video also a strip of frames and an overlay; files named by the uid."""
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
        draw_video(one.video, att, c, one.elements, names[c], folder / file_name(one.uid), overlay)


def draw_video(
    video: Path,
    att: Attribution,
    c: int,
    index: np.ndarray,
    class_name: str,
    stem: Path,
    overlay: Overlay,
) -> None:
    """Write `<stem>_strip.png`, some frames, and `<stem>_overlay.<suffix>`, all with their values.

    Args:
      video: the file.
      att: of its frames `index` (n,). c: the class shown, `class_name` its name.
      stem: path without suffix.
      overlay: format of the second, or "none".
    """
    frames = data.decode_frames(video, indices=index, size=_SHORT_SIDE)
    labels = [str(i) for i in index]
    figure = plots.plot_frame_strip(
        att, frames, c, class_name=class_name, frame_labels=labels, title=video.name
    )
    plots.save_figure(figure, stem.with_name(f"{stem.name}_strip.png"))
    if overlay == "none":
        return
    info = data.probe_video(video)
    shown = np.arange(info.frames)
    if len(shown) > _MAX_FRAMES:
        shown = data.segment_centres(info.frames, _MAX_FRAMES)
    pictures = plots.render_overlay(
        att, _frames(video, shown), c, index=index, shown=shown, class_name=class_name
    )
    pace = info.fps * len(shown) / max(info.frames, 1) if info.fps else 12.0
    data.write_video(stem.with_name(f"{stem.name}_overlay.{overlay}"), pictures, pace)


def _frames(video: Path, index: np.ndarray) -> Iterator[np.ndarray]:
    """Yield frames one by one, decoded in chunks."""
    for start in range(0, len(index), _CHUNK):
        some = index[start : start + _CHUNK]
        yield from data.decode_frames(video, indices=some, size=_SHORT_SIDE)
