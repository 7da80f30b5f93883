"""`esv-jax explain`: Element Shapley Values of videos or sequences."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import tyro

from esv_jax.batches import explain_batch
from esv_jax.checks import expect, first_few
from esv_jax.cli.explain_output import (
    WAY_OUT,
    WRITING,
    Explained,
    Overlay,
    choose,
    draw,
    print_table,
    read_explained,
    save_explained,
    write_table,
)
from esv_jax.cli.options import SequenceOptions, expect_free, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say
from esv_jax.data.classes import class_index
from esv_jax.data.inputs import Inputs
from esv_jax.files import JSONObject, locked_folder, make_folder, remove_leftovers
from esv_jax.games.multi_scale import make_game
from esv_jax.maps import element_values
from esv_jax.models import TrainedModel

_TOGETHER = 32  # sequences explained together, at most; Ctrl-C loses no more
_READ_FOR = 10.0  # seconds of reading after which a group is complete
_SAVE_EVERY = 30.0  # seconds between two savings of finished results, at least

T = TypeVar("T")
MethodName = Literal[
    "integrated_gradients", "gradient_x_input", "grad_cam", "leave_one_out", "leave_one_in"
]
Done = dict[int, Explained]


class _Sequence(NamedTuple):
    """One sequence as read.

    Attributes:
      features: (n, D). elements: (n,) their indices in the whole sequence.
      content, stamp: see `Explained`.
    """

    features: np.ndarray
    elements: np.ndarray
    content: str
    stamp: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explain(SequenceOptions):
    """Explain videos or sequences of features: what did each frame contribute?

    Finished results are written every half minute; the same command continues an interrupted run.
    Examples: esv-jax explain clip.mp4 --frames 8; esv-jax explain clip.mp4 --frames all;
    esv-jax explain JapaneseVowels_TEST.ts --model m.safetensors --frames 16
    """

    out: Path = Path("results")
    """Folder for results.nc, table.csv and figures/; continues results of the same command."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "gt"
    """Class to show: gt (true; predicted if unknown), pred, a name or an id. All are stored."""
    contrast: tuple[str, str] | None = None
    """Two classes (gt, pred, names or ids): show the first minus the second."""
    tolerance: float | None = None
    """Largest half width of 95 % intervals; sampling continues until it is reached."""
    max_evaluations: int = 100_000
    """Largest number of model evaluations per sequence."""
    methods: tuple[MethodName, ...] = ()
    """Other methods whose values of all classes are stored beside ESVs; for short sequences."""
    figures: int = 5
    """Number of sequences to draw; for videos also a strip of frames and an overlay."""
    overlay: Overlay = "mp4"
    """Format of the overlay: the video with the values moving under it."""
    classes: Path | None = None
    """CSV of class names (name,id) that replace the model's."""
    overwrite: bool = False
    """Replace results in the output folder."""

    def run(self) -> int:
        """Explain, save, print."""
        loaded, inputs = self.load(self.classes)
        model = loaded.trained
        if loaded.note:
            say(loaded.note)
        names = inputs.class_names if self.classes is not None else model.class_names
        assert names is not None
        n_classes = len(model.class_names)
        expected = f"{n_classes} names, as the model has classes"
        expect(len(names) == n_classes, "classes", expected, len(names))
        frames = self.n_frames
        expect(frames is None or frames >= 1, "frames", "a number >= 1 or all", self.frames)
        chosen = inputs.positions(self.uids, self.limit)
        expect(len(chosen) > 0, "data", "at least one sequence to explain", "none")
        for name in (self.target, *(self.contrast or ())):
            if name not in ("gt", "pred"):
                class_index(name, names)  # refused before the work, not after it
        make_folder(self.out)
        writing = self.out / WRITING
        with locked_folder(writing, "out", "a folder that no other explain is writing to"):
            remove_leftovers(writing)
            settings = settings_of("explain", self, loaded.digest)
            return self._explain(model, settings, inputs, chosen, names)

    def _explain(
        self,
        model: TrainedModel,
        settings: JSONObject,
        inputs: Inputs,
        chosen: list[int],
        names: tuple[str, ...],
    ) -> int:
        """Explain the sequences that the output folder lacks; show all."""
        frames = self.n_frames
        store = self.out / "results.nc"
        done = self._explained_before(store, inputs, chosen, names, settings)
        before = list(done)

        # Longest first: a sequence that does not fit is refused before anything is computed.
        skipped: dict[int, str] = {}
        missing = [i for i in chosen if i not in done]
        lengths = {i: n for i in missing if (n := _attempt(inputs, i, inputs.length, skipped))}
        queue = sorted(lengths, key=lambda i: -min(lengths[i], frames or lengths[i]))
        stopped: BaseException | None = None
        saved, cost = time.monotonic(), 0.0  # time of the last saving, and its duration
        try:
            with progress(len(queue), "Explaining", "seq") as bar:
                while queue:
                    read, n_tried = _read_some(inputs, queue[:_TOGETHER], frames, skipped)
                    done |= self._explained(inputs, read, model)
                    queue = queue[n_tried:]
                    bar.update(n_tried)
                    if time.monotonic() - saved > max(_SAVE_EVERY, 20 * cost):  # against kills
                        began = time.monotonic()
                        found = [done[i] for i in chosen if i in done]
                        save_explained(store, found, names, settings)
                        saved = time.monotonic()
                        cost = saved - began
        except BaseException as error:
            stopped = error
        kept = [i for i in chosen if i in done]  # in the order of the data
        if kept:
            found = [done[i] for i in kept]
            if kept != before:
                save_explained(store, found, names, settings)
            self._show(names, found)
            say(f"Results of {len(kept)} of {len(chosen)} sequences in {store}")
        if stopped is not None:
            raise stopped
        for i in skipped:
            complain(skipped[i])
        return BAD_INPUT if skipped else 0

    def _explained_before(
        self,
        store: Path,
        inputs: Inputs,
        chosen: list[int],
        names: tuple[str, ...],
        settings: JSONObject,
    ) -> Done:
        """Read the results of an earlier run; checks them before any work is done.

        Raises:
          FileExistsError: results of other settings or inputs. OSError: a folder that cannot be
            written.
        """
        expect_free(store, overwrite=True)
        if self.overwrite or not store.exists():
            return {}
        position = {inputs.uids[i]: i for i in chosen}
        found = read_explained(store, names, settings)
        expected, kind = f"the inputs of {store}", FileExistsError
        others = [one.uid for one in found if one.uid not in position]
        got = f"inputs without {first_few(map(repr, others))}"
        expect(not others, "data", expected, got, WAY_OUT, kind=kind)
        positions = [position[one.uid] for one in found]
        labels = [-1 if inputs.labels is None else int(inputs.labels[i]) for i in positions]
        relabelled = [one.uid for one, c in zip(found, labels, strict=True) if one.label != c]
        got = f"others, with new classes of {first_few(map(repr, relabelled))}"
        expect(not relabelled, "data", expected, got, WAY_OUT, kind=kind)
        frames = self.n_frames
        stamps = _stamps(inputs, positions)
        moved = [k for k, one in enumerate(found) if one.stamp != stamps[k]]  # read again
        contents = inputs.contents([positions[k] for k in moved], frames)
        changed = [
            found[k].uid
            for k, content in zip(moved, contents, strict=True)
            if found[k].content != content
        ]
        got = f"others, with new content of {first_few(map(repr, changed))}"
        expect(not changed, "data", expected, got, WAY_OUT, kind=kind)
        plural = "sequences" if inputs.videos is None else "videos"
        say(f"{len(found)} of {len(chosen)} {plural} were explained before")
        return {
            i: one._replace(video=None if inputs.videos is None else inputs.videos[i])
            for i, one in zip(positions, found, strict=True)
        }

    def _explained(self, inputs: Inputs, found: dict[int, _Sequence], model: TrainedModel) -> Done:
        """Explain some sequences."""
        done: Done = {}
        game = make_game(model.heads)
        # One length at a time: exactness is a property of a whole batch.
        for n, group in itertools.groupby(found, lambda i: len(found[i].elements)):
            expect(n > 0, "data", "at least one element per sequence", "none")
            rows = list(group)
            batch = explain_batch(
                game,
                np.array([found[i].features for i in rows], np.float32),
                prior=model.prior,
                estimator=self.make_estimator(),
                key=jax.random.key(self.seed),
                uids=[inputs.uids[i] for i in rows],
                tolerance=self.tolerance,
                max_evaluations=self.max_evaluations,
            )
            for k, i in enumerate(rows):
                done[i] = Explained(
                    uid=inputs.uids[i],
                    label=-1 if inputs.labels is None else int(inputs.labels[i]),
                    video=None if inputs.videos is None else inputs.videos[i],
                    attribution=batch[k],
                    elements=found[i].elements,
                    methods=element_values(
                        self.methods, game, found[i].features, prior=model.prior
                    ),
                    content=found[i].content,
                    stamp=found[i].stamp,
                )
        return done

    def _show(self, names: tuple[str, ...], found: list[Explained]) -> None:
        """Print the table, write it as CSV, draw the first figures."""
        classes = self.contrast or (self.target,)
        shown = [choose(one, classes, names) for one in found]
        for one, values in zip(found[: self.figures], shown, strict=False):
            draw(self.out / "figures", one, values, names, self.overlay)
        write_table(self.out / "table.csv", found, names)
        print_table(found, shown, names)
        for warning in sorted({text for one in found for text in one.attribution.warnings}):
            say(f"Note: {warning}")


