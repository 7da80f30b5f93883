"""The study of perturbation: measures against plain twins, and one small run, resumed."""

import inspect
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models.clip_model import ClipCNN, ClipModel
from esv_jax.perturbation import Masking, perturb, pyramid
from experiments.perturbation import pictures
from experiments.perturbation.__main__ import Settings, agreement, findings, main
from experiments.perturbation.clips import NEEDS, Subject, keeping, mask_measures, needs
from experiments.perturbation.masks import AREA, MAIN, VARIANTS, Masks, find_masks, stored_masks
from experiments.relevance.measures import around

T = 8
METHODS = ("step", "step_no_core", "gradient_x_input", "random")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network with the classes of the synthetic clips, in a file."""
    names = ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    module = ClipCNN(n_classes=len(names), widths=(2, 2, 2, 2))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, T, 64, 64, 3)))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )
    settings = {"n_classes": len(names), "widths": [2, 2, 2, 2]}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny = ClipModel("clip_cnn", settings, variables, names, T)
    return ej.models.save_clip_model(path, tiny)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A small run, its masks drawn at random: `step` has tests of its own."""
    pytest.importorskip("matplotlib", reason="needs the plots extra")
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ej.perturbation, "step", drawn)
        assert run(model, out) == 0
    return out


def drawn(fn, clip, target, *, areas, iterations, key, **options):
    """Random masks in the place of those that `step` finds."""
    shape = clip.shape[:3]
    at = jax.random.uniform(jax.random.fold_in(key, len(options)), shape)
    masks = jnp.stack([(at > 1 - area).astype(jnp.float32) for area in areas])
    return SimpleNamespace(masks=masks, probability=fn(masks[..., None] * clip[None])[:, target])


def run(model, out, n_clips=2):
    args = ["--model", str(model), "--out", str(out), "--n-clips", str(n_clips), "--iterations"]
    args += ["3", "--steps", "2", "--n-frames", "16", "--n-resamples", "20", "--n-ablation", "1"]
    return main([*args, "--methods", *METHODS, "--ablation"])


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_what_is_measured_of_a_mask():
    mask = np.zeros((2, 5, 4), np.float32)  # a tenth of it are four voxels
    mask[0, 0] = [0.9, 0.8, 0.7, 0.6]
    evidence = np.zeros(mask.shape, bool)
    evidence[0, 0, :2] = evidence[1, 4, 3] = True
    coverage, kept, flicker, area = mask_measures(mask, 0.4, 0.8, evidence)
    assert coverage == pytest.approx(2 / 3)
    assert kept == 0.5
    assert flicker == pytest.approx(3 / 20)
    assert area == pytest.approx(3 / 40)


def test_what_a_prediction_needs(rng):
    clip = jnp.asarray(rng.random((4, 12, 12, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(4 * 12 * 12 * 3, 2)) / 20, jnp.float32)

    def fn(clips):
        flat = clips.reshape(len(clips), -1)
        return jax.nn.softmax(jnp.matmul(flat, weights, precision="highest"))

    evidence = np.zeros((4, 12, 12), bool)
    evidence[1, 2:4, 5:8] = evidence[2, 2:4, 5:8] = True
    mask = np.zeros(evidence.shape, np.float32)
    mask[2, :5, :9] = 1
    clean, *rest = needs(keeping(fn), clip, 1, mask, evidence)
    found = dict(zip(NEEDS, rest, strict=True))

    levels = pyramid(clip, edge="replicate")
    grown = around(evidence)
    half = grown & (np.arange(4) == 2)[:, None, None]  # the frame that the mask holds most of
    wanted = {
        "kept by nothing, all blurred": np.zeros_like(mask),
        "kept by the evidence": evidence,
        "kept by the evidence, grown": grown,
        "kept by half of its frames, grown": half,
        "kept without the evidence, grown": ~grown,
        "kept by the mask within the evidence, grown": mask * grown,
    }
    assert clean == pytest.approx(float(fn(clip[None])[0, 1]), rel=1e-5)
    for name, volume in wanted.items():
        left = perturb(levels, jnp.asarray(volume, jnp.float32))
        share = min(1, float(fn(left[None])[0, 1]) / clean)
        assert found[name] == pytest.approx(share, rel=1e-4), name
    assert found["evidence share"] == 12 / 576
    assert found["highest coverage possible"] == 1
    assert found["evidence frames covered by half"] == 0.5


def test_agreement_of_metrics():
    mean = np.array([[0.1, 0.2, 0.3], [5.0, 4.0, 1.0], [1.0, 1.0, 1.0], [3.0, 1.0, 2.0]])
    found = np.array(agreement(mean, [True, False, True, True]))
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 3] == pytest.approx(-0.5)
    assert np.isnan(found[2]).all()  # orders nothing


