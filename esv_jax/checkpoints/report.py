"""Report of an import: the files that were read, and the error of the model's logits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from esv_jax import models
from esv_jax.checkpoints.heads import Layers

TOLERANCE = 1e-5  # of the largest logit; single precision gives about 1e-7
_N_EXAMPLES = 8


@dataclass(frozen=True)
class FileRecord:
    """One file of the folder.

    Attributes:
      path: relative to the folder.
      role: what it was read as, e.g. "head of scale 3"; "not used".
      layout: "zip", "legacy", "csv", or "" where it was not read.
      digest: SHA-256 of its bytes, 64 hexadecimal digits.
      used: entries that became part of the model.
      ignored: entries that were left alone, e.g. "'optimizer'".
    """

    path: str
    role: str
    layout: str
    digest: str
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportReport:
    """Files read for a model, and the error of its logits.

    Attributes:
      model: "mtrn" or "tsn".
      files: those of the folder, used or not.
      parity: for each head, the largest difference between its logits and those computed from
        the file's tensors alone (NumPy, double precision) on random features, as a share of the
        largest logit.
      sizes: n_max, D, H and C by name.
    """

    model: str
    files: tuple[FileRecord, ...]
    parity: dict[str, float]
    sizes: dict[str, int]

    @property
    def faithful(self) -> bool:
        """Return whether all differences are within the tolerance of single precision, 1e-5."""
        return all(error <= TOLERANCE for error in self.parity.values())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and text."""
        files = [
            {**asdict(record), "used": list(record.used), "ignored": list(record.ignored)}
            for record in self.files
        ]
        return {
            "model": self.model,
            "sizes": dict(self.sizes),
            "parity": {**self.parity},
            "tolerance": TOLERANCE,
            "files": files,
        }

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        lines = [f"{self.model}: {sizes}"]
        for record in self.files:
            what = f"  {record.path}: {record.role}"
            used = f", {', '.join(record.used)}" if record.used else ""
            ignored = f", ignored {', '.join(record.ignored)}" if record.ignored else ""
            lines.append(f"{what}{used}{ignored}, sha256 {record.digest[:12]}")
        lines += [f"  parity {name}: {error:.1e}" for name, error in self.parity.items()]
        return "\n".join(lines)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parity_of(
    heads: models.HeadStack | models.TsnHead, layers: Mapping[int, Layers]
) -> dict[str, float]:
    """Return the largest difference between a model's logits and those of its source layers.

    Args:
      heads: the model.
      layers: by scale, as the files hold them; of a TSN only scale 1.
    Returns:
      By head, the largest difference over 8 random sequences, over the largest logit.
    """
    errors: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for s, file in sorted(layers.items()):
        x = rng.normal(size=(_N_EXAMPLES, s, file.width // s)).astype(np.float32)
        if isinstance(heads, models.TsnHead):
            mask = jnp.ones(s, jnp.bool_)
            found = [models.tsn_logits(heads, row, mask) for row in jnp.asarray(x)]
        else:
            found = [models.head_logits(heads, s, row) for row in jnp.asarray(x)]
        expected = _logits(file, x.reshape(_N_EXAMPLES, -1).astype(np.float64))
        error = np.abs(np.stack([np.asarray(row) for row in found]) - expected).max()
        largest = float(np.abs(expected).max())
        errors[f"scale {s}" if len(layers) > 1 else "head"] = float(error) / (largest or 1.0)
    return errors


def _logits(file: Layers, x: np.ndarray) -> np.ndarray:
    """Logits (examples, C) in the layout of the file, in double precision."""
    h = np.maximum(x, 0) if file.input_relu else x
    for k, (w, b) in enumerate(file.layers):
        h = (np.maximum(h, 0) if k else h) @ w.T.astype(np.float64) + b
    return h
