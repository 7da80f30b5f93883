"""`esv-jax import-play-fair`: conversion of PyTorch checkpoints to one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from esv_jax import checkpoints, models
from esv_jax.checkpoints.play_fair import ImportReport
from esv_jax.checks import expect, first_few
from esv_jax.cli.options import with_backbone
from esv_jax.cli.printing import progress, say, table
from esv_jax.data import FeatureStore
from esv_jax.explanations import explain
from esv_jax.files import atomic_path, expect_writable, make_folder
from esv_jax.games.multi_scale import make_game
from esv_jax.models.trained import model_digest

_DIGITS = 12  # of a digest in the table
_TOLERANCE = 1e-6  # between the values of two programs, in units of the scores


@dataclasses.dataclass(frozen=True)
class ImportPlayFair:
    """Import the checkpoints of play-fair, without torch or running their code.

    Example: esv-jax import-play-fair play-fair --out mtrn.safetensors
    """

    folder: tyro.conf.Positional[Path]
    """Project folder of play-fair, or a folder with checkpoints, class-priors.csv and
    classes.csv."""
    out: Path = Path("model.safetensors")
    """Output file with weights, priors and class names."""
    model: Literal["auto", "mtrn", "tsn"] = "auto"
    """Heads of all scales (mtrn) or the average-consensus head (tsn); auto prefers mtrn."""
    n_max: int | None = None
    """Largest scale to read, in frames (published: 8); default all."""
    priors: Path | None = None
    """CSV of class priors that replace the folder's."""
    classes: Path | None = None
    """CSV of class names that replace the folder's."""
    backbone: Path | None = None
    """Weights of the backbone, .pth or .safetensors; the model then takes videos."""
    report: Path | None = None
    """Output file for the report, as JSON; default only printed."""
    results: Path | None = None
    """Result pickle of play-fair to compare with values computed from --features."""
    features: Path | None = None
    """HDF5 features that the result pickle was computed from."""

    def run(self) -> int:
        """Import, compare, save, report; returns 1 if the numbers disagree."""
        both = (self.results is None) == (self.features is None)
        expect(both, "results, features", "both or none", "one of them")
        for path in (self.out, self.report):
            if path is not None:
                make_folder(path.parent)
                expect_writable(path)
        found = checkpoints.read_play_fair(
            self.folder,
            None if self.model == "auto" else self.model,
            n_max=self.n_max,
            priors=self.priors,
            classes=self.classes,
        )
        _show(found.report)
        agree = found.report.faithful
        content = found.report.to_json() | {"model_digest": model_digest(found.model)}
        if self.results is not None and self.features is not None:
            differences = _compare(found.model, self.results, self.features)
            content["results"] = differences
            rows = [(name, f"{difference:.1e}") for name, difference in differences.items()]
            table(f"Largest differences from {self.results.name}", ["values", "difference"], rows)
            agree &= max(differences.values()) <= _TOLERANCE
        if self.backbone is None:
            models.save_model(self.out, found.model)
        else:
            models.save_video_model(self.out, with_backbone(found.model, self.backbone))
        if self.report is not None:
            with atomic_path(self.report) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        say(f"Weights in {self.out}")
        if not agree:
            say("The numbers differ by more than rounding errors: do not use this model.")
        return 0 if agree else 1


def _compare(model: models.TrainedModel, results: Path, features: Path) -> dict[str, float]:
    """Return the largest differences of scores and ESVs from those stored by play-fair."""
    stored = checkpoints.load_pickle(results)
    keys = ("uids", "sequence_idxs", "scores", "shapley_values")
    is_dict = isinstance(stored, dict)
    listed = first_few(map(repr, stored), 6) if is_dict else type(stored).__name__
    fits = is_dict and all(isinstance(stored.get(key), list | np.ndarray) for key in keys)
    fits = fits and len({len(stored[key]) for key in keys}) == 1 and len(stored["uids"]) > 0
    expect(fits, str(results), f"a dict of {', '.join(keys)}, one entry per video", listed)
    game = make_game(model.heads)
    worst = {"scores": 0.0, "shapley_values": 0.0}
    with FeatureStore(features) as store, progress(len(stored["uids"]), "Comparing", "seq") as bar:
        for uid, index, *stored_values in zip(*(stored[key] for key in keys), strict=True):
            x, _ = store[str(uid)]
            where, index = f"{results}, {str(uid)!r}", np.asarray(index)
            inside = index.dtype.kind == "i" and index.ndim == 1 and index.size > 0
            inside = inside and index.min() >= 0 and index.max() < len(x)
            expect(inside, where, f"indices of its {len(x)} elements", index)
            att = explain(game, x[index], prior=model.prior)
            values = (att.scores, att.values)
            for name, own, other in zip(worst, values, stored_values, strict=True):
                same, got = np.shape(other) == own.shape, np.shape(other)
                expect(same, f"{where}, {name}", f"shape {own.shape}", got)
                worst[name] = max(worst[name], float(np.abs(np.asarray(own) - other).max()))
            bar.update(1)
    return worst


def _show(report: ImportReport) -> None:
    """Print the use of each file, and the largest difference of logits."""
    rows = [
        (
            record.path,
            record.role,
            record.layout or "-",
            len(record.used) or "-",
            ", ".join(record.ignored) or "-",
            record.digest[:_DIGITS],
        )
        for record in report.files
    ]
    table("Files", ["file", "role", "layout", "entries", "ignored", "sha256"], rows)
    sizes = ", ".join(f"{name} = {size}" for name, size in report.sizes.items())
    worst = max(report.parity.values())
    say(f"{report.model.upper()}, {sizes}: logits within {worst:.1e} of the checkpoint's")
