"""Printed output: control characters of foreign names are escaped."""

import pickle

import pytest

from esv_jax.cli import main
from esv_jax.cli.printing import complain, exit_code, printable, say, table
from tests.conftest import FIXTURES

HOSTILE = "a\x1b[2J\x07\x9b\u202eb"
ESCAPED = r"a\x1b[2J\x07\x9b\u202eb"


def test_control_characters_are_escaped(capsys):
    assert printable(HOSTILE) == ESCAPED
    assert printable("ü é\u00a0日本 👩‍🔬\n") == "ü é\u00a0日本 👩‍🔬\n"
    say(f"{HOSTILE}\nnext")
    table(HOSTILE, [HOSTILE], [[HOSTILE]])
    complain(f"{HOSTILE}\n  next\r")
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [ESCAPED, "next"]
    assert out.count(ESCAPED) == 4 and "\x1b" not in out
    assert err == f"esv-jax: {ESCAPED} next\n"


def test_errors_are_printed_and_make_the_exit_code(capsys):
    assert exit_code(iter(())) == 0 and not capsys.readouterr().err
    assert exit_code(iter(("one", "two"))) == 2
    assert capsys.readouterr().err == "esv-jax: one\nesv-jax: two\n"


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({HOSTILE: 1, "b\n": 2}, rf"got '{ESCAPED}', 'b\n'."),
        (
            {"uids": [HOSTILE], "sequence_idxs": [[0]], "scores": [[0]], "shapley_values": [[0]]},
            rf"got '{ESCAPED}'",
        ),
    ],
)
def test_names_of_a_pickle_are_escaped(tmp_path, capsys, stored, said):
    project, path = FIXTURES / "play_fair_project", tmp_path / "esv.pkl"
    path.write_bytes(pickle.dumps(stored))
    options = [f"--results={path}", f"--features={project}/trn.hdf", f"--out={tmp_path}/m"]
    assert main(["import-play-fair", str(project), *options]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after the progress bar
    assert line.startswith("esv-jax: ") and said in line and line.isprintable()