def _read(inputs: Inputs, frames: int | None, i: int) -> _Sequence:
    """Read a sequence, with digests of its input.

    Raises:
      ValueError: a file that changes meanwhile; as `Inputs.read`.
    """
    (stamp,) = _stamps(inputs, [i])
    features, elements = inputs.read(i, most=frames)
    (content,) = inputs.contents([i], frames, [(features, elements)])
    same, way_out = _stamps(inputs, [i]) == [stamp], "Explain it when it is complete."
    expect(same, inputs.uids[i], "a file that stays as it is", "one that changes", way_out)
    return _Sequence(features, elements, content, stamp)


def _read_some(
    inputs: Inputs, rows: list[int], frames: int | None, skipped: dict[int, str]
) -> tuple[dict[int, _Sequence], int]:
    """Read sequences for some seconds; returns the readable ones and the number tried."""
    began, found, n_tried = time.monotonic(), {}, 0
    for i in rows:
        sequence = _attempt(inputs, i, functools.partial(_read, inputs, frames), skipped)
        n_tried += 1
        if sequence is not None:
            found[i] = sequence
        if time.monotonic() - began > _READ_FOR:
            break
    return found, n_tried


def _stamps(inputs: Inputs, positions: list[int]) -> list[str]:
    """Return digests of the size and time of the files of some sequences."""
    texts = inputs.stamps_when_opened(positions) or [""] * len(positions)
    return [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]


def _attempt(inputs: Inputs, i: int, read: Callable[[int], T], skipped: dict[int, str]) -> T | None:
    """Return read(i); for a video that cannot be read None, so that the others are explained."""
    try:
        return read(i)
    except (ValueError, OSError) as error:
        if inputs.videos is None:
            raise
        skipped[i] = str(error)
        return None