@pytest.mark.slow
def test_a_run_is_complete(folder):
    summary = read(folder)
    text = (folder / "table.md").read_text()
    assert list(summary["seconds"]) == list(METHODS)
    for row in summary["masks"].values():
        assert 0 <= row["coverage"]["low"] <= row["coverage"]["mean"] <= row["coverage"]["high"]
        assert f"| {100 * row['kept']['mean']:.1f}" in text
    for method in METHODS:
        insertion = summary["means"]["insertion"][method]
        assert f"| {method} | {insertion['mean']:.3f} ±" in text
    assert list(summary["ablation"]) == list(MAIN)
    assert summary["ablation"]["core"]["n"] == 1
    first = summary["clips"][0]
    assert summary["ablation"]["core"]["coverage"] == pytest.approx(first["coverage"])
    assert all(
        row["class"] in ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES for row in summary["clips"]
    )
    own = np.mean([row["coverage"] for row in summary["clips"]])
    assert summary["masks"]["core"]["coverage"]["mean"] == pytest.approx(own)
    means = {method: row["mean"] for method, row in summary["means"]["insertion"].items()}
    for method, row in summary["minus_random"].items():
        assert row["mean"] == pytest.approx(means[method] - means["random"])
    for name in ("methods", "reliability", "example", "example_least"):
        assert (folder / f"{name}.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_cut(folder, model, monkeypatch, capsys):
    before = read(folder)
    lines = (folder / "scores.jsonl").read_text().splitlines(keepends=True)
    (folder / "scores.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # cut within clip 1

    def never(*args, **kwargs):
        raise AssertionError("masks that are known are not found again")

    monkeypatch.setattr(ej.perturbation, "step", never)
    monkeypatch.setattr(pictures, "draw", lambda *args: [])
    assert run(model, folder) == 0
    after = read(folder)
    for name in ("masks", "mask_seconds", "means", "needs", "findings", "clips"):
        assert after[name] == before[name], name
    assert len((folder / "scores.jsonl").read_text().splitlines()) == 3
    assert "clip 2 of 2" in capsys.readouterr().err


@pytest.mark.slow
def test_findings_on_given_numbers(folder):
    summary = read(folder)
    assert [row._asdict() for row in findings(summary)] == summary["findings"]
    more = {"mean": 0.2, "low": 0.1, "high": 0.3}
    less = {"mean": -0.2, "low": -0.3, "high": -0.1}
    even = {"mean": 0.0, "low": -0.001, "high": 0.001}
    summary["masks"]["core"]["coverage"] = {"mean": 0.7, "low": 0.6, "high": 0.8}
    summary["step_minus"] = {"gradient_x_input": even, "random": more}
    summary["means"]["insertion"]["gradient_x_input"]["mean"] = 2.0
    summary["core_minus"] = {
        "no core": {"flicker": less, "area": even, "kept": even},
        "difference loss": {"flicker": less, "area": even, "kept": less},
    }
    summary["minus_random"] = {"step": more, "gradient_x_input": even}
    found = findings(summary)
    assert [row.agrees for row in found] == [True] * 7 + [False, False]
    values = [70, 0, -0.2, 0, 0, -0.2, 0, -20, 0]
    assert [row.value for row in found] == pytest.approx(values)
    summary["masks"]["core"]["coverage"]["mean"] = 0.69
    summary["step_minus"]["gradient_x_input"] = less
    summary["core_minus"]["no core"]["area"] = more
    summary["minus_random"]["gradient_x_input"] = more
    agrees = [row.agrees for row in findings(summary)]
    assert agrees == [False, False, True, False, True, True, True, False, True]


def test_settings_that_compare_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one more"):
        Settings(methods=("step", "step_no_core", "random"))
    with pytest.raises(ValueError, match="n_clips"):
        Settings(n_clips=0)
    with pytest.raises(ValueError, match="ablation"):
        Settings(ablation=("core",))


@pytest.mark.parametrize("name", VARIANTS)
def test_masks_are_those_of_step(name, monkeypatch):
    clip, key = jnp.zeros((T, 64, 64, 3)), jax.random.key(5)
    signature = inspect.signature(ej.perturbation.step)
    calls = []

    def watched(*args, **options):
        calls.append(signature.bind(*args, **options).arguments)
        return drawn(*args, **options)

    def fn(clips):
        return jnp.full((len(clips), 18), 1 / 18)

    monkeypatch.setattr(ej.perturbation, "step", watched)
    found = find_masks(fn, name, clip, 4, iterations=2, key=key)
    (call,) = calls
    assert call["fn"] is fn and call["target"] == 4 and call["iterations"] == 2
    assert call["key"] is key
    wanted = {"areas": (AREA,)} | dict(VARIANTS[name])
    assert AREA in wanted["areas"]
    assert ("start" in call) == ("start" in wanted)
    if wanted.pop("start", None) == "ones":
        small = Masking().generator((64, 64)).small_shape
        np.testing.assert_array_equal(call["start"], np.ones((1, T, *small), np.float32))
    assert all(call[option] == value for option, value in wanted.items())
    assert found.masks.shape == (len(call["areas"]), T, 64, 64)


def test_stored_masks_are_not_found_again(tmp_path):
    path, calls = tmp_path / "a.npz", []

    def find(value):
        calls.append(value)
        return Masks(np.full((1, 2, 3, 4), value, np.float32), np.ones(1, np.float32), 0.5)

    def value_of(mark, value):
        return stored_masks(path, mark, lambda: find(value)).masks[0, 0, 0, 0]

    assert value_of("x", 1) == 1
    assert value_of("x", 2) == 1
    assert value_of("other", 3) == 3
    path.write_bytes(path.read_bytes()[:100])  # a file that is cut
    assert value_of("other", 4) == 4
    assert calls == [1, 3, 4]
    assert stored_masks(path, "other", None).seconds == 0.5


def test_masks_of_other_settings_are_not_taken(model, tmp_path):
    settings = Settings(out=tmp_path)
    subject = Subject.of(ej.models.load_clip_model(model), None, settings)
    other = Subject.of(ej.models.load_synthetic_clips(), None, settings)
    changes = ({"seed": 1}, {"iterations": 4}, {"n_frames": 9})
    others = [Subject.of(subject.model, None, replace(settings, **change)) for change in changes]
    mark = subject.digest(VARIANTS["core"])
    assert mark == Subject.of(subject.model, None, settings).digest(VARIANTS["core"])
    marks = [one.digest(VARIANTS["core"]) for one in (*others, other)]
    assert len({mark, subject.digest(VARIANTS["no core"]), *marks}) == 6
