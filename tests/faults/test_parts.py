"""What belongs together stays together: the files of a run, a flag and what it depends on, splits and later steps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runfolders import put_predictions

from clipsent_nb import steps
from clipsent_nb.cli import main
from clipsent_nb.compare import compare
from clipsent_nb.config import EFFECTS, TrainConfig, refuse_idle
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.ensemble import ensemble
from clipsent_nb.errors import errors
from clipsent_nb.files import ClipsentError, Workspace, read_json, write_csv, write_json
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.push import push
from clipsent_nb.runs import Run, digest_texts
from clipsent_nb.stage import run_stage
from clipsent_nb.state import sample_config
from clipsent_nb.train import sample_run
from clipsent_nb.trained import open_device

torch.set_num_threads(1)
RUN = Path("outputs/optimize/clip")
OTHER = Path("outputs/optimize/other")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run) -> Path:
    root = fresh_run(tmp_path_factory.mktemp("parts") / "sample")
    sample_run(root, output_dir=OTHER, epochs=1, seed=7)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A project of its own with two short runs."
    return Path(shutil.copytree(trained, tmp_path / "sample"))


def steps_that_read_predictions(root: Path) -> list:
    own = Workspace(root)
    return [
        lambda: Run.load(root / RUN).predictions,
        lambda: errors(RUN, workspace=own, report=False),
        lambda: ensemble(f"{RUN},{OTHER}", workspace=own, words=False),
        lambda: compare(config=sample_config(root, output_dir=RUN), references=False, report=False),
        lambda: predict_file(RUN, own, coverage=0.9),
        lambda: Classifier.load(root / RUN).confidence_at(0.9),
        lambda: push(RUN, "me/model", workspace=own),
    ]


def take_from_the_other(root: Path) -> None:
    shutil.copy(root / OTHER / "val_predictions.csv", root / RUN / "val_predictions.csv")


def edit_scores(root: Path) -> None:
    write_json(root / RUN / "metrics.json", read_json(root / RUN / "metrics.json") | {"best_val_f1_macro": 0.99})


def lose_a_row(root: Path) -> None:
    table = pd.read_csv(root / RUN / "val_predictions.csv", dtype=str)
    table.iloc[1:].to_csv(root / RUN / "val_predictions.csv", index=False)


@pytest.mark.parametrize("alter", [take_from_the_other, edit_scores, lose_a_row])
def test_predictions_that_are_not_those_that_were_scored_are_refused(root, alter):
    alter(root)
    for call in steps_that_read_predictions(root):
        with pytest.raises(
            ClipsentError, match="val_predictions.csv: holds .* where the metrics.json beside it has .*; take the whole"
        ):
            call()


def test_answers_that_were_written_over_are_refused(root):
    path = root / RUN / "val_predictions.csv"
    table = pd.read_csv(path, dtype={"guid": str})
    table.assign(pred_label=np.roll(table.pred_label, 1)).to_csv(path, index=False)
    with pytest.raises(ClipsentError, match="pred_label is not the likeliest class for guid"):
        errors(RUN, workspace=Workspace(root), report=False)
    table.assign(true_label="angry").to_csv(path, index=False)
    with pytest.raises(ClipsentError, match="true_label angry is not a class of the run"):
        errors(RUN, workspace=Workspace(root), report=False)


def test_predictions_in_another_order_or_saved_by_a_spreadsheet_are_the_same(root):
    table = pd.read_csv(root / RUN / "val_predictions.csv", dtype=str)
    table[::-1].to_csv(root / RUN / "val_predictions.csv", index=False, lineterminator="\r\n", encoding="utf-8-sig")
    assert Run.load(root / RUN).predictions.guid.tolist() == table.guid[::-1].tolist()
    put_predictions(root / RUN, table.iloc[5:])
    assert len(Run.load(root / RUN).predictions) == len(table) - 5


def test_pictures_are_not_read_otherwise_than_in_training(root):
    file = root / RUN / "encoder/preprocessor_config.json"
    before = file.read_text()
    write_json(file, json.loads(before) | {"image_mean": [0.1, 0.1, 0.1]})
    for call in (lambda: Classifier.load(root / RUN), lambda: predict_file(RUN, Workspace(root))):
        with pytest.raises(ClipsentError, match="preprocessor_config.json: not the one that the run was trained with"):
            call()
    file.unlink()
    with pytest.raises(ClipsentError, match="preprocessor_config.json: missing; copy the whole folder"):
        Classifier.load(root / RUN)
    file.write_text(before, newline="\r\n")
    (root / RUN / "encoder/desktop.ini").write_text("[.ShellClassInfo]")
    assert Classifier.load(root / RUN).folder == root / RUN


def test_a_run_that_recorded_no_encoder_files_loads(root):
    config = read_json(root / RUN / "config.json")
    assert config.pop("encoder_files") == digest_texts(root / RUN / "encoder")
    write_json(root / RUN / "config.json", config)
    assert Classifier.load(root / RUN).labels == ("negative", "neutral", "positive")


def test_weights_of_the_same_settings_and_other_posts_are_another_run(root):
    train = read_split(root / "outputs/splits/train.csv")
    write_csv(train.iloc[4:], root / "fewer.csv")
    sample_run(root, output_dir=Path("outputs/optimize/fewer"), train_csv=Path("fewer.csv"), epochs=1)
    shutil.copy(root / "outputs/optimize/fewer/best.pt", root / RUN / "best.pt")
    with pytest.raises(ClipsentError, match="best.pt: of another run than the config.json beside it"):
        Classifier.load(root / RUN)


IDLE = {
    "--lora-rank 16": "no tower is trained with lora",
    "--text-tower lora --ablate-text": "no texts are read",
    "--trainable-blocks 1 --text-tower all --image-tower frozen": "each tower has its own flag",
    "--preset balanced --trainable-blocks 1": "each tower has its own flag",
    "--layer-decay 0.5 --freeze-epochs 12": "nothing but the head is trained",
    "--layer-decay 0.5 --trainable-blocks 0": "nothing but the head is trained",
    "--lr 1e-3 --head-lr 1e-3 --trainable-blocks 0": "nothing is trained but the head",
    "--focal-gamma 3": "--loss is neither focal nor combo",
    "--cb-beta 0.9 --loss focal": "--loss is neither cb nor combo",
    "--combo-weights 1,2,1": "--loss is not combo",
    "--class-weights none --loss cb": "--loss cb has its own weights",
    "--image-pooling mean --ablate-image": "no pictures are read",
    "--remove-stopwords --ablate-text": "no texts are read",
    "--explain-errors 3 --no-report": "it is drawn in the report",
}


@pytest.mark.parametrize("flags", IDLE)
def test_a_flag_that_does_nothing_is_refused(root, flags, capsys):
    place = ["--project-root", str(root), "--model-name", "tiny_clip", "--output-dir", "outputs/optimize/new"]
    assert main(["optimize", *flags.split(), *place]) == 2
    assert f"does nothing, since {IDLE[flags]}" in capsys.readouterr().err
    assert not (root / "outputs/optimize/new").exists()


USED = [
    {"lora_rank": 16, "image_tower": "lora"},
    {"trainable_blocks": 1, "image_tower": "frozen"},
    {"layer_decay": 0.5},
    {"lr": 1e-3, "trainable_blocks": 0},
    {"focal_gamma": 3, "loss": "combo"},
    {"cb_beta": 0.9, "loss": "cb"},
    {"class_weights": "none", "loss": "focal"},
    {"image_tower": "frozen", "ablate_image": True},
    {"remove_stopwords": True, "ablate_image": True},
    {"focal_gamma": 2.0, "loss": "ce"},  # as it is anyway, as scripts spell it out
]


@pytest.mark.parametrize("settings", USED)
def test_a_flag_that_does_something_is_taken(settings):
    refuse_idle(TrainConfig(**settings), settings)


def test_settings_with_effects_are_fields():
    assert set(EFFECTS) <= set(TrainConfig.__dataclass_fields__)


def test_the_stage_refuses_what_does_nothing_in_a_table_of_one_step_and_takes_it_where_several_share_it(root, tmp_path):
    (tmp_path / "s.toml").write_text("[retrain]\ncombo_weights = [1, 2, 1]\n")
    with pytest.raises(ClipsentError, match=r"\[retrain\] --combo-weights .* does nothing, since --loss is not combo"):
        run_stage(tmp_path / "s.toml", Workspace(root))
    (tmp_path / "s.toml").write_text('[train]\ncombo_weights = [1, 2, 1]\n[retrain]\nloss = "combo"\n')
    settings = steps.read_settings(tmp_path / "s.toml")
    for name in ("baseline", "retrain"):
        [call] = steps.Plan(name, settings, Workspace(root)).calls
        assert call["config"].combo_weights == (1, 2, 1)


def test_a_bag_of_words_is_not_added_to_a_soup(root, capsys):
    assert main(["ensemble", "--method", "soup", "--words", "--project-root", str(root)]) == 2
    assert "--words: does nothing, since a soup has no bag of words" in capsys.readouterr().err


def test_a_test_post_that_splits_leave_out_is_said_before_anything_is_trained(root):
    guid = read_split(root / "outputs/splits/test.csv").guid[3]
    (root / f"data/{guid}.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(
        ClipsentError, match=rf"test_without_label.txt: all listed posts are labelled, but not these: {guid} \("
    ):
        run_stage(None, Workspace(root, max_bad="10%"), only="splits,baseline,predict")
    assert not (root / steps.BASELINE).exists()
    assert read_json(root / "outputs/reports/steps.json")["splits"]["state"] == "done"


def test_a_test_post_without_a_picture_may_be_answered_by_a_model_that_does_without(root):
    guid = read_split(root / "outputs/splits/test.csv").guid[3]
    (root / f"data/{guid}.jpg").unlink()
    make_splits(Workspace(root, max_bad="10%"))
    settings = steps.read_settings(None)
    with pytest.raises(ClipsentError, match=f"but not these: {guid} .no image of this name"):
        steps.refuse_unready(steps.Plan("predict", settings, Workspace(root)))
    settings["retrain"]["modality_dropout"] = 0.1
    steps.refuse_unready(steps.Plan("predict", settings, Workspace(root)))


def test_folds_that_cannot_be_cut_are_said_before_anything_is_trained(root, tmp_path):
    (tmp_path / "s.toml").write_text("[mine]\nfolds = 5000\n")
    with pytest.raises(ClipsentError, match="folds 5000"):
        run_stage(tmp_path / "s.toml", Workspace(root), only="splits,baseline,mine")
    assert not (root / steps.BASELINE).exists()


def test_a_run_to_compare_that_nobody_makes_is_said_before_the_first_step(root, tmp_path):
    (tmp_path / "s.toml").write_text('[compare]\nruns = "outputs/optimize/clip,outputs/optimize/gone"\n')
    with pytest.raises(ClipsentError, match="step compare: needs the run outputs/optimize/gone, which is not there"):
        run_stage(tmp_path / "s.toml", Workspace(root))
    (tmp_path / "s.toml").write_text(f'[compare]\nruns = ["{steps.FINAL}", "{steps.GRID}", "{RUN.as_posix()}"]\n')
    steps.refuse_lacking(steps.Plan("compare", steps.read_settings(tmp_path / "s.toml"), Workspace(root)))


@pytest.mark.parametrize("device", ["meta", "tpu", 99, "cuda:77"])
def test_a_device_without_numbers_is_none(device):
    with pytest.raises(ClipsentError, match=f"device {device}: no such device on this machine"):
        open_device(device, "fp32")


def test_a_path_with_a_nul_is_named():
    for call in (lambda: Classifier.load("a\0b"), lambda: Workspace("a\0b"), lambda: TrainConfig(train_csv="a\0.csv")):
        with pytest.raises(ClipsentError, match="has a NUL character"):
            call()


def test_labels_and_folders_are_no_markdown():
    from clipsent_nb.demo import plain_markdown

    assert plain_markdown("a*b_[c](d) <b>\n# e") == r"a\*b\_\[c\]\(d\) \<b\> \# e"


def test_the_page_of_the_stage_names_a_project_that_is_none(tmp_path):
    from clipsent_nb.report import execute

    with pytest.raises(ClipsentError, match="project_root .*none: no project"):
        execute("index", tmp_path / "page", {"project_root": str(tmp_path / "none")})
