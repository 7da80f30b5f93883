"""What `esv-jax explain` shows of what it found: a table on screen, a long one as CSV, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from esv_jax import plots
from esv_jax.attribution import Attribution
from esv_jax.cli.outputs import file_name
from esv_jax.cli.printing import signed, table
from esv_jax.cli.video_figures import draw_video
from esv_jax.data.classes import class_index
from esv_jax.extras import require
from esv_jax.files import atomic_path

_SHOWN = 20  # rows of the printed table


class Explained(NamedTuple):
    """One sequence.

    Attributes:
      uid: its name. label: its true class, -1 where unknown. video: its file, None of features.
      attribution: its values. elements: (n,) indices of its elements in the whole sequence.
      methods: values (n, C) of other methods by name.
    """

    uid: str
    label: int
    video: Path | None
    attribution: Attribution
    elements: np.ndarray
    methods: dict[str, np.ndarray]

    def class_called(self, name: str, names: tuple[str, ...]) -> int:
        """The number of a class: gt (predicted where unknown), pred, a name or an id."""
        if name == "gt" and self.label >= 0:
            return self.label
        if name in ("gt", "pred"):
            return int(np.argmax(self.attribution.scores))
        return class_index(name, names)


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
    """How values came about."""
    if att.exact:
        return "exact"
    wide = att.within_tolerance is not None and not bool(att.within_tolerance)
    return "sampled, beyond the tolerance" if wide else "sampled"
