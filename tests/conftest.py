"""Strict settings for every run, and where the shared data lies."""

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile(
    "quick",
    deadline=None,  # the first example of a shape compiles
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("quick")

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).resolve().parent / "fixtures"
SHARED = ROOT.parent / "shared"

# Without the compiler's optimisations the tests' programs compile in half the time. Programs as
# users have them: XLA_FLAGS= pytest, as the slow tests of .ci/run.
FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
WORTH_KEEPING = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def pytest_configure(config):
    """Compiled programs are kept for other processes and later runs, subprocesses included.

    In pytest's cache folder, which `--cache-clear` empties. JAX's keys cover the program, the
    compiler's flags, the versions and the features of the processor.
    """
    if not hasattr(config, "workerinput"):  # else the process that began the run has done it
        folder = config.cache.mkdir("programs")
        drop_programs(folder)
        os.environ[PROGRAMS] = str(folder)
        os.environ[WORTH_KEEPING] = "0"  # seconds that a program takes to compile
        os.environ.setdefault("XLA_FLAGS", " ".join(known_flags(config.cache)))
    jax.config.update(PROGRAMS.lower(), os.environ[PROGRAMS])
    jax.config.update(WORTH_KEEPING.lower(), float(os.environ[WORTH_KEEPING]))
    if os.environ["XLA_FLAGS"]:
        share_lowering_context()
    # JAX writes entries in place: one that another process is still writing is compiled anew.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


def known_flags(cache):
    """Those of `FLAGS` that this version of the compiler has: others end the process."""
    name = f"xla_flags/{importlib.metadata.version('jaxlib')}"
    known = cache.get(name, None)
    if known is None:
        run = [sys.executable, "-c", "import jax; jax.devices()"]
        known = [
            flag
            for flag in FLAGS
            if not subprocess.run(
                run, env=os.environ | {"XLA_FLAGS": flag}, capture_output=True
            ).returncode
        ]
        cache.set(name, known)
    return known


@functools.cache
def lowering_context(make, thread):
    """The context of one thread, until the cache is cleared."""
    return make()


def share_lowering_context():
    """Lower all programs of a test module in one MLIR context, a third of the tests' time.

    JAX makes a new context, with all dialects, for each of ten thousand small programs. This
    replaces a private function; a JAX without it is left alone.
    """
    try:
        from jax._src.interpreters import mlir
        from jaxlib.mlir.ir import Context

        make = mlir.make_ir_context
    except (ImportError, AttributeError):
        return

    def shared():
        if Context.current is not None:  # within the lowering of another program
            return make()
        return lowering_context(make, threading.get_ident())

    mlir.make_ir_context = shared


def drop_programs(folder, most_bytes=500_000_000):
    """Drop entries cut short since the last call, which JAX would never replace, and the oldest
    beyond a size."""
    mark = folder / "checked"
    since = mark.stat().st_mtime if mark.exists() else 0
    mark.touch()
    total = 0
    with contextlib.suppress(FileNotFoundError):  # another run drops as well
        written = {path: path.stat() for path in folder.glob("*-cache")}
        for path in sorted(written, key=lambda path: written[path].st_mtime, reverse=True):
            total += written[path].st_size
            is_new = written[path].st_mtime >= since
            if total > most_bytes or (is_new and not is_whole(path.read_bytes())):
                path.unlink()


def is_whole(entry):
    """Whether a zlib stream has its end, with the checksum; what zstd wrote is taken as it is."""
    if entry.startswith(b"\x28\xb5\x2f\xfd"):
        return True
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True


def share_of_mappings_taken():
    """Of the memory mappings that this process may have; 1 where nobody says."""
    taken, most = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if not (taken.is_file() and most.is_file()):
        return 1.0
    return len(taken.read_bytes().splitlines()) / int(most.read_text())


@pytest.fixture(scope="module", autouse=True)
def not_too_many_programs():
    """Drop compiled programs, after a module, once there are many: thousands of them exhaust the
    memory mappings that a process may have, and the compiler then crashes.

    One module takes up to a quarter of them. What they held is then given back to the system,
    which the C library would not do by itself: a gigabyte after some modules.
    """
    yield
    lowering_context.cache_clear()  # with the constants of the module's programs
    if share_of_mappings_taken() > 0.4:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
            ctypes.CDLL(None).malloc_trim(0)


def drawn_variables(module, *inputs, seed=0):
    """Variables of a Linen module as its `init` shapes them, drawn by NumPy: nothing is compiled.

    Kernels are normal, by 1 / sqrt of their inputs; biases and means are 0, scales and variances 1.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)

    def draw(path, like):
        if len(like.shape) > 1:
            kernel = rng.normal(size=like.shape) / np.sqrt(np.prod(like.shape[:-1]))
            return jnp.asarray(kernel, like.dtype)
        return jnp.full(like.shape, path[-1].key in ("scale", "var"), like.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def shared() -> Path:
    """The folder of large shared inputs beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"shared inputs are not present beside the checkout ({SHARED.name}/)")
    return SHARED


@pytest.fixture
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Run one test in double precision."""
    with jax.enable_x64(True):
        yield
