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
from esv_jax.cli.options import class_of, file_name
from esv_jax.cli.printing import ROWS, signed, table
from esv_jax.extras import require
from esv_jax.files import JSONObject, atomic_path
from esv_jax.results.layout import reading
from esv_jax.results.sequences import dataset_of, write_sequences
from esv_jax.sweeps.continuation import differences

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


class Explanation(NamedTuple):
    """Values of one sequence.

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


# The results file


def save_results(
    path: Path, found: Sequence[Explanation], names: tuple[str, ...], settings: JSONObject
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
    digests = {
        name: ("video", np.array([getattr(one, name) for one in found], object))
        for name in ("content", "stamp")
    }
    with atomic_path(path, within=path.parent / WRITING) as temporary:
        write_sequences(temporary, dataset.assign(digests))


def read_results(path: Path, names: tuple[str, ...], settings: JSONObject) -> list[Explanation]:
    """Read the sequences of a file of the same settings, model and versions; `video` is None.

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
                dataset.load()
                uids = dataset["video"].values.tolist()
                return [_explanation(dataset, k, uid, settings) for k, uid in enumerate(uids)]
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


def _explanation(dataset: xarray.Dataset, k: int, uid: str, settings: JSONObject) -> Explanation:
    """Return the sequence in row k of a dataset that is in memory."""
    att = results.load_attribution(dataset, uid)
    if settings.get("tolerance") is not None:
        within = bool(np.asarray(att.half_width()).max() <= settings["tolerance"])
        att = dataclasses.replace(att, within_tolerance=within)
    return Explanation(
        uid=uid,
        label=int(dataset["label"].values[k]),
        video=None,
        attribution=att,
        elements=dataset["element_index"].values[k, : att.n],
        methods={name: dataset[name].values[k, : att.n] for name in settings["methods"]},
        content=str(dataset["content"].values[k]),
        stamp=str(dataset["stamp"].values[k]),
    )


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


def choose(found: Explanation, class_names: Sequence[str], names: tuple[str, ...]) -> Shown:
    """Return the values of one class, or of the first of two minus the second.

    Args:
      class_names: gt (predicted if unknown), pred, names or ids; ValueError if unknown.
      names: of all classes.
    """

    def called(name: str) -> int:
        if name == "gt":
            return found.label if found.label >= 0 else called("pred")
        return class_of(name, att.scores, names)

    att = found.attribution
    classes = tuple(map(called, class_names))
    title = " - ".join(names[c] for c in classes)
    values = [np.asarray(att.for_class(c)) for c in classes]
    evidence = [float(att.evidential_score(c)) for c in classes]
    if len(classes) == 1:
        return Shown(classes, title, values[0], evidence[0])
    return Shown(classes, title, values[0] - values[1], evidence[0] - evidence[1])


def print_table(
    found: Sequence[Explanation], shown: Sequence[Shown], names: tuple[str, ...]
) -> None:
    """Print a row for each of the first sequences."""
    columns = ["uid", "n", "class", "predicted", "score", "evidence", "most", "least", "values"]
    pairs = zip(found[:ROWS], shown[:ROWS], strict=True)
    rows = [_row(one, values, names) for one, values in pairs]
    table("Element Shapley Values", columns, rows, n=len(found), file="table.csv")


def _row(one: Explanation, shown: Shown, names: tuple[str, ...]) -> tuple[object, ...]:
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


def write_table(path: Path, found: Sequence[Explanation], names: tuple[str, ...]) -> None:
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
    folder: Path, one: Explanation, shown: Shown, names: tuple[str, ...], overlay: Overlay
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
      att: of the frames `index` (n,). c: the class shown, `class_name` its name.
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
    shown = data.segment_centres(info.frames, min(info.frames, _MAX_FRAMES))
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
