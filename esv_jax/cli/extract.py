"""`esv-jax extract`: features of every frame of videos."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import tyro

from esv_jax import data
from esv_jax.checks import expect, expect_int
from esv_jax.cli.options import read_backbone
from esv_jax.cli.printing import exit_code, progress, say
from esv_jax.data.appending import FeatureAppender
from esv_jax.data.classes import read_labels
from esv_jax.data.inputs import prefetch
from esv_jax.data.preprocessing import Preprocessing, preprocess
from esv_jax.data.video_decode import decode_frames, open_frames
from esv_jax.data.video_files import find_videos
from esv_jax.files import JSONObject, make_folder
from esv_jax.models import backbones

_CHUNK = 256  # frames decoded at once; bounds the memory for long videos


@dataclasses.dataclass(frozen=True)
class Extract:
    """Extract features of video frames with BN-Inception (TRN) or ResNet-50 (TSN).

    Videos that are in the store are skipped: the same command continues an interrupted run.
    Example: esv-jax extract clips/ --backbone trn_backbone.pth --out features.hdf
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files, folders of them, or lists: .txt, a path per line; .csv with a column path."""
    backbone: Path
    """Weights: .safetensors of this package, or a .pth state dict of the public PyTorch models."""
    out: Path = Path("features.hdf")
    """HDF5 store for the features; an existing one is extended."""
    frames: int | Literal["all"] = "all"
    """Number of frames per video, at the centres of equal segments; of shorter videos all."""
    labels: Path | None = None
    """CSV of classes (uid,class), stored with the features; uids are file names without suffix."""
    classes: Path | None = None
    """CSV of class names (name,id), needed if the labels are names."""
    split: str = "validation"
    """Name of the group in the store, e.g. train."""
    pooled: bool = False
    """Omit the last layer: 1024 or 2048 pooled features, for weights trained on ImageNet."""
    batch_size: int = 32
    """Number of frames per batch of the backbone; videos share batches."""
    bf16: bool = False
    """Compute in bfloat16: faster on accelerators, relative error about 0.5 %."""
    workers: int = 2
    """Number of threads that decode videos."""

    def run(self) -> int:
        """Extract the missing features, report videos that could not be read."""
        if not isinstance(self.frames, str):
            expect_int("frames", self.frames, minimum=1)
        videos = find_videos(self.videos)
        labels = self._labels(videos)
        name, variables = read_backbone(self.backbone, pooled=self.pooled)
        extract = backbones.extractor(name, variables, jnp.bfloat16 if self.bf16 else jnp.float32)
        preprocessing = backbones.BACKBONES[name].preprocessing
        make_folder(self.out.parent)
        failed: dict[str, str] = {}
        n_features = backbones.n_features(name, variables)
        with FeatureAppender(
            self.out, n_features, self.split, self._settings(name, variables)
        ) as store:
            new = {uid: path for uid, path in videos.items() if uid not in store}
            for uid in new:
                store.expect_labels(uid, labels.get(uid, {}))
            pieces = self._pieces(new, preprocessing, failed)
            stream = backbones.extract_stream(extract, pieces, self.batch_size)
            with progress(len(new), "Extracting", "video") as bar:
                for uid, parts in itertools.groupby(stream, operator.itemgetter(0)):
                    features = np.concatenate([part for _, part in parts])
                    if uid in failed:  # some frames were read before the bad ones
                        continue
                    try:
                        store.append(uid, features, labels.get(uid, {}))
                    except ValueError as error:
                        failed[uid] = str(error)
                    bar.update(1)
                bar.update(len(new) - bar.n)
            n_stored = len(store)
        return self._report(len(videos) - len(new), len(new), failed, n_stored)

    def _labels(self, videos: Mapping[str, Path]) -> dict[str, dict[str, data.features.Label]]:
        if self.labels is None:
            expect(self.classes is None, "classes", "a file of labels beside", "none")
            return {}
        known = read_labels(self.labels, self.classes)
        absent = next((uid for uid in videos if uid not in known), None)
        expect(absent is None, str(self.labels), "a label for every video", f"none for {absent!r}")
        return {uid: {"action": known[uid]} for uid in videos}

    def _settings(self, name: str, variables: Mapping[str, Any]) -> JSONObject:
        """Return the settings that features depend on, which are stored with them."""
        return {
            "backbone": name,
            "digest": backbones.backbone_digest(variables),
            "dtype": "bfloat16" if self.bf16 else "float32",
            "frames": self.frames,
        }

    def _pieces(
        self, videos: Mapping[str, Path], preprocessing: Preprocessing, failed: dict[str, str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield preprocessed frames of each video, decoded ahead; errors go to `failed`."""

        def count(item: tuple[str, Path]) -> tuple[str, Path, int | Exception]:
            try:
                return *item, len(open_frames(item[1]))
            except (OSError, ValueError) as error:
                return *item, error

        def chunks() -> Iterator[tuple[str, Path, np.ndarray]]:
            for uid, path, total in prefetch(videos.items(), count, workers=1):
                if isinstance(total, Exception):
                    failed[uid] = str(total)
                    continue
                limit = total if isinstance(self.frames, str) else min(total, self.frames)
                wanted = data.segment_centres(total, limit)  # all of them if limit = total
                for begin in range(0, len(wanted), _CHUNK):
                    yield uid, path, wanted[begin : begin + _CHUNK]

        def load(item: tuple[str, Path, np.ndarray]) -> tuple[str, np.ndarray | Exception]:
            uid, path, indices = item
            try:
                frames = decode_frames(path, indices=indices, size=preprocessing.short_side)
                return uid, preprocess(frames, preprocessing)
            except (OSError, ValueError) as error:
                return uid, error

        loaded = prefetch(chunks(), load, workers=self.workers, ahead=self.workers + 1)
        for uid, frames in loaded:
            if isinstance(frames, Exception):
                failed.setdefault(uid, str(frames))
            else:
                yield uid, frames

    def _report(self, n_before: int, n_new: int, failed: Mapping[str, str], n_stored: int) -> int:
        if n_before:
            say(f"{n_before} of {n_before + n_new} videos were in the store")
        if n_stored:
            say(f"Features of {n_stored} videos in {self.out}")
        return exit_code(f"{uid} left out: {error}" for uid, error in failed.items())
