"""The attacks run from one command, and every attempt survives."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import esv_jax as ej
from experiments.attack import __main__ as attack
from experiments.attack import harness, hostile, hostile_files, interrupts

SMALL = {"kills": 2, "flips": 12, "two_at_once": 1, "fuzz": 200, "hostile": 52, "requests": 100}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        ("kills", "flips", "two_at_once", "fuzz", "hostile"),
        ("requests",),
    ],
    ids=lambda sections: sections[0],
)
def test_small_attacks_survive(tmp_path, capsys, sections):
    out = tmp_path / "attack.json"
    settings = attack.Settings(sections, **SMALL, malformed=50, out=out)
    code = attack.main(settings)
    printed = capsys.readouterr().out
    assert code == 0, printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == ["attack", "tried", "survived", "seconds"]
    assert [row[0] for row in rows[2:]] == list(sections)
    stored = json.loads(out.read_text())["attacks"]
    for row, record in zip(rows[2:], stored, strict=True):
        assert row[1] == row[2] == str(record["tried"])
        assert record["tried"] >= SMALL[row[0]] and record["faults"] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", interrupts.COMMANDS)
def test_fifty_interrupts_of_a_command_end_in_one_line(tmp_path, command):
    """In the first two seconds: imports and compilation, where interrupts once crashed."""
    outcome = interrupts.interrupts(tmp_path, 0, 50, (command,), within=2.0)
    assert outcome.tried == 50 and not outcome.faults, "\n".join(outcome.faults)


def test_unknown_sections_are_named(capsys):
    assert attack.main(attack.Settings(("kills", "fires"))) == 2
    said = capsys.readouterr().err
    assert "got fires" in said and "hostile, requests" in said


@pytest.mark.parametrize("name", hostile_files.KINDS)
def test_hostile_files_depend_on_seed_and_number_alone(tmp_path, name):
    kind, contents = hostile_files.KINDS[name], []
    for k in range(2):
        folder = tmp_path / "x"
        folder.mkdir()
        path = kind(np.random.default_rng(3), folder)
        contents.append((path.name, path.read_bytes() if path.is_file() else b""))
        folder.rename(tmp_path / f"{k}")
    assert contents[0] == contents[1]


class Careless(hostile.Hostile):
    """A reader with every fault that is looked for."""

    def read(self, k):
        if k == 0:
            ej.data.probe_video(self.folder / "bait.mp4")
        elif k == 1:
            (self.folder / "ran").touch()
        elif k == 2:
            raise RuntimeError("of this test")
        elif k == 3:
            (self.folder / "pipe").read_bytes()
        elif k == 4:
            sys.exit()
        elif k == 5:
            raise ValueError("two\nlines")


@pytest.mark.slow
def test_faults_are_found(tmp_path):
    counts, wrong = harness.attempt_all(Careless(Path(tmp_path), 0, 3.0), 7)
    found = {k: outcome for k, outcome, _ in wrong}
    assert found.pop(4).startswith("crash")
    assert found == {
        0: "reached outside",
        1: "reached outside",
        2: "traceback",
        3: "hang",
        5: "unclear",
    }
    assert counts["read"] == 1 and counts.total() == 7
