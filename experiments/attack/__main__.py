"""All attacks, one after another, and a table of what was tried and what survived.

    python -m experiments.attack --out attack.json
    python -m experiments.attack --sections kills flips --kills 100 --flips 1000

It takes at most 15 minutes on 2 CPU cores, and ends with code 1 where anything did not survive:
what, and how to do it again, is printed and stored.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from experiments.attack import fuzz, hostile, interrupts, server, stores
from experiments.attack.harness import Outcome, outcome_of


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to try."""

    sections: tuple[str, ...] = ()
    """Some of kills, disk_full, flips, two_at_once, interrupts, fuzz, hostile, requests; default
    all."""
    kills: int = 25
    """Of a sweep that is continued."""
    disk_full: int = 3
    """Limits of size for each of sweep, explain and train."""
    flips: int = 100
    """Bits of the files of a sweep."""
    two_at_once: int = 4
    """Pairs of sweeps."""
    interrupts: int = 4
    """Of each command."""
    fuzz: int = 20_000
    """Mutated inputs of all readers together."""
    hostile: int = 500
    """Files made to harm."""
    requests: int = 2000
    """Ordinary requests to the dashboard."""
    malformed: int = 300
    """Malformed callbacks among them."""
    seed: int = 0
    out: Path | None = None
    """JSON file for the numbers; default none."""


def _interrupts(settings: Settings, _: Path) -> Outcome:
    chosen = interrupts.Settings(settings.interrupts, seed=settings.seed)
    results, faults = interrupts.attack_all(chosen)
    tried = sum(sum(v for k, v in counts.items() if k != "seconds") for counts in results.values())
    early = sum(counts.get("early", 0) for counts in results.values())
    detail = f"{len(results)} commands, {early} before the first line of the package"
    return Outcome(tried, tuple(faults), detail)


def _fuzz(settings: Settings, _: Path) -> Outcome:
    results = fuzz.attack_all(fuzz.Settings(settings.fuzz, seed=settings.seed))
    outcomes = {name: outcome_of(result) for name, result in results.items()}
    faults = tuple(f"{name}, {text}" for name, one in outcomes.items() for text in one.faults)
    detail = f"{len(results)} readers, {sum(r.get('read', 0) for r in results.values())} read"
    return Outcome(sum(one.tried for one in outcomes.values()), faults, detail)


SECTIONS: dict[str, Callable[[Settings, Path], Outcome]] = {
    "kills": lambda chosen, folder: stores.kills(folder, chosen.seed, chosen.kills),
    "disk_full": lambda chosen, folder: stores.disk_full(folder, chosen.seed, chosen.disk_full),
    "flips": lambda chosen, folder: stores.flips(folder, chosen.seed, chosen.flips),
    "two_at_once": lambda chosen, folder: stores.two_at_once(
        folder, chosen.seed, chosen.two_at_once
    ),
    "interrupts": _interrupts,
    "fuzz": _fuzz,
    "hostile": lambda chosen, folder: hostile.hostile(folder, chosen.seed, chosen.hostile),
    "requests": lambda chosen, folder: server.requests(
        folder, chosen.seed, chosen.requests, chosen.malformed
    ),
}


def main(settings: Settings) -> int:
    """Run the sections and print the table; 1 where anything did not survive."""
    unknown = set(settings.sections) - set(SECTIONS)
    if unknown:
        known, got = ", ".join(SECTIONS), ", ".join(sorted(unknown))
        print(f"sections: expected some of {known}, got {got}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for name in settings.sections or SECTIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tried, faults, detail = SECTIONS[name](settings, Path(folder))
        row = {"attack": name, "tried": tried, "survived": tried - len(faults)}
        seconds = round(time.monotonic() - began)
        rows.append({**row, "seconds": seconds, "detail": detail, "faults": faults})
        for fault in faults:
            print(f"{name}, seed {settings.seed}: {fault}", flush=True)
    print("| attack | tried | survived | seconds |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(str(row[k]) for k in ('attack', 'tried', 'survived', 'seconds'))} |")
    for row in rows:
        print(f"{row['attack']}: {row['detail']}")
    if settings.out:
        about = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
        settings.out.write_text(json.dumps({"settings": about, "attacks": rows}, indent=1))
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
