"""Package structure: the direction of imports, pure subpackages, imports without side effects."""

import ast
import functools
import importlib
import inspect
import os
import subprocess
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import esv_jax
from tests.conftest import drop_programs

PACKAGE = Path(esv_jax.__file__).parent

# A module may import its own subpackage, the subpackages of lower layers, and those to its right.
LAYERS = (
    ("cli", "dashboard", "report"),
    ("sweeps",),
    ("results", "plots", "maps"),
    ("interactions", "batches", "explanations", "tolerance"),
    ("groups", "unions"),
    ("perturbation", "relevance", "gradients", "metrics", "baselines"),
    ("inputs",),
    ("estimators",),
    ("games",),
    ("checkpoints", "models", "data"),
    ("attribution", "notebook", "subsequences", "blur", "strided"),
    ("records", "files", "hdf5", "hdf5_inspection", "extras", "checks", "svg", "display"),
)
SUBPACKAGES = [subpackage for layer in LAYERS for subpackage in layer]

# The only imports that point up: a record that plots itself, as data frames do.
EXCEPTIONS = {("esv_jax.attribution", "esv_jax.plots")}

# Functions of their arguments alone: no files, plots, network, clock, logging or hidden state.
PURE = {
    *("estimators", "perturbation", "relevance", "gradients", "metrics", "games"),
    *("baselines", "attribution", "notebook", "subsequences", "blur", "strided"),
    *("records", "checks", "svg", "display"),
}
OUTSIDE_PURE = {
    *("os", "io", "sys", "pathlib", "tempfile", "shutil", "glob", "subprocess", "importlib"),
    *("logging", "time", "datetime", "random", "secrets", "socket", "urllib", "http", "requests"),
    *("h5py", "safetensors", "orbax", "matplotlib", "tqdm", "tyro", "rich"),
    *(f"esv_jax.{name}" for name in ("files", "plots", "results", "data", "checkpoints")),
}
# Reading these runs code of the file; and a second framework is no dependency of ours.
RESTRICTED = ("esv_jax.checkpoints.unpickle", "pickle")  # a subclass that runs nothing
NOWHERE = {
    *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("torch", "torchvision", "tensorflow"),
}
HEAVY = {
    *("flax", "optax", "orbax", "chex", "h5py", "safetensors", "xarray", "pandas", "matplotlib"),
    *("tyro", "tqdm", "rich", "av", "PIL", "skimage", "dash", "plotly", "jinja2"),
    *("torch", "tensorflow"),
}
EXTRAS = {
    *("h5py", "h5netcdf", "safetensors", "xarray", "pandas", "matplotlib", "av", "PIL", "tqdm"),
    *("skimage", "jinja2"),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a module, e.g. "esv_jax.data.ts"; of a package, that of its `__init__`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def subpackage_of(module: str) -> str:
    """The subpackage of a dotted name, or "" for the package itself."""
    return module.removeprefix("esv_jax").strip(".").split(".")[0]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def calls_in(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere: at the top, for types only, in functions, or by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: a relative import"
            if node.module == "esv_jax":
                yield from ((f"esv_jax.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno
    for called, node in calls_in(tree):
        first = node.args[0] if node.args else None
        by_name = called.split(".")[-1] in ("require", "import_module", "__import__")
        if by_name and isinstance(first, ast.Constant):
            yield first.value, node.lineno


def is_among(module: str, names: set[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:k]) in names for k in range(1, len(parts) + 1))


# Imports point down


def upward_imports(source: str, subpackage: str) -> list[str]:
    """Imports of a module in `subpackage` that point up, or to a subpackage not in `LAYERS`."""
    wrong = []
    for module, line in imports_in(ast.parse(source)):
        if module.split(".")[0] != "esv_jax" or module == "esv_jax.__version__":
            continue
        if (f"esv_jax.{subpackage}", module) in EXCEPTIONS:
            continue
        target = subpackage_of(module)
        if target not in SUBPACKAGES or SUBPACKAGES.index(target) < SUBPACKAGES.index(subpackage):
            wrong.append(f"line {line}: {module}")
    return wrong


def test_every_subpackage_has_a_layer():
    subpackages = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    subpackages |= {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/**/*.py")}
    assert subpackages <= set(SUBPACKAGES), "add the new subpackage to LAYERS"
    assert len(set(SUBPACKAGES)) == len(SUBPACKAGES)
    assert set(SUBPACKAGES) >= PURE
    for folder in {path.parent for path in modules()}:
        assert (folder / "__init__.py").is_file(), f"{folder.name} is no package"


def test_imports_point_down():
    wrong = [
        f"{name_of(path)}, {what}"
        for path in modules()
        if path != PACKAGE / "__init__.py"  # imports everything lazily
        for what in upward_imports(path.read_text(encoding="utf-8"), subpackage_of(name_of(path)))
    ]
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    ("subpackage", "source", "is_wrong"),
    [
        ("games", "from esv_jax.estimators import Exact", True),
        ("games", "def f():\n    from esv_jax.estimators.exact import Exact", True),
        ("games", "if TYPE_CHECKING:\n    from esv_jax import results", True),
        ("games", "importlib.import_module('esv_jax.plots')", True),
        ("games", "import esv_jax.explanations as f", True),
        ("games", "from esv_jax import Exact", True),
        ("games", "import esv_jax", True),
        ("data", "from esv_jax import models", True),
        ("models", "from esv_jax import data, checks", False),
        ("games", "from esv_jax.games.protocol import Game", False),
        ("games", "from jax import Array", False),
        ("cli", "from esv_jax import __version__", False),
    ],
)
def test_upward_imports_are_detected(subpackage, source, is_wrong):
    assert bool(upward_imports(source, subpackage)) == is_wrong


def test_pure_subpackages_have_no_side_effects():
    wrong = []
    for path in modules():
        if subpackage_of(name_of(path)) in PURE:
            tree = tree_of(path)
            wrong += [
                f"{name_of(path)}, line {line}: import of {module}"
                for module, line in imports_in(tree)
                if is_among(module, OUTSIDE_PURE) and (name_of(path), module) not in EXCEPTIONS
            ]
            wrong += [
                f"{name_of(path)}, line {node.lineno}: {called}()"
                for called, node in calls_in(tree)
                if called in ("open", "input", "print")
            ]
    assert not wrong, "\n".join(["", *wrong])


# What is done nowhere


def test_no_other_framework_and_no_unpickling():
    wrong = []
    for path in modules():
        tree = tree_of(path)
        wrong += [
            f"{name_of(path)}, line {line}: import of {module}"
            for module, line in imports_in(tree)
            if is_among(module, NOWHERE) and (name_of(path), module) != RESTRICTED
        ]
        wrong += [
            f"{name_of(path)}, line {node.lineno}: {called}()"
            for called, node in calls_in(tree)
            if called in ("eval", "exec", "compile")
            or any(ast.unparse(word) == "allow_pickle=True" for word in node.keywords)
        ]
    assert not wrong, "\n".join(["", *wrong])


def test_the_restricted_unpickler_uses_one_class_of_pickle():
    """No function that would run a pickle as it is, and no name that another module could use."""
    tree = tree_of(PACKAGE / "checkpoints" / "unpickle.py")
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [[n.name for n in node.names] for node in froms if node.module == "pickle"] == [
        ["_Unpickler"]
    ]
    assert "pickle" not in {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert "_Unpickler" not in {called for called, _ in calls_in(tree)}
    for path in modules():
        imported = {
            n.name
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ImportFrom) and node.module == RESTRICTED[0]
            for n in node.names
        }
        assert not {"_Unpickler", "_RestrictedUnpickler"} & imported, name_of(path)


def narrows_a_type(test: ast.expr) -> bool:
    """Whether an asserted condition is only `a is not None`, or several of these."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(map(narrows_a_type, test.values))
    is_not = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
    return is_not and ast.unparse(test).endswith("is not None")


def test_bad_input_raises_errors_and_only_the_command_line_prints():
    wrong = []
    for path in modules():
        tree = tree_of(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and not narrows_a_type(node.test):
                wrong.append(f"{name_of(path)}, line {node.lineno}: {ast.unparse(node)}")
        if subpackage_of(name_of(path)) == "cli":
            continue
        wrong += [
            f"{name_of(path)}, line {node.lineno}: {called}()"
            for called, node in calls_in(tree)
            if called in ("print", "sys.exit", "exit", "quit", "os._exit", "SystemExit")
        ]
    assert not wrong, "\n".join(["", *wrong])


# The public names of the package


LAZY_PACKAGES = ["esv_jax", "esv_jax.models"]  # those that use `extras.lazy`


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_names_imported_lazily_are_those_of_the_type_checkers(package):
    module = importlib.import_module(package)
    block = next(node for node in tree_of(Path(module.__file__)).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    typed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # exports it for type checkers
            source = f"{package}.{alias.name}" if node.module == package else node.module
            typed[alias.name] = source
    names = [name for name in module.__all__ if name != "__version__"]
    assert sorted(typed) == names == dir(module)
    for name, source in typed.items():
        value, found = getattr(module, name), importlib.import_module(source)
        assert value is (found if found.__name__.endswith(f".{name}") else getattr(found, name))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'x'"):
        _ = module.x


def described(name: str, value: object) -> bool:
    """Whether a public function, class or module says what it is, in its own words."""
    if isinstance(value, type):
        text = vars(value).get("__doc__")
        return bool(text) and not text.startswith(f"{name}(")  # as dataclasses write it
    if callable(value) or isinstance(value, types.ModuleType):
        return bool(inspect.getdoc(value))
    return True  # a constant or a type alias


@pytest.mark.parametrize("name", sorted({*esv_jax.__all__} - {"__version__"}))
def test_public_names_resolve_and_are_described(name):
    value = getattr(esv_jax, name)
    assert described(name, value)
    if isinstance(value, types.ModuleType):
        for inner in getattr(value, "__all__", ()):
            assert described(inner, getattr(value, inner)), inner


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'esv_jax' has no attribute 'explian'"):
        _ = esv_jax.explian


# Importing does nothing

QUIET = """
import sys
import jax
before = dict(jax.config.values)
{imports}
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a JAX backend was started"
changed = [k for k, v in jax.config.values.items() if v != before.get(k)]
assert not changed, f"jax.config was changed: {{changed}}"
"""


def run_quietly(code: str, folder: Path) -> None:
    """Run `code` in a new interpreter; it may print nothing, warn of nothing, write nothing."""
    unset = ("JAX_", "XLA_", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    env |= {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(folder.iterdir())


def test_importing_the_package_is_light_and_has_no_side_effects(tmp_path):
    loaded = f"loaded = {HEAVY} & {{name.split('.')[0] for name in sys.modules}}"
    run_quietly(f"import sys, esv_jax\n{loaded}\nassert not loaded, loaded", tmp_path)
    run_quietly(QUIET.format(imports="import esv_jax"), tmp_path)


EXPLAIN = """
import sys
import numpy as np
import esv_jax as ej
heads = [{"w1": np.ones((2, 3)), "b1": np.ones(3), "w2": np.ones((3, 2)), "b2": np.ones(2)}]
game = ej.MultiScale(ej.models.stack_heads(heads))
ej.explain(game, np.ones((2, 2), "float32"), prior=np.full(2, 0.5))
loaded = {"flax", "optax", "orbax"} & {*sys.modules}
assert not loaded, loaded
"""


def test_explaining_heads_imports_no_training_library(tmp_path):
    run_quietly(EXPLAIN, tmp_path)


def test_importing_a_subpackage_has_no_side_effects(tmp_path):
    """The extras are imported where they are used, except by the user interfaces."""
    names = [name_of(path) for path in modules()]
    people = LAYERS[0]
    below = [name for name in names if subpackage_of(name) not in people]
    above = [name for name in names if subpackage_of(name) in people and "__main__" not in name]
    imports = [f"import {name}" for name in below]
    imports += [f"loaded = {EXTRAS} & {{*sys.modules}}", "assert not loaded, loaded"]
    imports += [f"import {name}" for name in above]
    run_quietly(QUIET.format(imports="\n".join(imports)), tmp_path)


def test_compiled_programs_kept_between_runs_are_bounded_and_whole(tmp_path):
    """Cut short: by a kill. Beyond the size: the oldest. zstd's are not looked into."""
    whole = zlib.compress(bytes(100))
    entries = {"old": whole, "zstd": b"\x28\xb5\x2f\xfd", "empty": b"", "cut": whole[:-1]}
    for k, (name, entry) in enumerate((entries | {"new": whole}).items()):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(entry)
        os.utime(path, (k, k))

    def left(**limit):
        drop_programs(tmp_path, **limit)
        return {path.name.removesuffix("-cache") for path in tmp_path.glob("*-cache")}

    assert left() == {"old", "zstd", "new"}
    (tmp_path / "later-cache").write_bytes(whole[:-1])
    assert left() == {"old", "zstd", "new"}
    assert left(most_bytes=len(whole) + 4) == {"zstd", "new"}
