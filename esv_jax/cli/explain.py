"""`esv-jax explain`: sequences or videos and a model in; values, a table and figures out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import tyro

from esv_jax.checks import expect, first_few
from esv_jax.cli.chosen_estimator import EstimatorName, choose_by_name
from esv_jax.cli.chosen_model import ChosenModel, choose_model
from esv_jax.cli.explained import (
    WAY_OUT,
    WRITING,
    Explained,
    choose,
    draw,
    print_table,
    read_explained,
    save_explained,
    write_table,
)
from esv_jax.cli.outputs import expect_free, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say
from esv_jax.data.classes import class_index
from esv_jax.data.inputs import Inputs, is_video, open_inputs, open_videos
from esv_jax.estimators import Constructive, Surrogate
from esv_jax.explanations import explain_batch
from esv_jax.files import locked_folder, make_folder, remove_leftovers
from esv_jax.games import make_game
from esv_jax.maps import element_values
from esv_jax.models import TrainedModel

_TOGETHER = 32  # sequences between two steps of the progress bar, and lost at most to Ctrl-C
_READ_FOR = 10.0  # seconds of reading after which there are fewer
_SAVE_EVERY = 30.0  # seconds after which finished results are written, at least

T = TypeVar("T")
MethodName = Literal[
    "integrated_gradients", "gradient_x_input", "grad_cam", "leave_one_out", "leave_one_in"
]
Done = dict[int, Explained]


class _Sequence(NamedTuple):
    """One sequence as it was read.

    Attributes:
      features: (n, D). elements: (n,) their indices in the whole sequence.
      content, stamp: see `Explained`.
    """

    features: np.ndarray
    elements: np.ndarray
    content: str
    stamp: str


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explain videos or sequences of features: what did each frame contribute?

    Finished results are written every half minute; the same command again continues them.
    Examples: esv-jax explain clip.mp4 --frames 8; esv-jax explain clip.mp4 --frames all;
    esv-jax explain JapaneseVowels_TEST.ts --model m.safetensors --frames 16
    """

    data: tyro.conf.Positional[Path]
    """A video, a folder or list (.txt, .csv) of videos; or sequences: .ts, .npy (n, D) or
    (V, n, D), an HDF5 feature store."""
    model: Path | None = None
    """Weights of esv-jax train or import-play-fair; for videos by default the shipped model."""
    backbone: Path | None = None
    """Weights that turn frames into the features of --model: .safetensors or .pth."""
    out: Path = Path("results")
    """Folder for results.nc, table.csv and figures/; results of the same command are continued."""
    frames: int | Literal["all"] = "all"
    """Elements to explain, at segment centres; shorter sequences keep all theirs."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "gt"
    """Class to show: gt (true; predicted where unknown), pred, a name or an id. All are stored."""
    contrast: tuple[str, str] | None = None
    """Two classes (gt, pred, names or ids): show the first minus the second."""
    estimator: EstimatorName = "auto"
    """auto is exact where it fits, beyond it the best sampled one that the model allows."""
    surrogate: Surrogate = Surrogate()
    """Settings of the surrogate estimator."""
    constructive: Constructive = Constructive()
    """Settings of the paper's Algorithm 1."""
    tolerance: float | None = None
    """Half width that 95 % intervals should not exceed; sampling goes on until they do not."""
    max_evaluations: int = 100_000
    """Model evaluations per sequence at which it stops all the same."""
    methods: tuple[MethodName, ...] = ()
    """Other methods, whose values of all classes are stored beside ESVs; for short sequences."""
    uids: tuple[str, ...] = ()
    """Sequences to explain; default all."""
    limit: int | None = None
    """Explain the first N sequences."""
    figures: int = 5
    """Number of sequences to draw; of videos also a strip of frames and an overlay."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """Format of the overlay: the video with the values moving under it."""
    label: str | None = None
    """Which label of an HDF5 store is the class; default "action", or the only one."""
    classes: Path | None = None
    """CSV of class names (name,id), in place of the model's."""
    seed: int = 0
    """Seed of the sampled estimators; draws depend on it and on the uid alone."""
    overwrite: bool = False
    """Replace what is in the output folder."""

    def run(self) -> int:
        """Explain, save, print."""
        videos = is_video(self.data)
        chosen_model = choose_model(self.model, self.backbone, videos=videos)
        model = chosen_model.trained
        if videos and chosen_model.encoder is not None:
            inputs = open_videos(self.data, chosen_model.encoder, self.classes)
        else:
            inputs = open_inputs(self.data, self.label, self.classes)
        if chosen_model.note:
            say(chosen_model.note)
        names = inputs.class_names if self.classes is not None else model.class_names
        assert names is not None
        expect(
            len(names) == len(model.class_names),
            "classes",
            f"{len(model.class_names)} names, as the model has classes",
            len(names),
        )
        frames = None if self.frames == "all" else self.frames
        expect(frames is None or frames >= 1, "frames", "a number >= 1 or all", self.frames)
        chosen = inputs.positions(self.uids, self.limit)
        expect(len(chosen) > 0, "data", "at least one sequence to explain", "none")
        for name in (self.target, *(self.contrast or ())):
            if name not in ("gt", "pred"):
                class_index(name, names)  # a wrong name should not cost the whole run
        make_folder(self.out)
        writing = self.out / WRITING
        with locked_folder(writing, "out", "a folder that no other explain is writing to"):
            remove_leftovers(writing)
            return self._explain(chosen_model, inputs, chosen, names)

    def _explain(
        self, chosen_model: ChosenModel, inputs: Inputs, chosen: list[int], names: tuple[str, ...]
    ) -> int:
        """Explain what is missing in the output folder, and show everything."""
        model = chosen_model.trained
        frames = None if self.frames == "all" else self.frames
        store = self.out / "results.nc"
        settings = settings_of("explain", self, chosen_model.digest)
        done = self._explained_before(store, inputs, chosen, names, settings)
        before = list(done)

        # Longest first: what does not fit is refused before anything is computed.
        skipped: dict[int, str] = {}
        missing = [i for i in chosen if i not in done]
        lengths = {i: n for i in missing if (n := _tried(inputs, i, inputs.length, skipped))}
        queue = sorted(lengths, key=lambda i: -min(lengths[i], frames or lengths[i]))
        stopped: BaseException | None = None
        saved, cost = time.monotonic(), 0.0  # last time results were written, and how long it took
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
        settings: dict[str, Any],
    ) -> Done:
        """Read the results of an earlier run, checked before any work is done.

        Raises:
          FileExistsError: results of other settings or inputs. OSError: no place to write to.
        """
        expect_free(store, overwrite=True)
        if self.overwrite or not store.exists():
            return {}
        place = {inputs.uids[i]: i for i in chosen}
        found = read_explained(store, names, settings)
        expected, kind = f"the inputs that {store} was made of", FileExistsError
        others = [one.uid for one in found if one.uid not in place]
        got = f"inputs without {first_few(map(repr, others))}"
        expect(not others, "data", expected, got, WAY_OUT, kind=kind)
        positions = [place[one.uid] for one in found]
        labels = [-1 if inputs.labels is None else int(inputs.labels[i]) for i in positions]
        relabelled = [one.uid for one, c in zip(found, labels, strict=True) if one.label != c]
        got = f"others, with new classes of {first_few(map(repr, relabelled))}"
        expect(not relabelled, "data", expected, got, WAY_OUT, kind=kind)
        frames = None if self.frames == "all" else self.frames
        stamps = _stamps(inputs, positions)
        moved = [k for k, one in enumerate(found) if one.stamp != stamps[k]]  # to be read again
        contents = inputs.contents([positions[k] for k in moved], frames)
        changed = [
            found[k].uid
            for k, content in zip(moved, contents, strict=True)
            if found[k].content != content
        ]
        got = f"others, with new content of {first_few(map(repr, changed))}"
        expect(not changed, "data", expected, got, WAY_OUT, kind=kind)
        kinds = "sequences" if inputs.videos is None else "videos"
        say(f"{len(found)} of {len(chosen)} {kinds} were explained before")
        return {
            i: one._replace(video=None if inputs.videos is None else inputs.videos[i])
            for i, one in zip(positions, found, strict=True)
        }

    def _explained(self, inputs: Inputs, found: dict[int, _Sequence], model: TrainedModel) -> Done:
        """Attributions of some sequences, with the indices of their elements."""
        done: Done = {}
        game = make_game(model.heads)
        # One length at a time: whether values are exact is a property of a whole batch.
        for n, group in itertools.groupby(found, lambda i: len(found[i].elements)):
            expect(n > 0, "data", "at least one element per sequence", "none")
            rows = list(group)
            batch = explain_batch(
                game,
                np.array([found[i].features for i in rows], np.float32),
                prior=model.prior,
                estimator=choose_by_name(self.estimator, self.surrogate, self.constructive),
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
                    methods=element_values(self.methods, game, found[i].features, model.prior),
                    content=found[i].content,
                    stamp=found[i].stamp,
                )
        return done

    def _show(self, names: tuple[str, ...], found: list[Explained]) -> None:
        """The table on screen, the long table as CSV, the first figures."""
        asked = self.contrast or (self.target,)
        shown = [choose(one, asked, names) for one in found]
        for one, values in zip(found[: self.figures], shown, strict=False):
            draw(self.out / "figures", one, values, names, self.overlay)
        write_table(self.out / "table.csv", found, names)
        print_table(found, shown, names)
        for warning in sorted({text for one in found for text in one.attribution.warnings}):
            say(f"Note: {warning}")


def _read(inputs: Inputs, frames: int | None, i: int) -> _Sequence:
    """Read a sequence, with digests of what it was made of.

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
    """Read sequences until that has taken long: those that could be read, how many were tried."""
    began, found, n_tried = time.monotonic(), {}, 0
    for i in rows:
        sequence = _tried(inputs, i, functools.partial(_read, inputs, frames), skipped)
        n_tried += 1
        if sequence is not None:
            found[i] = sequence
        if time.monotonic() - began > _READ_FOR:
            break
    return found, n_tried


def _stamps(inputs: Inputs, positions: list[int]) -> list[str]:
    """Digests of the size and time of the files of some sequences."""
    texts = inputs.stamps_when_opened(positions) or [""] * len(positions)
    return [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]


def _tried(inputs: Inputs, i: int, read: Callable[[int], T], skipped: dict[int, str]) -> T | None:
    """read(i); of a video that cannot be read None, so that it does not keep up the others."""
    try:
        return read(i)
    except (ValueError, OSError) as error:
        if inputs.videos is None:
            raise
        skipped[i] = str(error)
        return None
