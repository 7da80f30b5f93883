"""Job of a sweep: data, model and identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax import data as sources
from esv_jax.checks import AnyArray, expect, message
from esv_jax.games import ScaleGame, SubsetGame, make_game
from esv_jax.games.protocol import Game
from esv_jax.inputs import checked_prior
from esv_jax.models import TrainedModel, load_model, model_digest
from esv_jax.models.tensor_files import digest_of
from esv_jax.results import store
from esv_jax.sweeps.planning import Shard


@dataclasses.dataclass(frozen=True)
class Job:
    """Data and model of a sweep.

    Attributes:
      inputs: the data; `rows`: positions in it of the videos to explain.
      labels: of these videos, or None.
    """

    inputs: sources.Inputs
    rows: np.ndarray
    game: Game
    prior: AnyArray
    class_names: tuple[str, ...]
    digest: str
    width: tuple[int, ...]

    @classmethod
    def of(
        cls,
        data: Any,
        model: Any,
        prior: Any,
        class_names: Sequence[str] | None,
        digest: str | None,
        uids: Sequence[str],
        limit: int | None,
        frames: int | None,
    ) -> Job:
        """Open model and data, and check that they fit together."""
        inputs = data if isinstance(data, sources.Inputs) else sources.open_inputs(data)
        rows = np.array(inputs.positions(tuple(uids), limit), int)
        expect(len(rows) > 0, "data", "at least one video", "none")
        name, times = Counter(inputs.uids[i] for i in rows).most_common(1)[0]
        expect(times == 1, "uids", "distinct uids", f"{name!r} {times} times")
        if isinstance(model, str | PathLike):
            model = load_model(model)
        if isinstance(model, TrainedModel):
            expect(prior is None, "prior", "None beside a model that has one", "a prior")
            prior, class_names = model.prior, class_names or model.class_names
            digest = digest or model_digest(model)
            game: Game = make_game(model.heads)
        elif isinstance(model, SubsetGame | ScaleGame):
            game = model
            digest = digest or _digest_of_game(model)
        else:
            expected = "a TrainedModel, its file, or a game"
            raise TypeError(message("model", expected, type(model).__name__))
        example = _first_readable(inputs, rows, frames)
        try:
            game.begin(example)
            game.output(example)
        except ValueError as error:
            raise ValueError(f"data that do not fit the model: {error}") from error
        if class_names is None:
            class_names = [str(c) for c in range(game.output(example).shape[0])]
        checked = checked_prior(game, example, prior)
        n_classes = checked.shape[0]
        got = len(class_names)
        expect(got == n_classes, "class_names", f"{n_classes} names, as the model has", got)
        if inputs.class_names is not None:
            got, way_out = len(inputs.class_names), "They are of other classes."
            expect(got == n_classes, "data", f"{n_classes} classes, as the model has", got, way_out)
        labels = inputs.labels
        if labels is not None:
            top = int(np.max(labels[rows]))
            expect(top < n_classes, "labels", f"classes 0..{n_classes - 1}, as the model has", top)
        return cls(inputs, rows, game, checked, tuple(class_names), digest, example.shape[1:])

    @property
    def labels(self) -> np.ndarray | None:
        """True classes of the videos to explain."""
        return None if self.inputs.labels is None else self.inputs.labels[self.rows]

    @property
    def uids(self) -> list[str]:
        """Names of the videos to explain."""
        return [self.inputs.uids[i] for i in self.rows]

    def lengths(self, frames: int | None, least: int) -> np.ndarray:
        """Elements to explain of each video; 0 where that is not known, or too few."""

        def one(row: int) -> int:
            try:
                n = self.inputs.length(row)
            except (ValueError, OSError):
                return 0
            return 0 if n < least else min(n, frames or n)

        if self.inputs.videos is None:
            return np.array([one(int(row)) for row in self.rows])
        return np.array(list(sources.prefetch(self.rows.tolist(), one, workers=4, ahead=16)))


def data_of(job: Job) -> dict[str, Any]:
    """Return the paths of a sweep's data, with a digest of the files' sizes and times.

    What changes here without the content is no other sweep: see `changed_videos`.
    """
    stamps, source = job.inputs.stamps_when_opened(job.rows.tolist()), job.inputs.source
    return {
        "path": None if source is None else str(source.absolute()),
        "videos": job.inputs.videos is not None,
        "stamp": None if stamps is None else hashlib.sha256(repr(stamps).encode()).hexdigest(),
    }


def changed_videos(
    inputs: sources.Inputs, records: Mapping[int, Mapping[str, Any]], frames: int | None
) -> list[str]:
    """Uids of the videos whose content is no longer what finished shards were made of.

    Args:
      inputs: the data. records: of the shards. frames: elements that were read of each.
    Cost: reads the videos of all these shards.
    """
    position, changed = {uid: i for i, uid in enumerate(inputs.uids)}, []
    for record in records.values():
        before = {uid: digest for uid, digest in record.get("read", {}).items() if digest}
        there = [uid for uid in before if uid in position]
        now = inputs.contents([position[uid] for uid in there], frames)
        same = {uid for uid, digest in zip(there, now, strict=True) if digest == before[uid]}
        changed += [uid for uid in before if uid not in same]
    return changed


class Comparison(NamedTuple):
    """Data of a sweep, compared with what its shards were made of.

    Attributes:
      changed: uids of other content, or that are gone. note: how they were compared.
    """

    changed: list[str]
    note: str


def compare_data(out: str | PathLike[str], records: Mapping[int, Mapping[str, Any]]) -> Comparison:
    """Compare the data of a sweep, where they still are, with what its shards were made of.

    Args:
      out: folder of the sweep. records: of its shards.
    Raises:
      ValueError: data that can no longer be read.
    Cost: reads the data.
    """
    manifest = store.read_manifest(out)
    about = manifest.get("data") or {}
    path = about.get("path")
    if path is None:
        return Comparison([], "The data came from no file: not compared.")
    if not Path(path).exists():
        return Comparison([], f"The data are no longer at {path}: not compared.")
    inputs = _videos_at(Path(path)) if about.get("videos") else sources.open_inputs(path)
    changed = changed_videos(inputs, records, manifest["identity"].get("frames"))
    n = sum(len(record.get("read", {})) for record in records.values())
    return Comparison(changed, f"{n} videos compared with the data at {path}.")


def _videos_at(path: Path) -> sources.Inputs:
    """Videos whose files are read, not decoded."""

    def undecoded(*_: Any) -> Any:
        raise ValueError(message("videos", "files to compare", "a call to decode them"))

    return sources.open_videos(path, undecoded)


def _first_readable(inputs: sources.Inputs, rows: np.ndarray, frames: int | None) -> Array:
    """The first video that can be read, with which the model is checked."""
    for row in rows.tolist():
        (found,) = inputs.read_many([row], frames)
        if not isinstance(found, Exception) and np.isfinite(found[0]).all():
            return jnp.asarray(found[0])
    raise ValueError(message("data", "a video that can be read", f"none of {len(rows)}: {found}"))


def _digest_of_game(game: Any) -> str:
    """Digest of a game's arrays and settings; games of functions must be named."""
    leaves, structure = jax.tree.flatten(game)
    if not leaves or not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        got = f"{type(game).__name__}, whose weights are not its own"
        raise ValueError(message("digest", "a name for the model's weights", got))
    arrays = {str(k): np.asarray(leaf) for k, leaf in enumerate(leaves)}
    return digest_of(arrays, str(structure))


