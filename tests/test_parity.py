"""Agreement with the numbers of the original program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.games.multi_scale import direct_logits
from tests.conftest import FIXTURES, SHARED

HERE = FIXTURES / "esv"
GIVEN = SHARED / "fixtures" / "esv"


def files(pattern):
    """Our copies, and what else lies beside the checkout, by name."""
    found = {path.name: path for path in GIVEN.glob(pattern)} if GIVEN.is_dir() else {}
    found |= {path.name: path for path in HERE.glob(pattern)}
    assert found, pattern
    return sorted(found.items())


def cases(pattern):
    """Sequences of more than 10 elements, and files that are not our own, are slow."""
    params = []
    for name, path in files(pattern):
        with np.load(path, allow_pickle=False) as file:
            large = len(file["features"]) > 10 or path.parent != HERE
        marks = [pytest.mark.slow] * large
        params.append(pytest.param(path, id=name[:-4], marks=marks))
    return params


def cases_of_sizes(pattern):
    """A case for each of the sizes of a file; more than 5 elements are slow."""
    params = []
    for name, path in files(pattern):
        with np.load(path, allow_pickle=False) as file:
            sizes = file["n_list"].tolist()
        for n in sizes:
            marks = [pytest.mark.slow] * (n > 5)
            params.append(pytest.param(path, n, id=f"{name[:-4]}-{n}", marks=marks))
    return params


PRECISIONS = [
    pytest.param(jnp.float32, 1e-6, id="float32"),
    pytest.param(jnp.float64, 1e-12, id="float64"),
]


@pytest.fixture(autouse=True)
def precision(request):
    callspec = getattr(request.node, "callspec", None)
    dtype = callspec.params.get("dtype", jnp.float32) if callspec else jnp.float32
    with jax.enable_x64(dtype == jnp.float64):
        yield


def stack(file, dtype, n_max):
    return ej.models.stack_heads(
        [
            {
                name: file[f"{name.upper()}_{s}" if name[0] == "w" else f"{name}_{s}"].astype(dtype)
                for name in ("w1", "b1", "w2", "b2")
            }
            for s in range(1, n_max + 1)
        ]
    )


def replayed(file):
    member, valid = file["membership"], file["row_valid"]
    return ej.SubsequencePlan.from_membership(
        [[member[t, s][valid[t, s]] for s in range(member.shape[1])] for t in range(len(member))]
    )


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
@pytest.mark.parametrize("path", cases("esv_exact*.npz"))
def test_exact(path, dtype, atol):
    with np.load(path, allow_pickle=False) as file:
        game = ej.MultiScale(stack(file, dtype, int(file["n_max"])))
        x, prior = file["features"].astype(dtype), file["prior"]
        att = ej.explain(game, x, prior=prior)
        assert att.exact
        assert att.values.dtype == dtype
        np.testing.assert_allclose(att.values, file["esv_f64"], rtol=0, atol=atol)
        np.testing.assert_allclose(att.scores, file["scores_f64"], rtol=0, atol=atol)
        np.testing.assert_allclose(att.marginals, file["marginals"], rtol=0, atol=atol)
        assert np.abs(att.efficiency_gap()).max() < 2 * atol


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
@pytest.mark.parametrize("path", cases("esv_sampled*.npz"))
def test_sampled(path, dtype, atol):
    with np.load(path, allow_pickle=False) as file:
        game = ej.MultiScale(stack(file, dtype, int(file["n_max"])))
        x, prior = file["features"].astype(dtype), file["prior"]
        plan = replayed(file)
        att = ej.explain(game, x, prior=prior, estimator=ej.Constructive(unseen="zero"), plan=plan)
        np.testing.assert_allclose(att.values, file["esv_f64"], rtol=0, atol=atol)
        np.testing.assert_allclose(att.scores, file["scores_f64"], rtol=0, atol=atol)
        np.testing.assert_allclose(att.marginals, file["marginals"], rtol=0, atol=atol)
        coverage = np.minimum(file["count_with"], file["count_without"])
        # Scale 1 sets singletons against the prior, which the original counts once in all.
        np.testing.assert_array_equal(att.coverage[1:], coverage[1:])
        gap = file["efficiency_gap"]
        np.testing.assert_allclose(att.efficiency_gap(), gap, rtol=0, atol=len(x) * atol)
        if (coverage > 0).all() and "indep" not in path.name:  # nothing unseen: no policy matters
            skip = ej.explain(game, x, prior=prior, estimator=ej.Constructive(), plan=plan)
            np.testing.assert_allclose(skip.values, file["esv_f64"], rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
@pytest.mark.parametrize("path", cases("tsn_*.npz"))
@pytest.mark.parametrize("kind", ["average_consensus", "variable_length"])
def test_average_consensus(path, dtype, atol, kind):
    with np.load(path, allow_pickle=False) as file:
        w, b = jnp.asarray(file["W"], dtype), jnp.asarray(file["b"], dtype)

        def apply(x, mask):
            logits = jnp.matmul(jax.nn.relu(x), w, precision="highest") + b[None]
            keep = mask.astype(dtype)[:, None]
            return (logits * keep).sum(0) / keep.sum()

        game = ej.AverageConsensus(w, b, input_relu=True)
        game = game if kind == "average_consensus" else ej.VariableLength(apply)
        x, prior = file["features"].astype(dtype), file["prior"]
        if "membership" in file:
            att = ej.explain(
                game, x, prior=prior, estimator=ej.Constructive(unseen="zero"), plan=replayed(file)
            )
        else:
            att = ej.explain(game, x, prior=prior)
        if "esv_f64" in file:
            np.testing.assert_allclose(att.values, file["esv_f64"], rtol=0, atol=max(atol, 1e-12))
        np.testing.assert_allclose(att.values, file["esv"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(att.scores, file["scores"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(att.marginals, file["marginals"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "atol"),
    [pytest.param(jnp.float32, 2e-5, id="f32"), pytest.param(jnp.float64, 1e-12, id="f64")],
)
@pytest.mark.parametrize(("path", "n"), cases_of_sizes("multiscale_*.npz"))
def test_multi_scale_logits(path, n, dtype, atol):
    with np.load(path, allow_pickle=False) as file:
        heads = stack(file, dtype, int(file["n_max"]))
        identity = ej.MultiScale(heads, link="identity")
        x = jnp.asarray(file[f"features_{n}"], dtype)
        expected = file[f"logits_f64_{n}"]
    if n <= 8:  # the plain way is slow to compile beyond
        plain = jax.jit(direct_logits)(heads, x)
        np.testing.assert_allclose(plain, expected, rtol=0, atol=atol)
    prior = np.zeros(heads.n_classes, dtype)
    by_recurrence = ej.explain(identity, x, prior=prior).scores
    np.testing.assert_allclose(by_recurrence, expected, rtol=0, atol=atol)


@pytest.mark.slow
def test_trained_games_with_known_answers(shared):
    """16 frames, 20 classes, heads trained on a temporal-order problem; float64 answers."""
    with np.load(shared / "games" / "temporal_order.npz", allow_pickle=False) as file:
        game = ej.MultiScale(stack(file, jnp.float32, 8))
        batch = ej.explain_batch(game, file["features"], prior=file["prior"])
        np.testing.assert_allclose(batch.values, file["esv"], rtol=0, atol=1e-6)
        errors = []
        for i in range(6):
            label = file["labels"][i]
            att = ej.explain(
                game,
                file["features"][i],
                prior=file["prior"],
                estimator=ej.Constructive(1024, 1),
                key=jax.random.key(i),
            )
            exact = jnp.asarray(file["esv"][i, :, label], jnp.float32)
            errors.append(float(ej.metrics.relative_error(att.for_class(label), exact)))
        assert np.mean(errors) < 0.25  # 11 % on average over many sequences and seeds
