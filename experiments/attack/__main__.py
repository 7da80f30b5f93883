"""All attacks, one after another, with a table of attempts and survivals.

    python -m experiments.attack --out attack.json
    python -m experiments.attack --sections kills flips --kills 100 --flips 1000

It takes at most 15 minutes on 2 CPU cores. Faults are printed and stored with everything needed to
repeat them; the exit code is then 1.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from experiments.attack import fuzz, hostile, interrupts, server, stores
from experiments.attack.harness import Outcome
from experiments.harness import as_json, markdown, write_json


@dataclasses.dataclass(frozen=True)
class Settings:
    """Number of attempts."""

    sections: tuple[str, ...] = ()
    """Some of kills, disk_full, flips, two_at_once, interrupts, fuzz, hostile, requests; default
    all."""
    kills: int = 25
    """Kills of a sweep that is continued."""
    disk_full: int = 3
    """File size limits for each of sweep, explain and train."""
    flips: int = 100
    """Flipped bits of the files of a sweep."""
    two_at_once: int = 4
    """Pairs of sweeps."""
    interrupts: int = 4
    """Interrupts of each command."""
    fuzz: int = 20_000
    """Mutated inputs of all readers together."""
    hostile: int = 500
    """Hostile files."""
    requests: int = 2000
    """Ordinary requests to the dashboard."""
    malformed: int = 300
    """Malformed callbacks among them."""
    seed: int = 0
    """Seed of all inputs and moments."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


SECTIONS: dict[str, Callable[..., Outcome]] = {
    "kills": stores.kills,
    "disk_full": stores.disk_full,
    "flips": stores.flips,
    "two_at_once": stores.two_at_once,
    "interrupts": interrupts.interrupts,
    "fuzz": fuzz.fuzz,
    "hostile": hostile.hostile,
    "requests": server.requests,
}
_COLUMNS = ("attack", "tried", "survived", "seconds")


def main(settings: Settings) -> int:
    """Runs the sections and prints the table: 0, 1 after a fault, 2 for an unknown section."""
    unknown = set(settings.sections) - set(SECTIONS)
    if unknown:
        known, got = ", ".join(SECTIONS), ", ".join(sorted(unknown))
        print(f"sections: expected some of {known}, got {got}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for name in settings.sections or SECTIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        more = {"n_malformed": settings.malformed} if name == "requests" else {}
        with tempfile.TemporaryDirectory() as folder:
            number = getattr(settings, name)
            tried, faults, detail = SECTIONS[name](Path(folder), settings.seed, number, **more)
        found = (name, tried, tried - len(faults), round(time.monotonic() - start))
        about = {"detail": detail, "faults": faults}
        rows.append(dict(zip(_COLUMNS, found, strict=True)) | about)
        for fault in faults:
            print(f"{name}, seed {settings.seed}: {fault}", flush=True)
    print(markdown(_COLUMNS, ([row[name] for name in _COLUMNS] for row in rows)))
    for row in rows:
        print(f"{row['attack']}: {row['detail']}")
    if settings.out:
        write_json(settings.out, {"settings": as_json(settings), "attacks": rows})
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
