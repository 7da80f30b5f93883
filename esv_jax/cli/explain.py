"""`esv-jax explain`: sequences or videos and a model in; values, a table and figures out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import tyro

from esv_jax import plots, results
from esv_jax.attribution import Attribution
from esv_jax.batching import explain_batch
from esv_jax.checks import expect
from esv_jax.cli.chosen_estimator import EstimatorName, choose_by_name
from esv_jax.cli.chosen_model import ChosenModel, choose_model
from esv_jax.cli.outputs import expect_free, file_name, settings_of
from esv_jax.cli.printing import BAD_INPUT, complain, progress, say, signed, table
from esv_jax.cli.video_figures import draw_video
from esv_jax.data.classes import class_index
from esv_jax.data.inputs import Inputs, is_video, open_inputs, open_videos
from esv_jax.estimators import Constructive, Surrogate
from esv_jax.extras import require
from esv_jax.files import atomic_path, make_folder
from esv_jax.games import make_game
from esv_jax.maps import element_values
from esv_jax.models import TrainedModel

_SHOWN = 20  # rows of the printed table
_TOGETHER = 32  # sequences between two steps of the progress bar, and lost at most to Ctrl-C

T = TypeVar("T")
MethodName = Literal[
    "integrated_gradients", "gradient_x_input", "grad_cam", "leave_one_out", "leave_one_in"
]


class _Explained(NamedTuple):
    """One sequence: its values, its elements' indices, other methods' values (n, C) by name."""

    attribution: Attribution
    elements: np.ndarray
    methods: dict[str, np.ndarray]


Done = dict[int, _Explained]


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
    """Seed of the sampled estimators; draws depend on it and on the uid, never on the company."""
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
        try:
            with progress(len(queue), "Explaining", "seq") as bar:
                for start in range(0, len(queue), _TOGETHER):
                    together = queue[start : start + _TOGETHER]
                    done |= self._explained(inputs, together, model, frames, skipped)
                    bar.update(len(together))
        except BaseException as error:
            stopped = error
        kept = [i for i in chosen if i in done]  # in the order of the data
        if kept:
            self._save(store, inputs, chosen_model, names, kept, done)
            self._show(inputs, names, kept, done)
            say(f"Results of {len(kept)} of {len(chosen)} sequences in {store}")
        if stopped is not None:
            raise stopped
        for i in skipped:
            complain(skipped[i])
        return BAD_INPUT if skipped else 0

    def _prepared(self) -> Path:
        """The results file, its place questioned before any work is done."""
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
        return {i: _Explained(batch[k], picked[k][1], others[k]) for k, i in enumerate(rows)}

    def _save(
        self,
        store: Path,
        inputs: Inputs,
        model: ChosenModel,
        names: tuple[str, ...],
        kept: list[int],
        done: Done,
    ) -> None:
        results.save(
            store,
            [done[i].attribution for i in kept],
            uids=[inputs.uids[i] for i in kept],
            class_names=names,
            labels=None if inputs.labels is None else [int(inputs.labels[i]) for i in kept],
            element_index=[done[i].elements.tolist() for i in kept],
            methods={name: [done[i].methods[name] for i in kept] for name in self.methods},
            settings=settings_of("explain", self, model.digest),
            overwrite=True,
        )

    def _classes(self, inputs: Inputs, i: int, names: tuple[str, ...], att: Attribution) -> Any:
        """The class to show, or the pair to contrast, of one sequence."""

        def resolve(name: str) -> int:
            if name == "gt" and inputs.labels is not None:
                return int(inputs.labels[i])
            if name in ("gt", "pred"):
                return int(np.argmax(att.scores))
            return class_index(name, names)

        if self.contrast is not None:
            return tuple(resolve(name) for name in self.contrast)
        return resolve(self.target)

    def _show(self, inputs: Inputs, names: tuple[str, ...], kept: list[int], done: Done) -> None:
        """The table on screen, the long table as CSV, the first figures."""
        rows = []
        frames = []
        for k, i in enumerate(kept):
            att, index = done[i].attribution, done[i].elements
            shown = self._classes(inputs, i, names, att)
            uid = inputs.uids[i]
            if isinstance(shown, tuple):
                a, b = shown
                values, title = np.asarray(att.contrast(a, b)), f"{names[a]} - {names[b]}"
                evidence = float(att.evidential_score(a) - att.evidential_score(b))
            else:
                values, title = np.asarray(att.for_class(shown)), names[shown]
                evidence = float(att.evidential_score(shown))
            predicted = int(np.argmax(att.scores))
            top, bottom = int(values.argmax()), int(values.argmin())
            rows.append(
                (
                    uid,
                    att.n,
                    title,
                    names[predicted],
                    f"{float(att.scores[predicted]):.3f}",
                    signed(evidence),
                    f"{index[top]} ({signed(values[top])})",
                    f"{index[bottom]} ({signed(values[bottom])})",
                    _how(att),
                )
            )
            frame = att.to_dataframe(names)
            frame.insert(0, "uid", uid)
            frame.insert(2, "element_index", index[frame["element"].to_numpy()])
            frames.append(frame)
            if k < self.figures:
                self._draw(uid, att, shown, names, index)
                if inputs.videos is not None:
                    c = shown[0] if isinstance(shown, tuple) else shown
                    place = self.out / "figures" / file_name(uid)
                    draw_video(inputs.videos[i], att, c, index, names[c], place, self.overlay)
        pandas = require("pandas", "files")
        with atomic_path(self.out / "table.csv") as path:
            pandas.concat(frames).to_csv(path, index=False)
        columns = ["uid", "n", "class", "predicted", "score", "evidence", "most", "least", "values"]
        title = "Element Shapley Values"
        if len(rows) > _SHOWN:
            title += f" (first {_SHOWN} of {len(rows)}; all in table.csv)"
        table(title, columns, rows[:_SHOWN])

        for warning in dict.fromkeys(text for i in kept for text in done[i].attribution.warnings):
            say(f"Note: {warning}")

    def _draw(
        self, uid: str, att: Attribution, shown: Any, names: tuple[str, ...], index: np.ndarray
    ) -> None:
        labels = [str(e) for e in index]
        if isinstance(shown, tuple):
            axes = plots.plot_contrast(
                att, *shown, class_names=names, element_labels=labels, title=uid
            )
        else:
            name = f"class {names[shown]}" if names[shown].isdigit() else names[shown]
            axes = plots.plot_elements(
                att, shown, class_name=name, element_labels=labels, title=uid
            )
        folder = self.out / "figures"
        folder.mkdir(exist_ok=True)
        figure = axes.get_figure(root=True)
        assert figure is not None
        plots.save_figure(figure, folder / f"{file_name(uid)}.png")


def _tried(inputs: Inputs, i: int, read: Callable[[int], T], skipped: dict[int, str]) -> T | None:
    """read(i); of a video that cannot be read None, so that it does not keep up the others."""
    try:
        return read(i)
    except (ValueError, OSError) as error:
        if inputs.videos is None:
            raise
        skipped[i] = str(error)
        return None


def _how(att: Attribution) -> str:
    """How values came about, for the table."""
    if att.exact:
        return "exact"
    wide = att.within_tolerance is not None and not bool(att.within_tolerance)
    return "sampled, beyond the tolerance" if wide else "sampled"
