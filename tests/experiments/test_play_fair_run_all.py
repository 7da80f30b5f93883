"""All figures from one command: what is kept, what is left out, and the page that compares."""

import json

import numpy as np
import pytest

import esv_jax as ej
from experiments.harness import Finding, measured
from experiments.play_fair import fig4, figure, run_all, subjects
from tests.experiments.subjects_for_tests import D, random_heads

N, C = 8, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features of 12 sequences and a multi-scale model of them."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    heads = random_heads(rng, 2, C)
    model = ej.models.TrainedModel(heads, np.full(C, 1 / C), ("a", "b", "c"))
    ej.models.save_model(folder / "m.safetensors", model)
    videos = [
        (f"v{i}", rng.normal(size=(N, D)).astype(np.float32), {"action": i % C}) for i in range(12)
    ]
    ej.data.write_features(folder / "f.hdf", videos, D)
    return folder


def arguments(files, out, *more, figures=("fig4",)):
    own = ["--features", str(files / "f.hdf"), "--model", str(files / "m.safetensors")]
    few = ["--n-resamples", "50", "--out", str(out)]
    return ["--subjects", "features", "--figures", *figures, *own, *few, *more]


@pytest.mark.slow
def test_figures_are_drawn_kept_and_compared(files, tmp_path, capsys, monkeypatch):
    assert run_all.main(arguments(files, tmp_path)) == 0
    folder = tmp_path / "features" / "fig4"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_sequences"] == 12 and summary["settings"]["n_resamples"] == 50
    assert (folder / "table.md").read_text().strip() == summary["table"].strip()
    assert all((folder / name).stat().st_size > 1000 for name in summary["pictures"])
    page = (tmp_path / "report.md").read_text()
    assert "### Figure 4" in page and "no TSN" in page
    for row in summary["findings"]:
        assert row["quantity"] in page and measured(row) in page
    assert str(len(summary["findings"])) in page.splitlines()[0]
    assert summary["findings"][0]["quantity"] in capsys.readouterr().out

    calls = []
    monkeypatch.setattr(fig4, "measure", lambda *a: calls.append(a) or stub())
    assert run_all.main(arguments(files, tmp_path)) == 0 and not calls
    assert run_all.main(arguments(files, tmp_path, "--again")) == 0 and len(calls) == 1
    assert run_all.main(arguments(files, tmp_path, "--seed", "1")) == 0 and len(calls) == 2


def stub():
    finding = Finding("f", "1", 2.0, 1.0, 3.0, agrees=False)
    return figure.Outcome({}, "t", [finding], {"p": ej.plots.style.new_figure(1, 1)})


@pytest.mark.slow
def test_a_figure_that_fails_keeps_the_others(files, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("n: expected more, got less.")

    monkeypatch.setattr(fig4, "measure", fail)
    assert run_all.main(arguments(files, tmp_path, figures=("fig4", "fig5"))) == 1
    assert "features: fig4 failed: n: expected more" in capsys.readouterr().err
    assert (tmp_path / "features" / "fig5" / "summary.json").is_file()
    assert "Figure 5" in (tmp_path / "report.md").read_text()


def test_missing_data_says_what_is_expected(files, tmp_path, capsys):
    series = ["--subjects", "japanese-vowels", "--data", str(tmp_path), "--out", str(tmp_path)]
    assert run_all.main(series) == 2
    said = capsys.readouterr().err
    assert "No JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts" in said and "--data" in said
    alone = ["--subject", "features", "--out", str(tmp_path)]
    assert figure.main("fig4", "about", fig4.measure, alone) == 2
    assert "--features: expected an HDF5 file of features" in capsys.readouterr().err
    more = ["--features", str(files / "f.hdf"), "--model", str(tmp_path / "gone")]
    assert figure.main("fig4", "about", fig4.measure, [*alone, *more]) == 2
    assert "--model: expected a .safetensors model" in capsys.readouterr().err
    assert run_all.main(["--figures", "fig1", "--out", str(tmp_path)]) == 2
    assert "fig1" in capsys.readouterr().err


def test_other_labels_and_too_many_elements_are_refused(files, tmp_path):
    choice = subjects.Choice(
        "features", features=files / "f.hdf", model=files / "m.safetensors", label="verb"
    )
    with pytest.raises(ValueError, match=r"label: expected one of \['action'\]"):
        subjects.load_subject(choice, tmp_path, 0)
    subject = subjects.load_subject(
        subjects.Choice("features", files / "f.hdf", files / "m.safetensors", limit=5), tmp_path, 0
    )
    assert len(subject.sequences) == 5 and subject.baseline.shape == (D,)
    with pytest.raises(ValueError, match="n: expected sequences of at least 9 elements"):
        subject.at_centres(9)
    assert subject.at_centres(3).index.tolist()[0] == ej.data.segment_centres(N, 3).tolist()


@pytest.mark.slow
def test_the_page_takes_its_place_in_a_readme(files, tmp_path):
    assert run_all.main(arguments(files, tmp_path)) == 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{run_all.BEGIN}\nold\n{run_all.END}\nafter\n")
    page = run_all.page(run_all.summaries(tmp_path, ["features"]))
    run_all.install(page, tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert page in text and "old" not in text
    run_all.install(page, tmp_path, readme)
    assert readme.read_text() == text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected one line"):
        run_all.install(page, tmp_path, readme)
