"""`esv-jax demo`: the main job on something made up, with a known answer, in under a minute."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from esv_jax.checks import expect
from esv_jax.cli.demo_sequences import demo_sequences
from esv_jax.cli.demo_video import demo_video
from esv_jax.files import expect_writable, make_folder


@dataclasses.dataclass(frozen=True)
class Demo:
    """Explain videos that show something made up, so that the right answer is known.

    Renders MP4 files and explains what each frame contributes to the scores of the included model.
    Nothing is downloaded.

    Examples: esv-jax demo; esv-jax demo --what sequences
    """

    out: Path = Path("esv-jax-demo")
    """Folder for videos, results and pictures; those of an earlier demo go."""
    what: Literal["video", "sequences"] = "video"
    """"sequences" trains heads on generated sequences first, and compares sampled values."""
    seed: int = 0
    """Seed of everything that is drawn."""
    n_videos: int = 24
    """Videos to render and explain; the clearest is shown."""
    n_train: int = 1024
    """Training sequences of --what sequences."""

    def run(self) -> int:
        """Make, explain, show."""
        expect(self.n_videos >= 1, "n-videos", "a number >= 1", self.n_videos)
        expect(self.n_train >= 1, "n-train", "a number >= 1", self.n_train)
        make_folder(self.out)
        expect_writable(self.out / "results.nc")
        if self.what == "sequences":
            demo_sequences(self.out, self.seed, self.n_train)
        else:
            demo_video(self.out, self.seed, self.n_videos)
        return 0
