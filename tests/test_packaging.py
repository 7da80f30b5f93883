"""What is installed: everything the package needs, nothing else, one version throughout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from importlib import util
from pathlib import Path

import pytest

import esv_jax
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIST_INFO = f"esv_jax-{esv_jax.__version__}.dist-info"
IGNORED = shutil.ignore_patterns(
    *(".venv*", ".git", ".hypothesis", ".*_cache", "__pycache__", "fixtures", "dist", "build")
)

pytestmark = pytest.mark.skipif(
    not all(map(util.find_spec, ("build", "hatchling"))), reason="needs the test extra"
)


def run(folder: Path, *command: object, **env: str) -> str:
    """Run Python in `folder`, away from the checkout, which would be found before all else."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a source distribution of this checkout, and a wheel built from that."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, ignore=IGNORED)
    folder = tmp_path_factory.mktemp("built")
    run(folder, "-m", "build", "--no-isolation", "--outdir", folder, source)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    assert path.name == f"esv_jax-{esv_jax.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_string(wheel.read(f"{DIST_INFO}/METADATA").decode())


def files_of_the_package() -> set[str]:
    package = ROOT / "esv_jax"
    return {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.slow  # builds
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(wheel.namelist())
    about = {name for name in names if name.startswith(f"{DIST_INFO}/")}
    assert names - about == files_of_the_package()
    assert "esv_jax/py.typed" in names
    assert about == {
        f"{DIST_INFO}/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    assert wheel.read(f"{DIST_INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow  # builds
def test_the_source_distribution_can_be_built_tested_and_cited(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    others = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"}
    assert names >= files_of_the_package() | others
    assert {"tests/conftest.py", "tests/test_packaging.py"} <= names
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders <= {"esv_jax", "tests", "experiments"}


@pytest.mark.slow  # builds
def test_the_metadata(metadata, wheel):
    assert (metadata["Name"], metadata["Version"]) == ("esv-jax", esv_jax.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    base = {"jax", "jaxlib", "flax", "optax", "numpy", "chex", "orbax-checkpoint"}
    assert {re.split(r"[^\w-]", line)[0] for line in needed} == base
    entry = wheel.read(f"{DIST_INFO}/entry_points.txt").decode()
    assert entry.split() == ["[console_scripts]", "esv-jax", "=", PROJECT["scripts"]["esv-jax"]]


def test_extras_that_are_named_in_messages_exist():
    asked = set()
    for path in (ROOT / "esv_jax").rglob("*.py"):
        asked |= set(re.findall(r'require\("[\w.]+", "(\w+)"\)', path.read_text(encoding="utf-8")))
    assert asked and asked <= set(PROJECT["optional-dependencies"])
    everything = " ".join(PROJECT["optional-dependencies"]["all"])
    assert all(extra in everything for extra in asked)


INSTALLED = """
import importlib, json, sys
from importlib import metadata, resources
import esv_jax
scripts = metadata.distribution("esv-jax").entry_points.select(group="console_scripts")
print(json.dumps({
    "file": esv_jax.__file__,
    "version": [esv_jax.__version__, metadata.version("esv-jax")],
    "typed": (resources.files("esv_jax") / "py.typed").is_file(),
    "public": [getattr(esv_jax, name) is not None for name in esv_jax.__all__],
    "scripts": {script.name: callable(script.load()) for script in scripts},
}))
"""


@pytest.mark.slow  # builds
def test_the_wheel_can_be_installed_and_used(built, tmp_path):
    (path,) = built.glob("*.whl")
    target = tmp_path / "site"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    run(tmp_path, "-m", "pip", "install", *quiet, "--target", target, path)
    found = json.loads(run(tmp_path, "-c", INSTALLED, PYTHONPATH=str(target)))
    assert Path(found["file"]) == target / "esv_jax" / "__init__.py"
    assert found["version"] == [esv_jax.__version__] * 2
    assert found["typed"]
    assert found["public"] == [True] * len(esv_jax.__all__)
    assert found["scripts"] == {"esv-jax": True}


def test_one_version_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", esv_jax.__version__)
    assert "version" in PROJECT["dynamic"], "the version is that of esv_jax/__init__.py"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [esv_jax.__version__]
    assert re.findall(r"^license: (.+)$", citation, re.M) == [PROJECT["license"]]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest and newest[1] == esv_jax.__version__


def test_the_licence_is_complete():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    for end in ("TERMS AND CONDITIONS", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"):
        assert end in text


def test_the_papers_are_cited():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    papers = {"2011.12372", "2109.00222", "2003.14285", "1908.01536"}
    assert set(re.findall(r"arXiv:(\S+)", citation)) == papers
