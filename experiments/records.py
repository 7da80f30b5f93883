"""What every experiment notes beside its numbers, and how it is written down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from esv_jax.files import atomic_path

VERSIONS = ("esv-jax", "jax", "jaxlib", "flax", "optax", "numpy")


def as_json(settings: Any) -> dict[str, Any]:
    """The settings as plain values."""
    fields = dataclasses.asdict(settings)
    return {name: str(v) if isinstance(v, Path) else v for name, v in fields.items()}


def surroundings(*also: str) -> dict[str, Any]:
    """Versions, those of further packages included (None where absent), and machine."""
    return {
        "versions": {name: _version(name) for name in (*VERSIONS, *also)}
        | {"python": platform.python_version()},
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "cpu_cores": len(os.sched_getaffinity(0)),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, summary: dict[str, Any]) -> None:
    """Write a file complete or not at all."""
    write_text(path, json.dumps(summary, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a file complete or not at all; a last line break is added."""
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def write_cases(path: Path, cases: list[dict[str, Any]], **about: Any) -> None:
    """Write what a benchmark measured, with the machine and whatever else is about it."""
    machine = {
        "device": str(jax.devices()[0].device_kind),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    write_json(path, {"about": machine | about, "cases": cases})
