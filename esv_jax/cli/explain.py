"""`esv-jax explain`: sequences or videos and a model in; values, a table and figures out."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import jax
import numpy as np
import tyro

from esv_jax import results
from esv_jax.checks import expect
from esv_jax.cli.chosen_estimator import EstimatorName, choose_by_name
from esv_jax.cli.chosen_model import ChosenModel, choose_model
from esv_jax.cli.explained import Explained, choose, draw, print_table, write_table
from esv_jax.cli.outputs import expect_free, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say
from esv_jax.data.classes import class_index
from esv_jax.data.inputs import Inputs, is_video, open_inputs, open_videos
from esv_jax.estimators import Constructive, Surrogate
from esv_jax.explanations import explain_batch
from esv_jax.files import make_folder
from esv_jax.games import make_game
from esv_jax.maps import element_values
from esv_jax.models import TrainedModel

_TOGETHER = 32  # sequences between two steps of the progress bar, and lost at most to Ctrl-C
_SAVE_EVERY = 30.0  # seconds after which finished results are written, at least

T = TypeVar("T")
MethodName = Literal[
    "integrated_gradients", "gradient_x_input", "grad_cam", "leave_one_out", "leave_one_in"
]
Done = dict[int, Explained]


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explain videos or sequences of features: what did each frame contribute to the prediction?

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
    """Folder for results.nc, table.csv and figures/."""
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
    """Explain the first so many."""
    figures: int = 5
    """Draw the first so many; of videos also a strip of frames and an overlay."""
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
        store = self._prepared()

        # Longest first: what does not fit is refused before anything is computed.
        skipped: dict[int, str] = {}
        lengths = {i: n for i in chosen if (n := _tried(inputs, i, inputs.length, skipped))}
        queue = sorted(lengths, key=lambda i: -min(lengths[i], frames or lengths[i]))
        done: Done = {}
        stopped: BaseException | None = None
        saved, cost = time.monotonic(), 0.0  # last time results were written, and how long it took
        try:
            with progress(len(queue), "Explaining", "seq") as bar:
                for start in range(0, len(queue), _TOGETHER):
                    together = queue[start : start + _TOGETHER]
                    done |= self._explained(inputs, together, model, frames, skipped)
                    bar.update(len(together))
                    if time.monotonic() - saved > max(_SAVE_EVERY, 20 * cost):  # against kills
                        began = time.monotonic()
                        found = [done[i] for i in chosen if i in done]
                        self._save(store, chosen_model, names, found)
                        saved = time.monotonic()
                        cost = saved - began
        except BaseException as error:
            stopped = error
        kept = [i for i in chosen if i in done]  # in the order of the data
        if kept:
            found = [done[i] for i in kept]
            self._save(store, chosen_model, names, found)
            self._show(names, found)
            say(f"Results of {len(kept)} of {len(chosen)} sequences in {store}")
        if stopped is not None:
            raise stopped
        for i in skipped:
            complain(skipped[i])
        return BAD_INPUT if skipped else 0

    def _prepared(self) -> Path:
        """The path of the results file, checked before any work is done."""
        store = self.out / "results.nc"
        make_folder(self.out)
        expect_free(store, overwrite=self.overwrite)
        return store

    def _explained(
        self,
        inputs: Inputs,
        rows: list[int],
        model: TrainedModel,
        frames: int | None,
        skipped: dict[int, str],
    ) -> Done:
        """Attributions of some sequences, with the indices of their elements."""
        tried = {
            i: _tried(inputs, i, functools.partial(inputs.read, most=frames), skipped) for i in rows
        }
        found = {i: pair for i, pair in tried.items() if pair is not None}
        rows, picked = list(found), list(found.values())
        if not rows:
            return {}
        sizes = np.array([len(index) for _, index in picked])
        expect(bool(sizes.min() > 0), "data", "at least one element per sequence", "none")
        xs = np.zeros((len(rows), sizes.max(), picked[0][0].shape[1]), np.float32)
        for row, (features, index) in zip(xs, picked, strict=True):
            row[: len(index)] = features
        game = make_game(model.heads)
        batch = explain_batch(
            game,
            xs,
            sizes,
            prior=model.prior,
            estimator=choose_by_name(self.estimator, self.surrogate, self.constructive),
            key=jax.random.key(self.seed),
            uids=[inputs.uids[i] for i in rows],
            tolerance=self.tolerance,
            max_evaluations=self.max_evaluations,
        )
        others = [
            element_values(self.methods, game, features, model.prior) for features, _ in picked
        ]
        return {
            i: Explained(
                uid=inputs.uids[i],
                label=-1 if inputs.labels is None else int(inputs.labels[i]),
                video=None if inputs.videos is None else inputs.videos[i],
                attribution=batch[k],
                elements=picked[k][1],
                methods=others[k],
            )
            for k, i in enumerate(rows)
        }

    def _save(
        self, store: Path, model: ChosenModel, names: tuple[str, ...], found: list[Explained]
    ) -> None:
        results.save(
            store,
            [one.attribution for one in found],
            uids=[one.uid for one in found],
            class_names=names,
            labels=[one.label for one in found],
            element_index=[one.elements.tolist() for one in found],
            settings=settings_of("explain", self, model.digest),
            methods={name: [one.methods[name] for one in found] for name in self.methods},
            overwrite=True,
        )

    def _show(self, names: tuple[str, ...], found: list[Explained]) -> None:
        """The table on screen, the long table as CSV, the first figures."""
        asked = self.contrast or (self.target,)
        shown = [choose(one, asked, names) for one in found]
        for one, values in zip(found[: self.figures], shown, strict=False):
            draw(self.out / "figures", one, values, names, self.overlay)
        write_table(self.out / "table.csv", found, names)
        print_table(found, shown, names)
        for warning in dict.fromkeys(text for one in found for text in one.attribution.warnings):
            say(f"Note: {warning}")


def _tried(inputs: Inputs, i: int, read: Callable[[int], T], skipped: dict[int, str]) -> T | None:
    """read(i); of a video that cannot be read None, so that it does not keep up the others."""
    try:
        return read(i)
    except (ValueError, OSError) as error:
        if inputs.videos is None:
            raise
        skipped[i] = str(error)
        return None
