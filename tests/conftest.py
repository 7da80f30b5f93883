"""Strict settings for every run, and where the shared data lies."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile(
    "house",
    deadline=None,  # the first example of a shape compiles
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).resolve().parent / "fixtures"
SHARED = ROOT.parent / "shared"


LONG = (  # files that take minutes: begun first, so that no process ends long after the other
    *("test_surrogate", "test_gradients", "test_models_training", "test_sweep_processes"),
    *("test_sweeps", "test_readme", "test_experiments", "test_cli", "test_relevance"),
)


def pytest_collection_modifyitems(items):
    """Long files first; tests of a file stay together and in order."""
    place = {name: k for k, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def few_programs_at_a_time():
    """Drop compiled programs after each module: thousands of them exhaust the memory mappings
    that a process may have, and the compiler then crashes."""
    yield
    jax.clear_caches()


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
