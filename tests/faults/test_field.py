"""Situations that people of this trade met in public, and others of the same kinds; `README.md` lists them."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsent_nb.augment import IMAGE_COPIES, augment_images, augment_text, merge
from clipsent_nb.badcases import describe_cases, mine
from clipsent_nb.batches import Execution, collect, name_folder, run_many
from clipsent_nb.cli import main, parse
from clipsent_nb.compare import compare
from clipsent_nb.config import TrainConfig
from clipsent_nb.corruptions import corrupt_pixels, corrupt_text
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decisions import (
    confidence_at,
    conformal_threshold,
    cross_fit_temperature,
    fit_calibration,
    prediction_sets,
    risk_coverage,
)
from clipsent_nb.decoding import open_image
from clipsent_nb.ensemble import ensemble
from clipsent_nb.errors import errors
from clipsent_nb.explain import deletion_curves, explain
from clipsent_nb.export import OnnxClassifier
from clipsent_nb.files import (
    ClipsentError,
    Workspace,
    arguments_of,
    log,
    read_json,
    read_table,
    read_toml,
    show_progress,
    write_count,
    write_json,
)
from clipsent_nb.heads import VariantConfig, heads
from clipsent_nb.members import load_model, load_words
from clipsent_nb.objective import (
    adjust_probabilities,
    apply_temperature,
    class_weights,
    effective_number_weights,
    loss_shares,
    make_loss,
    reliability_table,
    wilson_interval,
)
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.preprocess import read_rule_sets
from clipsent_nb.recipes import read_recipes
from clipsent_nb.report import execute
from clipsent_nb.robustness import CorruptionSettings, Robustness, robustness
from clipsent_nb.runs import Run
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import choose_steps, run_stage, step_inputs
from clipsent_nb.state import load_inputs, sample_config
from clipsent_nb.stats import compare_seeds, cross_fit_epoch, halve_groups, rank_runs, seeds_interval, verdict
from clipsent_nb.steps import Plan, make_calls, read_settings, refuse_lacking
from clipsent_nb.train import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory, fresh_run) -> Run:
    return Run.load(fresh_run(tmp_path_factory.mktemp("field") / "root") / "outputs/optimize/clip")


@pytest.fixture
def root(run) -> Path:
    return run.folder.parents[2]


def table_of(root: Path, name: str) -> pd.DataFrame:
    "A split as a table of somebody who knows no more than four columns."
    return read_split(root / f"outputs/splits/{name}.csv")[["guid", "text_path", "image_path", "label"]]


# -- numbers in words


@pytest.mark.parametrize("number, text", [(0, "0 posts"), (1, "1 post"), (np.int64(1), "1 post"), (2, "2 posts")])
def test_one_is_no_plural(number, text):
    assert write_count(number, "post") == text


def test_no_sentence_of_a_small_project_has_a_plural_of_one(root, tmp_path, caplog, fresh_sample):
    caplog.set_level("INFO", "clipsent_nb")
    config = VariantConfig(project_root=root, model_name=root / "tiny_clip")
    said = [heads(config, variants="ln", seeds=1, execution=Execution(dry_run=True))]
    small = fresh_sample(tmp_path / "small")
    shutil.copy(next((small / "data").glob("*.jpg")), small / "data/stray.jpg")
    said.append(str(make_splits(Workspace(small))))
    said.append(run_stage(None, Workspace(small), only="splits"))
    assert not re.search(r"\b1 (runs|posts|steps|groups|entries|pictures|texts)\b", "\n".join([*said, caplog.text]))


@pytest.mark.parametrize("other, sentence", [("neutral", "the rate is the same"), ("positive", "the rate is 66.7%")])
def test_a_rate_is_not_called_low_beside_one_that_is_the_same(other, sentence):
    posts = pd.DataFrame(
        {"guid": ["a", "b", "c"], "group": ["a", "b", "c"], "source": "oof", "reason": "", "kind": "ok"}
    )
    posts = posts.assign(true_label="neutral", pred_label=["negative", "neutral", "neutral"])
    text = describe_cases(posts.assign(cross_fitted=["negative", "neutral", other]))
    assert sentence in text and "low" not in text.replace("low_conf", "")


# -- a leak under other names


def resaved(source: Path, target: Path) -> None:
    Image.open(source).convert("RGB").save(target.with_suffix(".png"))


def copied(source: Path, target: Path) -> None:
    target.with_suffix(".png").write_bytes(source.read_bytes())


@pytest.mark.parametrize("way", [copied, resaved])
@pytest.mark.parametrize("text", ["another text that says nothing of the first", None])
def test_a_validation_post_in_train_is_found_by_its_picture_whatever_its_name_format_and_text(
    root, tmp_path, way, text
):
    train, val = table_of(root, "train"), table_of(root, "val")
    post, folder = val.iloc[0], root / "data/other"
    folder.mkdir(exist_ok=True)
    way(root / post.image_path, folder / "1")
    (folder / "1.txt").write_bytes(text.encode() if text else (root / post.text_path).read_bytes())
    twin = pd.DataFrame([["new", "data/other/1.txt", "data/other/1.png", post.label]], columns=train.columns)
    pd.concat([train, twin]).to_csv(tmp_path / "train.csv", index=False)
    val.to_csv(tmp_path / "val.csv", index=False)
    config = sample_config(root, train_csv=tmp_path / "train.csv", val_csv=tmp_path / "val.csv")
    assert post.guid in load_inputs(config).leaked


# -- values of another type


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (Execution, {"jobs": "two"}, "--jobs two: must be a whole number"),
        (Execution, {"dry_run": "perhaps"}, "--dry-run perhaps: must be true or false"),
        (Workspace, {"strict": "no way"}, "--strict no way: must be true or false"),
        (Workspace, {"num_workers": 1.5}, "--num-workers 1.5: must be a whole number"),
        (TrainConfig, {"combo_weights": "1,one,1"}, "--combo-weights one: must be a number"),
        (TrainConfig, {"combo_weights": "1,2"}, "--combo-weights 1,2: must be three numbers"),
        (TrainConfig, {"combo_weights": [1, 2, 3, 4]}, "--combo-weights [1, 2, 3, 4]: must be three numbers"),
        (TrainConfig, {"combo_weights": 5}, "--combo-weights 5: must be three numbers"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_flag(kind, values, message):
    with pytest.raises(ClipsentError) as caught:
        kind(**values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"lr": True}, "--lr True: must not be true or false"),
        ({"epochs": np.True_}, "--epochs True: must not be true or false"),
        ({"seed": False}, "--seed False: must not be true or false"),
        ({"output_dir": ""}, "--output-dir: is empty"),
        ({"model_name": " "}, "--model-name: is empty"),
        ({"seed": list(range(999))}, "--seed [0, 1, 2,"),
    ],
)
def test_what_converts_and_is_not_meant_is_refused_in_a_short_line(values, message):
    with pytest.raises(ClipsentError) as caught:
        TrainConfig(**values)
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200


WRONG_ARGUMENTS = [
    (make_splits, {"workspace": "."}, "workspace: must be a dictionary or an instance of Workspace"),
    (make_splits, {"val_ratio": "20%"}, "--val-ratio 20%: must be a number"),
    (make_splits, {"folds": 2.5}, "--folds 2.5: must be a whole number"),
    (fit, {"config": Workspace()}, "config: must be a dictionary or an instance of TrainConfig"),
    (mine, {"source": "OOF"}, "--source OOF: must be 'oof' or 'val'"),
    (merge, {"skip_suspect": "perhaps"}, "--skip-suspect perhaps: must be true or false"),
    (run_stage, {"overwrite": 2}, "--overwrite 2: must be true or false"),
    (errors, {"min_count": "many"}, "--min-count many: must be a whole number"),
    (predict_file, {}, "--weights: is needed"),
    (predict_file, {"weights": "a", "batch_size": 0}, "--batch-size 0: must be greater than or equal to 1"),
    (make_splits, {"seed": 2**64}, f"--seed {2**64}: must be less than 4294967296"),
    (mine, {"min_confidence": 50}, "--min-confidence 50: must be less than or equal to 1"),
    (predict_file, {"weights": None}, "--weights None: must be a path"),
    (Classifier.load, {"run": None}, "--run None: must be a path"),
    (Run.load, {"folder": None}, "--folder None: must be a path"),
    (read_split, {"path": None}, "--path None: must be a path"),
    (OnnxClassifier.load, {"folder": None}, "--folder None: must be a path"),
    (OnnxClassifier.load, {"folder": ".", "threads": "two"}, "--threads two: must be a whole number"),
    (OnnxClassifier.load, {"folder": ".", "threads": -1}, "--threads -1: must be greater than or equal to 0"),
    (OnnxClassifier.load, {"folder": __file__}, f"{__file__}/onnx.json: no such file"),
    (run_stage, {"settings": Path(__file__).parent}, f"--settings {Path(__file__).parent}: is a folder"),
    (make_splits, {"encoding": "a\0b"}, "--encoding 'a\\x00b': has a NUL character"),
    (mine, {"source": "val", "folds": 5, "weights": "a"}, "--folds 5: there are no folds where --weights predicts"),
    (mine, {"source": "val", "csv": "a", "weights": "a"}, "--csv and --source val: both say which posts"),
    (mine, {"folds": 1}, "--folds 1: must be greater than or equal to 2"),
    (heads, {"variants": {"ln", "mlp"}}, "--variants {"),  # which have no order
    (TrainConfig, {"combo_weights": {1, 2, 3}}, "--combo-weights {1, 2, 3}: must be three numbers"),
    (ensemble, {"runs": [None, "a"]}, "--runs [None, 'a']: must be text"),
    (make_splits, {"encoding": "hex"}, "--encoding hex: no such encoding"),
    (risk_coverage, {"y_true": [7], "probs": [[0.5, 0.5]]}, "y_true, row 0: 7 is not a class id"),
    (risk_coverage, {"y_true": ["a"], "probs": [[0.5, 0.5]]}, "y_true, row 0: 'a' is not a class id"),
    (fit_calibration, {"y_true": [], "probs": np.empty((0, 2))}, "y_true: must be a list of one or more class ids"),
    (cross_fit_temperature, {"y_true": [0], "probs": [[0.5, 0.5]] * 2}, "y_true: must be a list of 2 class ids"),
    (cross_fit_temperature, {"y_true": [0], "probs": [[0.5, 0.5]], "folds": 0}, "--folds 0: must be greater than"),
    (cross_fit_temperature, {"y_true": [0], "probs": [[0.5, 0.5]], "folds": "two"}, "--folds two: must be a whole"),
    (cross_fit_temperature, {"y_true": [0], "probs": [[0.5, "a"]]}, "probs: must be numbers in rows of one length"),
    (fit_calibration, {"y_true": [0, 1], "probs": [[0.5, 0.5], [1]]}, "probs: must be numbers in rows of one length"),
    (fit_calibration, {"y_true": [0], "probs": [[0.5, np.nan]]}, "probs, row 0: [0.5, nan] are not probabilities"),
    (risk_coverage, {"y_true": [0], "probs": [0.5]}, "probs: must have shape"),
    (risk_coverage, {"y_true": [0], "probs": [[2.0, 3.0]]}, "probs, row 0: [2.0, 3.0] are not probabilities"),
    (confidence_at, {"confidence": [], "coverage": 0.5}, "confidence: must be a list of one or more numbers"),
    (confidence_at, {"confidence": 0.5, "coverage": 0.5}, "confidence: must be a list of one or more numbers"),
    (confidence_at, {"confidence": [np.nan], "coverage": 0.5}, "confidence: must be a list of one or more numbers"),
    (confidence_at, {"confidence": [0.5], "coverage": 0}, "--coverage 0: must be greater than 0"),
    (confidence_at, {"confidence": [0.5], "coverage": np.nan}, "--coverage nan: must be a finite number"),
    (confidence_at, {"confidence": [0.5], "coverage": "much"}, "--coverage much: must be a number"),
    (conformal_threshold, {"y_true": [0], "probs": [[0.5, 0.5]], "alpha": 1.5}, "--alpha 1.5: must be less than 1"),
    (conformal_threshold, {"y_true": [0], "probs": [0.5], "alpha": 0.1}, "probs: must have shape"),
    (prediction_sets, {"probs": [[0.5, 0.5]], "threshold": np.nan, "labels": ["a", "b"]}, "--threshold nan: must be"),
    (prediction_sets, {"probs": [[0.5, 9]], "threshold": 0.1, "labels": ["a", "b"]}, "probs, row 0: [0.5, 9.0] are"),
    (prediction_sets, {"probs": [[0.5, 0.5]], "threshold": 0.1, "labels": "ab"}, "labels: 2 names for"),
    (reliability_table, {"y_true": [0], "probs": [[0.5, 0.5]], "bins": 0}, "--bins 0: must be greater than"),
    (class_weights, {"counts": ["many", 2]}, "class counts: must be numbers"),
    (class_weights, {"counts": [1, 2], "weighting": "squared"}, "--class-weights squared: unknown"),
    (loss_shares, {"combo_weights": "1,2,3"}, "--combo-weights: must be numbers"),
    (apply_temperature, {"logits": [[1.0, 2.0]], "temperature": 0}, "temperature 0: must be above 0"),
    (apply_temperature, {"logits": [["a", "b"]], "temperature": 1}, "logits: must be numbers"),
    (wilson_interval, {"errors": 1, "total": 4, "level": 95}, "level 95: must be above 0 and below 1"),
    (wilson_interval, {"errors": "one", "total": 4}, "errors and total: must be numbers"),
    (reliability_table, {"y_true": [7], "probs": [[0.5, 0.5]]}, "y_true, row 0: 7 is not a class id"),
    (prediction_sets, {"probs": [[0.5, 0.5]], "threshold": 0.1, "labels": ["a"]}, "labels: 1 names for"),
    (execute, {"source": "run", "folder": "a", "parameters": [1]}, "parameters: are of type list; give a mapping"),
    (run_stage, {"only": {"splits": 1}}, "--only {'splits': 1}: must be text"),
    (explain, {"classifier": "a run", "text": "a", "image": "b"}, "classifier: a str cannot be explained"),
    (adjust_probabilities, {"probs": [[0.5, 0.5]], "shares": [1, 0], "tau": 1}, "shares: must be a number above 0"),
    (adjust_probabilities, {"probs": [[0.5, 0.5]], "shares": [1] * 3, "tau": 1}, "shares: must be a number above 0"),
    (class_weights, {"counts": []}, "class counts: must be a list, a number per class"),
    (effective_number_weights, {"counts": [1, 2], "beta": "x"}, "--cb-beta: must be numbers"),
    (make_loss, {"name": "ce", "class_counts": [1, 2], "smoothing": 2}, "--label-smoothing 2: must be at least 0"),
    (seeds_interval, {"y_true": [0, 1], "answers": [0, 1], "level": "x"}, "--level x: must be a number"),
    (seeds_interval, {"y_true": [0, 1], "answers": [0, 1], "level": 95}, "--level 95: must be less than 1"),
    (compare_seeds, {"y_true": [0, 1], "answers_a": [0, 1], "answers_b": [1, 1], "level": -1}, "--level -1: must be"),
    (verdict, {"comparison": {"p": 0.01, "difference": 1.0}, "level": 95}, "--level 95: must be less than 1"),
    (halve_groups, {"groups": None, "rows": 4, "seed": "x"}, "--seed x: must be a whole number"),
    (halve_groups, {"groups": None, "rows": 4, "halvings": 0}, "--halvings 0: must be"),
    (cross_fit_epoch, {"y_true": [0, 1], "epoch_probabilities": [[0.5, 0.5]]}, "epoch_probabilities: must be [epochs,"),
    (cross_fit_epoch, {"y_true": [0, 1], "epoch_probabilities": "abc"}, "epoch_probabilities: must be numbers"),
    (rank_runs, {"y_true": [0, 1], "answers": {}}, "answers: must be a mapping of at least one run"),
    (rank_runs, {"y_true": [0, 1], "answers": None}, "answers: must be a mapping of at least one run"),
    (rank_runs, {"y_true": [0, 1], "answers": {"a": [0, 1]}, "samples": 0}, "--samples 0: must be"),
    (run_many, {"configs": None, "folder": "a"}, "--configs None: must be"),
    (corrupt_text, {"text": "a", "guid": "1", "name": "keyboard", "severity": -1}, "severity -1 of keyboard: must be"),
    (corrupt_text, {"text": "a", "guid": "1", "name": "keyboard", "severity": 9}, "severity 9 of keyboard: must be"),
    (
        corrupt_text,
        {"text": "a", "guid": "1", "name": "none", "severity": 1},
        "corruption none: unknown; choose one of",
    ),
    (corrupt_pixels, {"pixels": [], "guids": [], "name": "none", "severity": 1}, "corruption none: unknown"),
    (Execution, {"gpus": 2}, "--gpus: needs --engine ray"),
    (mine, {"source": "val", "weights": "a", "execution": Execution(dry_run=True)}, "--dry-run: there are no folds"),
    (run_many, {"configs": ["a"], "folder": "a"}, "configs: must be"),
    (show_progress, {"shown": "perhaps"}, "--shown perhaps: must be"),
]


@pytest.mark.parametrize("function, values, message", WRONG_ARGUMENTS)
def test_a_function_that_python_calls_checks_its_arguments(function, values, message):
    with pytest.raises(ClipsentError) as caught:
        function(**values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("preset", ['["spec"]', "{a = 1}"])
def test_a_preset_of_another_type_is_refused_by_file_and_section(tmp_path, preset):
    (tmp_path / "r.toml").write_text(f"[a]\npreset = {preset}", encoding="utf-8")
    with pytest.raises(ClipsentError, match=r"r.toml, \[a\]: no preset"):
        read_recipes(tmp_path / "r.toml")


def test_progress_is_not_shown_when_a_text_says_so():
    level = log.level
    try:
        show_progress("no")
        assert log.level == logging.WARNING
    finally:
        log.setLevel(level)


DAMAGED = [
    ("metrics.json", Run.load, "{}", "no best_val_f1_macro"),
    ("config.json", Run.load, "{}", "no identity"),
    ("cells.json", collect, "{}", "no cells"),
    ("cells.json", collect, '{"cells": [1]}', "damaged (not a list of runs)"),
    ("cells.json", collect, '{"cells": [{"name": "a"}]}', "damaged (not a list of runs)"),
    ("ensemble.json", load_model, "{}", "no members"),
    ("words.json", load_words, '{"labels": ["a", "b"]}', "no switches, settings, vocabulary"),
    ("onnx.json", OnnxClassifier.load, '{"format": 1}', "no labels, cleaning"),
    ("robustness_metrics.json", Robustness.load, "{}", "no corruptions, posts"),
    ("val_epochs.npy", lambda folder: Run.load(folder).epoch_probabilities, "x", "damaged"),
    ("val_cross_fitted.npy", lambda folder: Run.load(folder).cross_fitted_answers, "", "damaged"),
    ("history.csv", lambda folder: Run.load(folder).history, "a\n1\n", "no column epoch, val_f1_macro"),
]


@pytest.mark.parametrize("name, load, content, message", DAMAGED)
def test_a_file_of_ours_without_what_it_should_hold_is_named(run, tmp_path, name, load, content, message):
    for known in ("config.json", "metrics.json"):
        values = json.loads((run.folder / known).read_text(encoding="utf-8"))
        values.pop("files")  # as of an older version
        (tmp_path / known).write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / name).write_text(content)
    with pytest.raises(ClipsentError) as caught:
        load(tmp_path)
    assert f"{name}: {message}" in str(caught.value)


@pytest.mark.parametrize("name", ["outputs/splits/val.csv", "outputs/splits/train.csv", "train.txt"])
def test_no_command_writes_over_the_splits(run, root, name):
    before, weights = (root / name).read_bytes(), run.folder / "best.pt"
    bad = root / "outputs/optimize/bad_cases.csv"
    mine(replace(sample_config(root), output_dir="x"), source="val", weights=weights, report=False, output_csv=bad)
    own = Workspace(root)
    for call in (
        lambda: mine(sample_config(root), source="val", weights=weights, report=False, output_csv=name),
        lambda: predict_file(run.folder, own, name),
        lambda: augment_text(output_csv=name, workspace=own),
        lambda: merge(output_csv=name, workspace=own),
        lambda: compare(sample_config(root), references=False, report=False, output_csv=name),
    ):
        with pytest.raises(ClipsentError, match="--output"):
            call()
    with pytest.raises(ClipsentError, match="would replace an input file"):
        augment_text(output_csv=bad, workspace=own)
    with pytest.raises(ClipsentError, match="not the name of a table"):
        mine(sample_config(root), source="val", weights=weights, output_csv="bad_cases")
    with pytest.raises(ClipsentError, match="--output-dir .*: is the folder of a model"):
        robustness(weights, run.folder, workspace=own)
    assert (root / name).read_bytes() == before


def test_a_bad_case_that_is_there_twice_is_named(run, root, tmp_path):
    own, bad = Workspace(root), tmp_path / "bad.csv"
    weights = run.folder / "best.pt"
    mine(sample_config(root), source="val", weights=weights, report=False, output_csv=bad)
    table = read_table(bad)
    pd.concat([table, table.head(1)]).to_csv(bad, index=False)
    for call in (augment_images, augment_text, merge):
        with pytest.raises(ClipsentError, match=f"bad.csv: guid {table.guid[0]} is there twice"):
            call(badcase_csv=bad, workspace=own)


def test_pictures_are_not_written_over_the_list_that_names_them_nor_among_the_posts(run, root, tmp_path):
    own, bad = Workspace(root), tmp_path / IMAGE_COPIES.name
    mine(sample_config(root), source="val", weights=run.folder, report=False, output_csv=bad)
    before = bad.read_bytes()
    taken = "would replace an input file, or lie among them", "is the folder of the posts"
    for folder, what in zip((tmp_path, root / "data"), taken, strict=True):
        with pytest.raises(ClipsentError, match=f"--output-dir .*: {what}"):
            augment_images(bad, folder, workspace=own)
    assert bad.read_bytes() == before and not list((root / "data").glob("*_ia*"))


def test_unreadable_copies_are_counted_by_the_posts_that_they_are_of(run, root, tmp_path):
    own, bad = Workspace(root, max_bad="20%"), tmp_path / "bad.csv"
    mine(sample_config(root), source="val", weights=run.folder, report=False, output_csv=bad)
    four = read_table(bad).head(4)
    four.to_csv(bad, index=False)
    copies = augment_images(bad, root / "outputs/altered", num_aug=2, workspace=own)
    texts = augment_text(bad, root / "outputs/altered/texts.csv", workspace=own)
    for path in read_table(copies).query(f"guid == '{four.guid[0]}'").image_path:
        (root / path).unlink()
    with pytest.raises(ClipsentError, match="1 of 4 posts cannot be used"):
        merge(
            badcase_csv=bad,
            badcase_image_csv=copies,
            badcase_text_csv=texts,
            output_csv=tmp_path / "new.csv",
            skip_suspect=False,
            workspace=own,
        )
    shutil.rmtree(root / "outputs/altered")


def test_runs_that_answered_other_texts_of_the_same_posts_are_not_compared(run, root):
    folder = Path(shutil.copytree(run.folder, root / "outputs/optimize/elsewhere"))
    try:
        config = read_json(folder / "config.json")
        config["identity"]["content of val_csv"] = "other"
        write_json(folder / "config.json", config)
        base = replace(sample_config(root), output_dir="outputs/optimize/clip")
        message = "elsewhere: answered other labels, texts or pictures than clip"
        with pytest.raises(ClipsentError, match=message):
            compare(base, folder, references=False, report=False)
        found = compare(base, references=False, report=False)
        assert any("elsewhere: answered other labels" in str(one) for one in found.left_out)
        with pytest.raises(ClipsentError, match=message):
            ensemble([run.folder, folder], workspace=Workspace(root))
        with pytest.raises(ClipsentError, match="elsewhere: answered other labels"):  # before a baseline is trained
            compare(replace(base, output_dir="outputs/optimize/untrained"), folder, references=False, report=False)
        assert not (root / "outputs/optimize/untrained").exists()
        write_json(folder / "config.json", config | {"kind": "ensemble"})
        with pytest.raises(ClipsentError, match="--output-dir .*: an ensemble, which is no baseline"):
            compare(replace(base, output_dir=folder), references=False, report=False)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[mine]\ndry_run = true", r"\[mine\] dry_run leaves no files"),
        ("[batch]\ndry_run = true", r"\[batch\] dry_run leaves no files"),
        ('[predict]\ntext = "a"', r"\[predict\] text leaves no files"),
        ("[grid]\naxes = [1, 2]", r"\[grid\] --axes"),
        ("[grid]\ntrials = 5", r"\[grid\] --trials 5 needs --search optuna"),
    ],
)
def test_settings_that_make_nothing_or_are_no_text_are_refused(root, tmp_path, text, what):
    (tmp_path / "s.toml").write_text(f'[train]\nmodel_name = "tiny_clip"\n{text}')
    with pytest.raises(ClipsentError, match=what):
        settings = read_settings(tmp_path / "s.toml")
        for name in ("mine", "grid", "predict"):
            make_calls(Plan(name, settings, Workspace(root), "s.toml"))


def test_seeds_that_are_the_same_number_are_one(tmp_path):
    (tmp_path / "s.toml").write_text('[baseline]\nseeds = [42, "042", 7]')
    assert Plan("baseline", read_settings(tmp_path / "s.toml")).seeds == ["42", "7"]


def test_a_changed_division_or_picture_of_a_table_is_noticed_by_the_stage(root, tmp_path):
    shutil.copytree(root / "data", tmp_path / "pics", ignore=shutil.ignore_patterns("*.txt"))
    names = sorted(path.name for path in (tmp_path / "pics").iterdir())[:6]
    rows = pd.DataFrame({"id": range(6), "text": "a", "image": [f"pics/{name}" for name in names], "label": "neutral"})
    rows.to_csv(tmp_path / "posts.csv", index=False)
    (tmp_path / "div").mkdir()
    (tmp_path / "div/train.txt").write_text("1\n2\n")
    (tmp_path / "s.toml").write_text('[splits]\ntable = "posts.csv"\ndivision = "div"')
    plan = Plan("splits", read_settings(tmp_path / "s.toml"), Workspace(tmp_path))
    states = [step_inputs(plan)]
    (tmp_path / "div/train.txt").write_text("1\n3\n")
    states.append(step_inputs(plan))
    (tmp_path / "pics" / names[0]).write_bytes((tmp_path / "pics" / names[1]).read_bytes())
    states.append(step_inputs(plan))
    assert states[0] != states[1] != states[2] and states[2] == step_inputs(plan)


def test_an_empty_path_is_said_to_be_empty(root, tmp_path):
    table = table_of(root, "val").head(4)
    table.loc[1, "text_path"] = ""
    table.to_csv(tmp_path / "v.csv", index=False)
    with pytest.raises(ClipsentError, match=f"guid {table.guid[1]}: has no text_path or no image_path"):
        load_inputs(sample_config(root, val_csv=str(tmp_path / "v.csv")))


def test_a_single_path_is_a_list_of_one(tmp_path):
    with pytest.raises(ClipsentError, match="a: holds no finished run"):
        ensemble(Path("a"), workspace=Workspace(tmp_path))


def test_runs_stand_for_their_folders_and_a_mapping_for_new_names(run, tmp_path):
    with pytest.raises(ClipsentError, match="holds no finished run"):
        ensemble([replace(run, folder=tmp_path), run], workspace=Workspace(run.folder.parents[2]))
    values = arguments_of(make_splits)(rename={"good": "positive", 1: "negative"})
    assert values.rename == "good=positive,1=negative"


def test_what_is_no_number_in_a_file_is_named_as_it_stands_there(tmp_path):
    (tmp_path / "s.toml").write_text("[train]\nlr = nan")
    with pytest.raises(ClipsentError, match="--lr nan must be a finite number"):
        run_stage(tmp_path / "s.toml", Workspace(tmp_path), only="baseline")


def test_a_text_that_says_no_is_no_where_true_would_destroy(tmp_path):
    assert vars(arguments_of(run_stage)(overwrite="false"))["overwrite"] is False
    assert vars(arguments_of(merge)(skip_suspect="no"))["skip_suspect"] is False
    assert make_splits(Workspace(make_sample(tmp_path)), val_ratio="0.2", folds="3").folder.is_dir()


@pytest.mark.parametrize("seeds", ["1,2", [1, 2], (1, 2), range(1, 3), np.array([1, 2]), pd.Series([1, 2])])
def test_a_list_is_a_list_however_it_is_written(root, seeds):
    config = VariantConfig(project_root=root, model_name=root / "tiny_clip")
    assert heads(config, variants=["ln"], seeds=seeds, execution=Execution(dry_run=True)).splitlines()[-1][0] == "2"


def test_texts_that_mean_a_value_are_that_value():
    assert Execution(jobs="2", dry_run="false") == Execution(jobs=2)
    assert Workspace(strict="true", num_workers="3") == Workspace(strict=True, num_workers=3)


# -- a console that lacks the letters


@pytest.mark.parametrize("encoding, name", [("ascii", "مشروع"), ("cp437", "проект 😍")])
def test_no_name_ends_a_command_in_a_console_that_lacks_its_letters(tmp_path, encoding, name):
    command = [sys.executable, "-m", "clipsent_nb.cli", "splits", "--project-root", make_sample(tmp_path / name)]
    own = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"written to" in done.stdout, done.stderr


# -- what was typed


@pytest.mark.parametrize(
    "words, message",
    [
        ("optimize --lr 1e-5 --epochs 2 --lr 2e-5", "--lr: is given twice, as 1e-5 and 2e-5"),
        ("predict --weights a --weights b", "--weights: is given twice, as a and b"),
        ("run --strict --no-strict", "--strict: is given twice, as true and false"),
    ],
)
def test_a_flag_that_is_given_twice_with_two_values_is_refused(words, message):
    with pytest.raises(ClipsentError, match=message):
        parse(words.split()[0], words.split()[1:])


@pytest.mark.parametrize(
    "words, message",
    [
        ("grid --lr 2e-5 --lrs 1e-5", "--lr and --lrs: say the same"),
        ("grid --seed 1 --axes seed=2,3", "--seed and --axes seed=2,3: say the same"),
        ("heads --seed 1 --seeds 2,3", "--seed and --seeds: say the same"),
        ("heads --head-variant mlp", "--head-variant: is what `heads` compares"),
        ("preprocess --no-replace-urls", "--replace-urls: is what `preprocess` compares"),
        ("run --skip ,", "--skip: is empty"),
        ("compare --runs ,", "--runs: is empty"),
    ],
)
def test_nothing_that_was_typed_is_ignored(words, message):
    with pytest.raises(ClipsentError, match=message):
        parse(words.split()[0], words.split()[1:])


def test_a_table_of_settings_cannot_say_two_things_and_the_shared_one_may_differ(tmp_path):
    plan = Plan("grid", {"train": {"lr": 1e-5}, "batch": {}, "grid": {"lrs": [1e-5, 2e-5]}}, Workspace(tmp_path))
    assert plan.calls[0]["lrs"] == "1e-05,2e-05"
    with pytest.raises(ClipsentError, match=r"\[grid\] --lr and --lrs say the same"):
        _ = Plan("grid", {"train": {}, "batch": {}, "grid": {"lr": 1e-5, "lrs": "1e-5"}}).calls


@pytest.mark.parametrize("seeds, count", [(7, 1), ("7, 8", 2), ([7, 7, 8], 2)])
def test_the_seeds_of_a_step_are_a_list_however_they_are_written(tmp_path, seeds, count):
    calls = Plan("baseline", {"train": {}, "baseline": {"seeds": seeds}}, Workspace(tmp_path)).calls
    assert len(calls) == count and calls[0]["config"].seed == 7


@pytest.mark.parametrize("seeds", [[], [-1], [1.5], "many", True])
def test_seeds_of_a_step_that_are_none_are_refused_by_table_and_name(tmp_path, seeds):
    with pytest.raises(ClipsentError, match=r"^s.toml: \[baseline\] seeds = .* is no list of seeds; write seeds"):
        _ = Plan("baseline", {"train": {}, "baseline": {"seeds": seeds}}, Workspace(tmp_path), "s.toml").calls


def test_a_command_line_from_a_program_may_hold_paths_and_numbers(tmp_path, capsys):
    assert main(["splits", "--project-root", tmp_path, "--folds", 2]) == 2
    assert f"{tmp_path}/data: no such folder" in capsys.readouterr().err


def test_steps_that_leave_nothing_to_do_are_refused():
    with pytest.raises(ClipsentError, match="--only, --from and --skip: leave no step to do"):
        choose_steps(only="splits", skip="splits")


@pytest.mark.parametrize(
    "weights", ["1,2,3", "1, 2, 3", "[1, 2.0, 3]", "1 2 3", (1, 2, 3), ["1,2", 3], np.array([1, 2, 3])]
)
def test_three_weights_are_read_however_they_are_written(weights):
    assert TrainConfig(combo_weights=weights).combo_weights == (1, 2, 3)


def test_weights_with_commas_are_read_on_the_command_line_and_from_a_stage(tmp_path):
    for words in ("--combo-weights 1,2,3", "--combo-weights=1,2,3", "--combo-weights 1 2 3"):
        assert parse("optimize", f"--loss combo {words}".split()).keywords["config"].combo_weights == (1, 2, 3)
    calls = Plan(
        "baseline", {"train": {}, "baseline": {"combo_weights": "1,2,3", "loss": "combo"}}, Workspace(tmp_path)
    ).calls
    assert calls[0]["config"].combo_weights == (1, 2, 3)


@pytest.mark.parametrize(
    "table, message",
    [
        ('[heads]\nseeds = "many"', r"\[heads\] --seeds many not seeds"),
        ('[heads]\nvariants = ["ln", "lm"]', r"\[heads\] --variants ln,lm unknown"),
        ("[preprocess]\nseeds = [-1]", r"\[preprocess\] --seeds -1 not seeds"),
        ('[preprocess]\nrules = "none,mine"', r"\[preprocess\] --rules none,mine no set mine"),
        ('[preprocess]\nrules_file = "rules.toml"', r"\[preprocess\] --rules-file .*rules.toml no such file"),
        ('[grid]\nlrs = "fast"', r"\[grid\] --lrs 'fast' must be a number"),
        ('[grid]\nlrs = "1e-6:1e-4"', r"\[grid\] axis lr a range needs --search optuna"),
        ("[mine]\nfolds = 1", r"\[mine\] --folds 1 must be greater than or equal to 2"),
        ('[grid]\nsearch = "Optuna"', r"\[grid\] --search Optuna must be 'optuna'"),
        ('[grid]\naxes = ["head=ln"]', r"\[grid\] --axes head not a setting that can be varied"),
    ],
)
def test_a_list_of_a_later_step_is_checked_before_the_first(tmp_path, table, message):
    (tmp_path / "s.toml").write_text(table)
    with pytest.raises(ClipsentError, match=f"s.toml: {message}"):
        run_stage(tmp_path / "s.toml", Workspace(tmp_path))
    assert not (tmp_path / "outputs").exists()


def test_values_of_a_list_add_up():
    found = parse("optimize", "--loss combo --combo-weights 1 2 --combo-weights 3 --strict --strict".split()).keywords[
        "config"
    ]
    assert found.combo_weights == (1, 2, 3) and found.strict


@pytest.mark.parametrize("command", ["heads", "preprocess"])
def test_a_seed_that_was_typed_is_the_only_one_even_if_it_is_the_default(root, command):
    words = [command, "--project-root", str(root), "--model-name", "tiny_clip", "--dry-run"]
    one, three = (parse(words[0], [*words[1:], *more])().splitlines()[-1] for more in (["--seed", "42"], []))
    variants = {"heads": 4, "preprocess": 3}[command]
    assert one.startswith(f"{variants} runs") and three.startswith(f"{3 * variants} runs")


# -- odd posts for a classifier


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros(5), "picture 0: broken picture (an array of 5 instead of"),
        (np.zeros((3, 8, 9), np.uint8), "picture 0: broken picture (an array of 3 x 8 x 9 instead of height x width"),
        (np.zeros((8, 9, 3)), "picture 0: broken picture (colours of type float64 instead of uint8"),
        (np.zeros((8, 9), np.int64), "picture 0: broken picture (levels of type int64 instead of uint8, uint16, int32"),
        (np.full((8, 9), np.nan), "picture 0: broken picture (holds pixels that are no numbers"),
        (np.zeros((0, 0, 3), np.uint8), "picture 0: broken picture (has no pixels"),
        (Image.new("RGB", (0, 3)), "picture 0: broken picture (has no pixels"),
        (None, "picture 0: is missing; the model was trained on posts with both halves"),
        ("http://example.org/a.jpg", "picture 0 (http://example.org/a.jpg): no such picture"),
        (b"x" * 10**6, "picture 0: broken"),
        ({"path": "a.jpg"}, "picture 0: no picture but of type dict; give a path"),
    ],
)
def test_a_picture_that_is_none_is_named_in_a_short_line(run, picture, message):
    with pytest.raises(ClipsentError) as caught:
        Classifier.load(run.folder).predict(["x"], [picture])
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 300


@pytest.mark.parametrize("texts", [{"a": "x"}, {"x"}, pd.DataFrame({"text": ["x"]})], ids=["dict", "set", "table"])
def test_what_python_would_take_apart_in_an_order_of_its_own_is_no_list(run, texts):
    with pytest.raises(ClipsentError, match="texts: are one .*; give lists"):
        Classifier.load(run.folder).predict(texts, [np.zeros((8, 8, 3), np.uint8)])


def test_an_explanation_takes_the_posts_that_a_classifier_takes(run, root):
    classifier, picture = Classifier.load(run.folder), next((root / "data").glob("*.jpg"))
    with pytest.raises(ClipsentError, match="explain: needs a text and a picture"):
        explain(classifier, None, picture)
    with pytest.raises(ClipsentError, match="post 1: has no picture"):
        deletion_curves(classifier, ["a", "b"], [picture])
    with pytest.raises(ClipsentError, match="texts: are one str"):
        deletion_curves(classifier, "a text", [picture])
    assert deletion_curves(classifier, [], []).empty


def test_bytes_of_any_kind_are_a_picture(run, root):
    raw = next((root / "data").glob("*.jpg")).read_bytes()
    found = Classifier.load(run.folder).predict(["x"] * 3, [raw, bytearray(raw), memoryview(raw)])
    assert np.ptp(found.confidence) < 1e-6


def test_a_picture_of_numbers_from_0_to_1_is_not_black(tmp_path):
    levels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    for source in (tmp_path / "a.tif", levels):
        assert np.asarray(open_image(source)).max() == 255


@pytest.mark.parametrize("name", ["train.txt", "data/posts.csv"])
def test_a_file_that_is_no_weights_file_is_said_to_be_none(root, name):
    (root / "data/posts.csv").write_text("epoch,train_loss\n1,0.5\n")
    with pytest.raises(ClipsentError, match=f"--weights .*{name}: "):
        Classifier.load(root / name)


# -- files saved by a Windows program


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_file_of_rules_that_a_windows_program_saved_is_read(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "rules.toml").write_text(mark + "[mine]\nreplace_urls = true\n", encoding=encoding)
    assert read_rule_sets(tmp_path / "rules.toml")["mine"]["replace_urls"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_json_file_that_a_windows_program_saved_is_read(tmp_path, encoding):
    (tmp_path / "config.json").write_text('{"lr": 1}', encoding=encoding)
    assert read_json(tmp_path / "config.json") == {"lr": 1}
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ClipsentError, match="config.json: damaged .a list instead of an object"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("read", [read_table, lambda path: read_toml(path, "--settings")])
def test_a_table_in_the_encoding_of_a_chinese_windows_is_said_to_be_no_utf_8(tmp_path, read):
    (tmp_path / "a").write_bytes("[表]\nguid = 1\n".encode("gbk"))
    with pytest.raises(ClipsentError, match="/a: .*codec can't decode.*; save it as UTF-8"):
        read(tmp_path / "a")


# -- a validation file that lacks classes


def test_classes_that_no_post_validates_are_said_wherever_the_score_is(root, tmp_path):
    val = table_of(root, "val")
    val[val.label == "positive"].to_csv(tmp_path / "val.csv", index=False)
    config = sample_config(root, val_csv=tmp_path / "val.csv", epochs=1, output_dir="outputs/optimize/lacking")
    found = fit(config)
    assert "no post validates negative, neutral; macro-F1 is that of the other classes alone" in str(found)
    assert "F1 negative no posts, neutral no posts, positive 0." in str(found) and "nan" not in str(found)
    values = {"project_root": str(root), "train_csv": str(config.train_csv), "val_csv": str(config.val_csv)}
    values |= {"epochs": 1, "output_dir": str(config.output_dir)}
    page = execute("run", tmp_path / "report", values).read_text(encoding="utf-8")
    assert "No post validates negative, neutral" in page and "F1 nan" not in page


def test_every_json_file_of_a_run_is_strict_json_whatever_is_missing_or_infinite(root, tmp_path):
    val = table_of(root, "val")
    val[val.label == "positive"].to_csv(tmp_path / "val.csv", index=False)
    settings = {"epochs": 1, "max_grad_norm": float("inf"), "output_dir": "outputs/optimize/strict"}
    config = sample_config(root, val_csv=tmp_path / "val.csv", **settings)
    run = fit(config)
    for name in ("metrics.json", "config.json"):
        values = json.loads((run.folder / name).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert run.metrics["best_val_f1_neutral"] is None
    assert values["max_grad_norm"] == "Infinity" and fit(config).found


@pytest.mark.parametrize("absent", ["neutral", "negative"])
def test_a_measurement_of_damage_and_a_comparison_say_which_classes_they_lack(root, run, tmp_path, absent, caplog):
    val = table_of(root, "val")
    val[val.label != absent].to_csv(tmp_path / "val.csv", index=False)
    config = sample_config(root, val_csv=tmp_path / "val.csv", epochs=1, output_dir=f"outputs/optimize/no_{absent}")
    fit(config)
    known = f"warning: no post validates {absent}; macro-F1 is that of the other classes alone"
    workspace, mild = Workspace(root), CorruptionSettings("brightness", 5)
    robustness(config.output_dir, tmp_path / "damage", config.val_csv, settings=mild, workspace=workspace, report=False)
    assert known in caplog.text
    caplog.clear()
    compare(config, str(config.output_dir), tmp_path / "table.csv", references=False, report=False)
    assert known in caplog.text


# -- relative paths mean the same everywhere


def test_relative_paths_of_every_command_begin_at_the_project_root(root, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = run.folder.relative_to(root)
    shared = {"workspace": Workspace(root), "report": False}
    assert errors(folder, output_dir=Path("outputs/apart"), min_count=5, **shared).posts.guid.is_unique
    assert (root / "outputs/apart").is_dir()
    config = sample_config(root)
    assert mine(config, csv=Path("outputs/splits/val.csv"), weights=folder, output_csv="outputs/b.csv", report=False)
    assert (root / "outputs/b.csv").is_file() and not list(tmp_path.iterdir())


# -- the variables of a cluster


def test_a_command_of_one_process_takes_no_notice_of_a_cluster(root, run, tmp_path):
    variables = {"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "4", "LOCAL_RANK": "3"}
    folder = run.folder.relative_to(root)
    words = ["predict", "--weights", folder, "--project-root", root, "--output", tmp_path / "labelled.txt"]
    command = [sys.executable, "-m", "clipsent_nb.cli", *map(str, words)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "labelled.txt"), done.stderr


# -- folders named after long values


@pytest.mark.parametrize("value", ["模型" * 90, "a/" * 200 + "b", "C:\\models\\clip", "con:*?<>|", "é" * 300])
def test_a_folder_is_named_after_any_value(tmp_path, value):
    names = {name_folder({"model_name": text}, mark) for text, mark in ((value, "0a"), (value + "x", "0b"))}
    assert len(names) == 2
    for name in names:
        (tmp_path / name).mkdir()
        assert len(name.encode()) < 230 and len(name) < 90 and not set(name) & set('\\/:*?"<>|')


# -- what a later step lacks


@pytest.mark.parametrize(
    "step, table, missing",
    [("grid", 'search = "optuna"', "optuna"), ("heads", 'engine = "ray"', "ray")],
)
def test_an_extra_that_a_later_step_needs_is_missed_before_the_first(tmp_path, monkeypatch, step, table, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "s.toml").write_text(f"[{step}]\n{table}\n")
    settings = read_settings(tmp_path / "s.toml")
    with pytest.raises(ClipsentError, match=f"step {step}: needs {missing}, which is not installed"):
        for name in choose_steps(only=f"splits,{step}"):
            refuse_lacking(Plan(name, settings, Workspace(tmp_path)))
    assert main(["run", "--settings", str(tmp_path / "s.toml"), "--project-root", str(tmp_path)]) == 2
    assert not (tmp_path / "outputs/splits").exists()


# -- lists and texts that everybody shares


def test_a_picture_that_all_posts_share_is_named_where_no_split_is_left(tmp_path):
    make_sample(tmp_path)
    pictures = sorted(tmp_path.glob("data/*.jpg"))
    for path in pictures:
        path.write_bytes(pictures[0].read_bytes())
    for path in [*tmp_path.glob("data/*.png"), *tmp_path.glob("data/*.jpeg")]:
        path.unlink()
    lines = (tmp_path / "train.txt").read_text().splitlines()
    names = {path.stem for path in pictures}
    (tmp_path / "train.txt").write_text("\n".join(line for line in lines if line.split(",")[0] in {"guid", *names}))
    (tmp_path / "test_without_label.txt").unlink()
    with pytest.raises(ClipsentError, match="are copies of guid .*, and stay together"):
        make_splits(Workspace(tmp_path))


def test_a_run_continues_only_with_the_posts_that_it_began_with(root, tmp_path):
    config = sample_config(root, epochs=3, output_dir="outputs/optimize/stopped", save_minutes=0.0)

    def stop(state) -> None:
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, on_step=stop)
    text = root / table_of(root, "train").text_path[0]
    before = text.read_bytes()
    try:
        text.write_text("wholly other words that nobody has read")
        with pytest.raises(ClipsentError, match="other settings .*content of train_csv"):
            fit(config)
        assert fit(replace(config, overwrite=True, epochs=1)).metrics["epochs"] == 1
    finally:
        text.write_bytes(before)


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_what_cannot_be_seen_of_a_picture_is_white_however_pillow_holds_it(mode):
    seen = Image.new("RGBA", (2, 2), (90, 90, 90, 128))
    seen.putpixel((1, 1), (0, 0, 0, 0))
    held = seen.convert("LA").convert("La") if mode == "La" else seen.convert(mode)
    assert abs(open_image(held).getpixel((0, 0))[0] - 172) < 3 and open_image(held).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_sixteen_bits_are_scaled_however_pillow_holds_them(mode):
    assert open_image(Image.new(mode, (2, 2), 32768)).getpixel((0, 0)) == (127, 127, 127)
