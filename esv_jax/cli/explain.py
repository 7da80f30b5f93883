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
    Explanation,
    Overlay,
    choose,
    draw,
    print_table,
    read_results,
    save_results,
    write_table,
)
from esv_jax.cli.options import SequenceOptions, expect_free, settings_of
from esv_jax.cli.printing import exit_code, progress, say
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


class _Sequence(NamedTuple):
    """Features (n, D) of one sequence as read; the others are as of `Explanation`."""

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
        expected = f"{len(model.class_names)} names, as the model has classes"
        expect(len(names) == len(model.class_names), "classes", expected, len(names))
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
        store = self.out / "results.nc"
        done = self._explained_before(store, inputs, chosen, names, settings)
        before = [one.uid for one in done.values()]

        def in_order() -> list[Explanation]:
            return [done[i] for i in chosen if i in done]

        # Longest first: a sequence that does not fit is refused before anything is computed.
        skipped: dict[int, str] = {}
        missing = [i for i in chosen if i not in done]
        lengths = {i: n for i in missing if (n := _unless_bad(inputs, i, inputs.length, skipped))}
        queue = sorted(lengths, key=lambda i: -min(lengths[i], self.n_frames or lengths[i]))
        saved, cost = time.monotonic(), 0.0  # time of the last saving, and its duration
        try:
            with progress(len(queue), "Explaining", "seq") as bar:
                while queue:
                    read, n_tried = _read_some(inputs, queue[:_TOGETHER], self.n_frames, skipped)
                    done |= self._explain_some(inputs, read, model)
                    queue = queue[n_tried:]
                    bar.update(n_tried)
                    if time.monotonic() - saved > max(_SAVE_EVERY, 20 * cost):  # against kills
                        began = time.monotonic()
                        save_results(store, in_order(), names, settings)
                        saved = time.monotonic()
                        cost = saved - began
        finally:
            if found := in_order():
                if [one.uid for one in found] != before:
                    save_results(store, found, names, settings)
                self._show(names, found)
                say(f"Results of {len(found)} of {len(chosen)} sequences in {store}")
        return exit_code(skipped.values())

    def _explained_before(
        self,
        store: Path,
        inputs: Inputs,
        chosen: list[int],
        names: tuple[str, ...],
        settings: JSONObject,
    ) -> dict[int, Explanation]:
        """Read the results of an earlier run; refuse those of other settings or inputs."""
        expect_free(store, overwrite=True)
        if self.overwrite or not store.exists():
            return {}

        def expect_none(uids: list[str], got: str) -> None:
            got = f"{got} {first_few(map(repr, uids))}"
            expect(not uids, "data", f"the inputs of {store}", got, WAY_OUT, kind=FileExistsError)

        position = {inputs.uids[i]: i for i in chosen}
        found = read_results(store, names, settings)
        expect_none([one.uid for one in found if one.uid not in position], "inputs without")
        positions = [position[one.uid] for one in found]
        old = dict(zip(positions, found, strict=True))
        relabelled = [one.uid for i, one in old.items() if one.label != _label(inputs, i)]
        expect_none(relabelled, "others, with new classes of")
        stamps = dict(zip(positions, _stamps(inputs, positions), strict=True))
        moved = [i for i, one in old.items() if one.stamp != stamps[i]]  # read again
        contents = zip(moved, inputs.contents(moved, self.n_frames), strict=True)
        changed = [old[i].uid for i, content in contents if old[i].content != content]
        expect_none(changed, "others, with new content of")
        plural = "sequences" if inputs.videos is None else "videos"
        say(f"{len(found)} of {len(chosen)} {plural} were explained before")
        return {i: one._replace(video=_video(inputs, i)) for i, one in old.items()}

    def _explain_some(
        self, inputs: Inputs, found: dict[int, _Sequence], model: TrainedModel
    ) -> dict[int, Explanation]:
        """Explain some sequences."""
        done = {}
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
                features, elements, content, stamp = found[i]
                done[i] = Explanation(
                    uid=inputs.uids[i],
                    label=_label(inputs, i),
                    video=_video(inputs, i),
                    attribution=batch[k],
                    elements=elements,
                    methods=element_values(self.methods, game, features, prior=model.prior),
                    content=content,
                    stamp=stamp,
                )
        return done

    def _show(self, names: tuple[str, ...], found: list[Explanation]) -> None:
        """Print the table, write it as CSV, draw the first figures."""
        shown = [choose(one, self.contrast or (self.target,), names) for one in found]
        for one, values in zip(found[: self.figures], shown, strict=False):
            draw(self.out / "figures", one, values, names, self.overlay)
        write_table(self.out / "table.csv", found, names)
        print_table(found, shown, names)
        for warning in sorted({text for one in found for text in one.attribution.warnings}):
            say(f"Note: {warning}")


def _label(inputs: Inputs, i: int) -> int:
    return -1 if inputs.labels is None else int(inputs.labels[i])


def _video(inputs: Inputs, i: int) -> Path | None:
    return None if inputs.videos is None else inputs.videos[i]


def _read(inputs: Inputs, frames: int | None, i: int) -> _Sequence:
    """Read a sequence, with digests of its input; refuse a file that changes meanwhile."""
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
    read = functools.partial(_read, inputs, frames)
    for i in rows:
        n_tried += 1
        if sequence := _unless_bad(inputs, i, read, skipped):
            found[i] = sequence
        if time.monotonic() - began > _READ_FOR:
            break
    return found, n_tried


def _stamps(inputs: Inputs, positions: list[int]) -> list[str]:
    """Return digests of the size and time of the files of some sequences."""
    texts = inputs.stamps_when_opened(positions) or [""] * len(positions)
    return [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]


def _unless_bad(
    inputs: Inputs, i: int, read: Callable[[int], T], skipped: dict[int, str]
) -> T | None:
    """Return read(i); for a video that cannot be read None, so that the others are explained."""
    try:
        return read(i)
    except (ValueError, OSError) as error:
        if inputs.videos is None:
            raise
        skipped[i] = str(error)
        return None
