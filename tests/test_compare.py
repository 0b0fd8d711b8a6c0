"""Comparison with the baseline: who may be ranked, what is read, trained and written, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipsent_nb.compare import (
    against_baseline,
    best_of,
    calibrated,
    compare,
    comparison_table,
    contender,
    fitted_references,
    group_seeds,
    ranking_html,
    settings_apart,
)
from clipsent_nb.files import ClipsentError, write_json
from clipsent_nb.heads import Contender
from clipsent_nb.runs import Run
from clipsent_nb.train import fit, sample_config, sample_run

OPTIMIZE = Path("outputs/optimize")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A project with a baseline, a run, and one that has met half of its validation posts."
    root = tmp_path_factory.mktemp("compare") / "sample"
    sample_run(root, epochs=2)
    base = sample_config(root, head_variant="base", epochs=1, output_dir=OPTIMIZE / "baseline")
    fit(base, progress=False)
    train, val = (pd.read_csv(root / f"outputs/splits/{name}.csv", dtype=str) for name in ("train", "val"))
    pd.concat([train, val.iloc[::2]]).to_csv(root / "outputs/splits/half.csv", index=False)
    half = replace(base, train_csv=Path("outputs/splits/half.csv"), output_dir=OPTIMIZE / "half")
    fit(half, progress=False)
    return root


@pytest.fixture
def project(made, tmp_path):
    "A copy that a test may change."
    return Path(shutil.copytree(made, tmp_path / "project"))


def baseline_of(root, **changes):
    settings = {"head_variant": "base", "epochs": 1, "output_dir": OPTIMIZE / "baseline"}
    return sample_config(root, **settings | changes)


def compared(root, runs="", **changes):
    return compare(baseline_of(root, **changes), runs, report=False, progress=False)


def edit_json(path, **values):
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def copy_run(root, name, to, **metrics):
    "A copy of a run, with other metrics if they are given."
    folder = shutil.copytree(root / OPTIMIZE / name, root / OPTIMIZE / to)
    edit_json(folder / "metrics.json", **metrics)
    return folder


def test_a_leaked_run_is_struck_out_and_not_ranked_however_high_its_score(project):
    answers = project / OPTIMIZE / "half/val_predictions.csv"
    table = pd.read_csv(answers, dtype={"guid": str})
    for label in ("negative", "neutral", "positive"):
        table[f"p_{label}"] = (table.true_label == label).astype(float)
    table.to_csv(answers, index=False)
    found = compared(project).table.set_index("model")
    assert found.loc["half", "val_f1_macro"] == found.val_f1_macro.max() == 1
    assert found.index[-1] == "half" and pd.isna(found.loc["half", "rank"]) and pd.isna(found.loc["half", "p"])
    assert found["rank"].dropna().tolist() == [1, 2, 3, 4]
    metrics = Run.load(project / OPTIMIZE / "half").metrics
    assert found.loc["half", "unseen_val_f1_macro"] == pytest.approx(metrics["unseen_val_f1_macro"])
    page = ranking_html(found.reset_index())
    assert page.count("<s>") == 5 and "<s>1.000</s>" in page
    assert f"{metrics['unseen_val_f1_macro']:.3f} on the {metrics['unseen_val_posts']} posts not in train" in page


def test_no_row_is_struck_out_without_a_leak(project):
    table = compared(project, str(OPTIMIZE / "clip")).table
    assert "<s>" not in ranking_html(table) and table["rank"].tolist() == [1, 2, 3, 4]


def test_a_copy_of_the_baseline_is_not_distinguishable_and_no_second_seed(project):
    copy_run(project, "baseline", "twin")
    table = compared(project, str(OPTIMIZE / "twin")).table.set_index("model")
    assert table.loc["twin", ["difference", "verdict"]].tolist() == [0, "one seed: not judged"]
    assert table.loc["baseline", "seeds"] == 1


def test_another_seed_of_the_baseline_joins_it(project):
    folder = copy_run(project, "baseline", "baseline_seed7")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit_json(folder / "config.json", seed=7, identity=config["identity"] | {"seed": 7})
    table = compared(project, str(OPTIMIZE / "baseline_seed7")).table.set_index("model")
    assert table.loc["baseline", "seeds"] == 2 and "baseline_seed7" not in table.index


def test_runs_on_other_posts_are_refused_if_named_and_told_if_found(project):
    folder = copy_run(project, "clip", "old")
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    table.iloc[3:].to_csv(folder / "val_predictions.csv", index=False)
    with pytest.raises(ClipsentError, match="old: validated on other posts than the baseline, 3 are not in both"):
        compared(project, str(OPTIMIZE / "old"))
    assert not (project / OPTIMIZE / "compare_opt_vs_base.csv").exists()
    result = compared(project)
    assert "old" not in result.table.model.tolist() and len(result.left_out) == 1
    assert f"left out: {folder.resolve()}: validated on other posts" in str(result)


def test_runs_with_other_labels_are_refused(project):
    answers = copy_run(project, "clip", "relabelled") / "val_predictions.csv"
    table = pd.read_csv(answers, dtype={"guid": str})
    table.loc[0, "true_label"] = "neutral" if table.true_label[0] != "neutral" else "positive"
    table.to_csv(answers, index=False)
    with pytest.raises(ClipsentError, match=f"relabelled: has other labels .* guid {table.guid[0]}; train one"):
        compared(project, str(OPTIMIZE / "relabelled"))


def test_a_missing_baseline_is_trained_but_not_for_a_run_on_other_posts(project, capsys):
    shutil.rmtree(project / OPTIMIZE / "baseline")
    folder = copy_run(project, "clip", "old")
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    table.iloc[3:].to_csv(folder / "val_predictions.csv", index=False)
    with pytest.raises(ClipsentError, match="old: validated on other posts"):
        compared(project, str(OPTIMIZE / "old"))
    assert not (project / OPTIMIZE / "baseline").exists()
    compare(baseline_of(project), str(OPTIMIZE / "clip"), report=False)
    assert "baseline: trained (head_variant base, loss ce, epochs 1" in capsys.readouterr().out
    written = (project / OPTIMIZE / "baseline/best.pt").stat().st_mtime_ns
    compare(baseline_of(project, epochs=9), str(OPTIMIZE / "clip"), report=False)
    assert "baseline: read (head_variant base, loss ce, epochs 1" in capsys.readouterr().out
    assert (project / OPTIMIZE / "baseline/best.pt").stat().st_mtime_ns == written


def test_a_leaked_baseline_is_refused_before_it_is_trained(project):
    with pytest.raises(ClipsentError, match="half: a leaked baseline"):
        compared(project, output_dir=OPTIMIZE / "half")
    with pytest.raises(ClipsentError, match="--train-csv outputs/splits/half.csv: holds copies of validation posts"):
        compared(project, output_dir=OPTIMIZE / "fresh", train_csv=Path("outputs/splits/half.csv"))
    assert not (project / OPTIMIZE / "fresh").exists()


def test_changed_splits_stop_the_references_only(project):
    path = project / "outputs/splits/train.csv"
    pd.read_csv(path, dtype=str).iloc[1:].to_csv(path, index=False)
    with pytest.raises(ClipsentError, match="train.csv: changed since the baseline .* --no-references"):
        compared(project)
    result = compare(baseline_of(project), references=False, report=False, progress=False)
    assert set(result.table.kind) == {"baseline", "run"}


@pytest.mark.parametrize("name", ["outputs/compare", "outputs/compare.json"])
def test_the_table_is_a_csv_file(project, name):
    with pytest.raises(ClipsentError, match=r"--output-csv .*: not the name of a table; give one that ends in \.csv"):
        compare(baseline_of(project), output_csv=Path(name), report=False, progress=False)


def test_a_baseline_alone_makes_a_table(project):
    for name in ("clip", "half"):
        shutil.rmtree(project / OPTIMIZE / name)
    result = compare(baseline_of(project), references=False, report=False, progress=False)
    assert result.table.model.tolist() == ["baseline"] and pd.isna(result.table.verdict[0])
    assert len(pd.read_csv(result.csv)) == 1


def test_the_best_of_a_comparison_is_chosen_by_the_mean_over_seeds_and_never_for_a_leak(project):
    batch = project / OPTIMIZE / "grid_search"
    cells = []
    for name, seed, head, score, leaked in [
        ("a", 1, "mlp", 0.9, False),
        ("a_seed2", 2, "mlp", 0.3, False),
        ("b", 1, "ln", 0.7, False),
        ("b_seed2", 2, "ln", 0.7, False),
        ("c", 1, "gated", 1.0, True),
    ]:
        folder = copy_run(project, "clip", f"grid_search/{name}", best_val_f1_macro=score, leaked=leaked)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = {"seed": seed, "head_variant": head}
        edit_json(folder / "config.json", **own, identity=config["identity"] | own)
        cells.append({"name": name, "values": {}, "state": "done", "reason": "", "seconds": 1.0})
    cells.append({"name": "d", "values": {}, "state": "failed", "reason": "broken", "seconds": 1.0})
    write_json(batch / "cells.json", {"axes": [], "cells": cells})
    assert sorted(run.folder.name for run in best_of(batch)) == ["b", "b_seed2"]
    table = compared(project, str(OPTIMIZE / "grid_search")).table.set_index("model")
    assert table.loc["grid_search/b", "seeds"] == 2 and table.loc["grid_search/b", "val_f1_macro_sd"] == 0


def test_scores_are_those_of_the_runs(project):
    table = compared(project).table.set_index("model")
    for name in ("baseline", "clip", "half"):
        metrics = Run.load(project / OPTIMIZE / name).metrics
        for score in ("acc", "f1_macro", "precision_macro", "recall_macro", "f1_neutral", "ece"):
            assert table.loc[name, f"val_{score}"] == pytest.approx(metrics[f"best_val_{score}"], abs=1e-5)


def test_a_training_file_counts_as_a_setting(project):
    runs = [Run.load(project / OPTIMIZE / name) for name in ("half", "baseline")]
    assert settings_apart(*runs) == "train_csv=half.csv"
    assert len(group_seeds(runs)) == 2


def test_p_values_are_corrected_for_the_number_of_rows():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 120)

    def guess(right):
        answers = np.where(random.random(120) < right, truth, random.integers(0, 3, 120))
        return Contender(str(right), np.eye(3)[answers][None])

    base, close, far = guess(0.5), guess(0.72), guess(0.98)
    alone = against_baseline(truth, [base, close]).set_index("model")
    crowd = [base, close, far, *(replace(base, name=f"copy {n}") for n in range(20))]
    among = against_baseline(truth, crowd).set_index("model")
    assert among.loc["0.72", "p"] == alone.loc["0.72", "p"] == alone.loc["0.72", "p_adjusted"]
    assert among.loc["0.72", "p_adjusted"] > among.loc["0.72", "p"]
    assert among.loc["0.98", "verdict"] == "better"


def test_temperature_is_judged_on_posts_it_was_not_fitted_on():
    truth, probabilities = np.zeros(10, dtype=int), np.tile([0.6, 0.3, 0.1], (10, 1))
    truth[0] = 2  # only the fold that holds post 0 is fitted without it
    scaled = calibrated(truth, probabilities)
    assert len(np.unique(scaled[:, 0].round(6))) == 2
    assert scaled[0, 0] == scaled[:, 0].max()
    assert calibrated(truth[:1], probabilities[:1]).tolist() == probabilities[:1].tolist()


def test_texts_without_words_are_named():
    with pytest.raises(ClipsentError, match="tfidf-logistic: cannot be fitted"):
        fitted_references(["", " ", ""], np.array([0, 1, 2]), [""])


def test_names_are_escaped(project):
    runs = [Run.load(project / OPTIMIZE / name) for name in ("baseline", "clip")]
    rivals = [contender([run], project) for run in runs]
    rivals[1] = replace(rivals[1], name="<script>")
    truth = runs[0].predictions.sort_values("guid").true_label.map(["negative", "neutral", "positive"].index)
    page = ranking_html(comparison_table(truth.to_numpy(), rivals))
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.slow
def test_the_report_is_written_beside_the_table(project):
    result = compare(baseline_of(project), progress=False)
    page = (project / OPTIMIZE / "compare_opt_vs_base/report.html").read_text(encoding="utf-8")
    assert result.report == project / OPTIMIZE / "compare_opt_vs_base/report.html"
    assert page.count("<s>") == 5 and "met validation posts in training" in page