def identity_of(
    job: Job, lengths: np.ndarray, shards: list[Shard], asked: dict[str, Any]
) -> dict[str, Any]:
    """Return the settings that must be equal on all hosts and for a sweep to be continued."""
    plan = hashlib.sha256()
    for shard in shards:
        rows = ",".join(map(str, shard.positions.tolist()))
        plan.update(f"{shard.n} {shard.estimator} {rows};".encode())
    videos = hashlib.sha256(json.dumps([job.uids, lengths.tolist(), job.width]).encode())
    labels = "none" if job.labels is None else str(job.labels.tolist())
    names = json.dumps(job.class_names)
    return {
        "videos": f"{len(lengths)} ({videos.hexdigest()[:16]})",
        "labels": hashlib.sha256(labels.encode()).hexdigest()[:16],
        "classes' names": hashlib.sha256(names.encode()).hexdigest()[:16],
        "model": job.digest,
        "prior": hashlib.sha256(np.asarray(job.prior).tobytes()).hexdigest()[:16],
        **asked,
        "shards": f"{len(shards)} ({plan.hexdigest()[:16]})",
        "platform": jax.local_devices()[0].platform,
        "esv_jax": metadata.version("esv-jax"),
        "jax": jax.__version__,
    }


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Describe the differences between two identities."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)
