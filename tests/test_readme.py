"""README's blocks run, and its promises of files and commands hold."""

import re
import tomllib
from pathlib import Path

import jax.numpy as jnp
import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def run_blocks(sources):
    """Names that Python blocks, run in order, leave."""
    names = {}
    for block in sources:
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_first_python_block_runs():
    att = run_blocks(blocks("python")[:1])["att"]
    assert att.values.shape == (8, 18)
    assert jnp.abs(att.efficiency_gap()).max() < 1e-5


@pytest.mark.slow
def test_python_blocks_run_in_order():
    names = run_blocks(blocks("python"))
    assert names["att"].values.shape == (10, 5)
    gap = names["att"].efficiency_gap()
    assert jnp.abs(gap).max() < 1e-5
    assert names["sampled"].std_error.shape == (30, 5)
    assert names["batch"][1].values.shape == (7, 5)


def test_the_first_screen_has_the_two_commands():
    first, second = blocks("bash")[:2]
    install = "python3 -m venv .venv && .venv/bin/pip install"
    assert first.strip() == f"{install} '.[all]' && .venv/bin/esv-jax demo"
    assert second.strip() == f"{install} -e '.[test]' && .venv/bin/pytest"
    assert README[: README.index(second)].count("\n") < 30
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"all", "test"} <= set(extras["optional-dependencies"])
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {f"run .venv/bin/pytest{more}" for more in ("", " -m slow")} <= {*commands}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_resolve(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", re.findall(r"`((?:games|subsequences)/\w+\.py)`", README))
def test_named_subpackages_exist(name):
    assert (Path(ROOT) / "esv_jax" / name).is_file()
