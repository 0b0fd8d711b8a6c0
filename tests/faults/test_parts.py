"""What belongs together stays together: the files of a run, a flag and what it depends on, splits and later steps."""

import json
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runfolders import put_predictions

from clipsent_nb import stage, steps
from clipsent_nb.badcases import mine
from clipsent_nb.cli import main
from clipsent_nb.compare import compare
from clipsent_nb.config import DEPENDED, EFFECTS, TrainConfig, why_idle
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import open_image
from clipsent_nb.ensemble import ensemble
from clipsent_nb.errors import errors
from clipsent_nb.export import OnnxClassifier
from clipsent_nb.files import ClipsentError, Workspace, arguments_of, read_json, write_csv, write_json
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.push import push
from clipsent_nb.report import execute
from clipsent_nb.runs import Run, digest_texts
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import is_complete, refuse_early, run_stage, step_inputs, step_outputs
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
    assert not any(why_idle(TrainConfig(**settings), name) for name in settings)


def test_settings_with_effects_are_fields():
    assert set(EFFECTS) | set(DEPENDED) <= set(TrainConfig.__dataclass_fields__)


def test_the_stage_refuses_what_does_nothing_in_a_table_of_one_step_and_takes_it_where_several_share_it(root, tmp_path):
    (tmp_path / "s.toml").write_text("[retrain]\ncombo_weights = [1, 2, 1]\n")
    with pytest.raises(ClipsentError, match=r"\[retrain\] --combo-weights does nothing, since --loss is not combo"):
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
    (root / "s.toml").write_text("[splits]\nval_ratio = 0.2\n")
    with pytest.raises(
        ClipsentError, match=rf"test_without_label.txt: all listed posts are labelled, but not these: {guid} \("
    ):
        run_stage(root / "s.toml", Workspace(root, max_bad="10%"), skip="robustness")
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
    (tmp_path / "s.toml").write_text("[splits]\nval_ratio = 0.2\n[mine]\nfolds = 5000\n")
    with pytest.raises(ClipsentError, match="folds 5000"):
        run_stage(tmp_path / "s.toml", Workspace(root), only="splits,baseline,mine")
    assert not (root / steps.BASELINE).exists()


def test_a_run_to_compare_that_nobody_makes_is_said_before_the_first_step(root, tmp_path):
    (tmp_path / "s.toml").write_text('[compare]\nruns = "outputs/optimize/clip,outputs/optimize/gone"\n')
    with pytest.raises(ClipsentError, match="step compare: needs outputs/optimize/gone, which is not there"):
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: Workspace("~nobody_here/posts"),
        lambda: Workspace().resolve("~nobody_here/train.csv"),
        lambda: Classifier.load("~nobody_here/run"),
        lambda: Run.load("~nobody_here/run"),
        lambda: OnnxClassifier.load("~nobody_here/onnx"),
        lambda: make_sample("~nobody_here/sample"),
        lambda: open_image("~nobody_here/a.jpg"),
    ],
)
def test_the_home_of_a_user_who_is_not_there_is_named(call):
    with pytest.raises(ClipsentError, match="~nobody_here/.*: names the home of a user who is not there"):
        call()


def test_labels_and_folders_are_no_markdown():
    from clipsent_nb.demo import plain_markdown

    assert plain_markdown("a*b_[c](d) <b>\n# e") == r"a\*b\_\[c\]\(d\) \<b\> \# e"


@pytest.mark.slow
def test_the_page_of_the_stage_names_a_project_that_is_none(tmp_path):
    with pytest.raises(ClipsentError, match="project_root .*none: no project"):
        execute("index", tmp_path / "page", {"project_root": str(tmp_path / "none")})


SMALL = """[splits]
val_ratio = 0.2
[train]
model_name = "tiny_clip"
epochs = 1
report = false
[baseline]
epochs = 1
[retrain]
batch_size = 8
"""
SHORT = "splits,baseline"


@pytest.fixture(autouse=True)
def no_page(monkeypatch) -> None:
    "The page of the stage is no concern of these tests, and takes ten seconds."
    monkeypatch.setattr(stage, "write_index", lambda workspace: None)


def run_steps(root: Path, only: str, text: str = SMALL, **flags) -> str:
    (root / "s.toml").write_text(text)
    return run_stage(root / "s.toml", Workspace(root), only=only, **flags)


def retrained(root: Path, folder: str, **changes) -> None:
    shutil.rmtree(root / folder)
    sample_run(root, output_dir=Path(folder), head_variant="base", epochs=1, freeze_epochs=0, batch_size=16, **changes)


def test_a_run_that_was_trained_again_by_hand_is_neither_taken_nor_replaced(root):
    run_steps(root, SHORT)
    assert run_steps(root, SHORT).startswith("all 2 steps are done")
    retrained(root, steps.BASELINE, lr=3e-4)
    before = (root / steps.BASELINE / "best.pt").read_bytes()
    with pytest.raises(ClipsentError, match="step baseline: .* holds a run with other settings .*lr.*--overwrite"):
        run_steps(root, SHORT)
    assert (root / steps.BASELINE / "best.pt").read_bytes() == before
    run_steps(root, SHORT, overwrite=True)
    assert read_json(root / steps.BASELINE / "config.json")["lr"] == TrainConfig().lr


def test_runs_of_further_seeds_and_of_folds_that_somebody_trained_are_not_replaced(root):
    sample_run(root, output_dir=Path(f"{steps.BASELINE}_seed43"), epochs=1, lr=1e-4)
    before = (root / f"{steps.BASELINE}_seed43/best.pt").read_bytes()
    with pytest.raises(ClipsentError, match="step baseline: .*baseline_seed43 holds a run with other settings"):
        run_steps(root, SHORT, SMALL.replace("[baseline]", "[baseline]\nseeds = [42, 43]"))
    assert (root / f"{steps.BASELINE}_seed43/best.pt").read_bytes() == before
    assert not (root / steps.BASELINE).exists()
    fold = root / "outputs/optimize/mine_oof/fold_0_of_2"
    shutil.copytree(root / RUN, fold)
    with pytest.raises(ClipsentError, match="step mine: .*fold_0_of_2 holds a run with other settings"):
        run_steps(root, "splits,mine", SMALL + "[mine]\nfolds = 2\n")
    assert (fold / "best.pt").read_bytes() == (root / RUN / "best.pt").read_bytes()


def test_seeds_that_are_added_are_trained_beside_and_owned(root):
    run_steps(root, SHORT)
    run_steps(root, SHORT, SMALL.replace("[baseline]", "[baseline]\nseeds = [42, 43]"))
    record = read_json(root / "outputs/reports/steps.json")["baseline"]
    assert record["owned"] == [steps.BASELINE, f"{steps.BASELINE}_seed43"]
    run_steps(root, SHORT, SMALL.replace("[baseline]", "[baseline]\nlr = 1e-5\nseeds = [42, 43]"))
    assert read_json(root / f"{steps.BASELINE}_seed43/config.json")["lr"] == 1e-5


def test_a_file_of_rules_that_changed_repeats_the_comparison(root):
    (root / "rules.toml").write_text("[mine]\nreplace_emoji = false\n")
    plan = steps.Plan(
        "preprocess", {"train": {}, "batch": {}, "preprocess": {"rules_file": "rules.toml"}}, Workspace(root)
    )
    before = step_inputs(plan)
    (root / "rules.toml").write_text("[mine]\nremove_stopwords = true\n")
    assert step_inputs(plan) != before


def test_answers_of_another_model_are_not_taken_for_those_of_the_stage(root):
    settings = steps.read_settings(None)
    plan = steps.Plan("predict", settings, Workspace(root))
    (root / steps.LABELLED).write_text("guid,tag\n1,positive\n")
    entry = {"state": "done", "inputs": {}, "outputs": step_outputs(plan)}
    assert is_complete(plan, entry | {"values": plan.values, "version": stage.__version__}, {})
    (root / steps.LABELLED).write_text("guid,tag\n1,negative\n")
    assert not is_complete(plan, entry | {"values": plan.values, "version": stage.__version__}, {})
    write_json(root / stage.RECORD, {"predict": entry})
    with pytest.raises(
        ClipsentError, match="step predict: .*clip_aug.txt is not what this step has left; move it away"
    ):
        refuse_early([plan], {"predict": entry}, False, {})


@pytest.mark.parametrize("name", ["bad_cases.csv", "train_aug.csv"])
def test_tables_that_people_correct_stay_theirs(root, name):
    step = {"bad_cases.csv": "mine", "train_aug.csv": "merge"}[name]
    (root / "outputs/optimize" / name).write_text("guid\n")
    assert step_outputs(steps.Plan(step, steps.read_settings(None), Workspace(root))) == {}


def test_the_verdict_is_of_the_baseline_and_of_a_final_model_that_the_stage_trained(root):
    own = Workspace(root)
    for folder in (steps.BASELINE, steps.FINAL):
        shutil.copytree(root / RUN, root / folder)
    rows = [{"model": "final_clip_aug", "leaked": False, "verdict": "better", "difference": 0.1, "kind": "run"}]
    for first, said in (("baseline", "**better**"), ("other", "The last comparison was with other, not with the base")):
        base = {"model": first, "leaked": False, "verdict": "", "difference": 0, "kind": "baseline"}
        write_csv(pd.DataFrame([*rows, base]), root / f"{steps.COMPARED}.csv")
        assert said in stage.judge_final(own)
    write_json(root / stage.RECORD, {"retrain": {"state": "failed"}})
    assert "final model" not in set(stage.read_scores(own).model) and "better" not in stage.judge_final(own)


def test_a_preset_stands_before_defaults_that_nobody_wrote(root):
    (root / "s.toml").write_text('[baseline]\npreset = "quick"\n[retrain]\npreset = "quick"\nepochs = 3\n')
    settings = steps.read_settings(root / "s.toml")
    assert settings["baseline"] == {"preset": "quick"} and settings["retrain"] == {"preset": "quick", "epochs": 3}


@pytest.mark.parametrize("line", ["focal_gamma = 3", "cb_beta = 0.5", "lora_rank = 4", "explain_errors = 3"])
def test_a_shared_setting_that_does_nothing_anywhere_is_refused(root, line):
    with pytest.raises(ClipsentError, match=rf"\[train\] --{line.split()[0].replace('_', '-')} does nothing, since"):
        run_steps(root, "splits,baseline,grid,mine", SMALL.replace("[baseline]", f"{line}\n[baseline]"))
    if line == "focal_gamma = 3":
        text = SMALL.replace("[baseline]", f"{line}\n[baseline]") + '[grid]\naxes = ["loss=ce,focal"]\n'
        steps.refuse_idle_shared(steps.Plan("baseline", steps.read_settings(write(root, text)), Workspace(root)))


def test_a_shared_setting_that_a_step_outside_of_the_call_uses_is_taken(root):
    text = SMALL.replace("[baseline]", "focal_gamma = 3\n[baseline]").replace("[retrain]", '[retrain]\nloss = "focal"')
    assert run_steps(root, SHORT, text).startswith("all 2 steps are done")


def test_listed_posts_that_a_division_leaves_out_can_be_labelled(root):
    test = root / "outputs/splits/test.csv"
    write_csv(read_split(test).head(5), test)
    steps.refuse_unready(steps.Plan("predict", steps.read_settings(None), Workspace(root)))


def test_a_whole_path_of_what_a_step_makes_is_taken(root):
    made = root.resolve() / steps.HEADS / "head_ln/best.pt"
    text = f'[robustness]\nweights = "{made.as_posix()}"\n'
    steps.refuse_lacking(steps.Plan("robustness", steps.read_settings(write(root, text)), Workspace(root)))


def write(root: Path, text: str) -> Path:
    (root / "s.toml").write_text(text)
    return root / "s.toml"


MISSING = {
    '[robustness]\nweights = "outputs/optimize/typo/best.pt"': "step robustness: needs outputs/optimize/typo/best.pt",
    '[mine]\nweights = "outputs/optimize/typo"': "step mine: needs outputs/optimize/typo",
    '[errors]\nsplit_csv = "missing.csv"': "step errors: needs missing.csv",
    '[compare]\nruns = ["outputs/splits"]': "step compare: needs outputs/splits, which holds no finished run",
    '[retrain]\nval_csv = "gone.csv"': "step retrain: needs gone.csv",
    '[merge]\nbadcase_text_csv = "gone.csv"': "step merge: needs gone.csv",
    '[predict]\nlabel_column = "x"': "--label-column is not read where posts are labelled",
    '[predict]\nid_column = "x"': "--id-column is a column of no table",
}


@pytest.mark.parametrize("text", MISSING)
def test_what_a_setting_names_and_nobody_makes_is_said_before_the_first_step(root, text):
    with pytest.raises(ClipsentError, match=MISSING[text]):
        run_stage(write(root, text + "\n"), Workspace(root))
    assert not (root / "outputs/reports").exists()


def test_every_setting_of_a_step_that_names_a_file_is_looked_at():
    decided = {*steps.DECIDED, "image"}
    for step in steps.STEPS.values():
        for argument in fields(arguments_of(steps.load(step.command))):
            parts = fields(argument.default) if is_dataclass(argument.default) else [argument]
            names = {part.name for part in parts if "Path" in str(part.type)} - {"project_root", "data_root"}
            assert names <= {*steps.NAMED, *decided, *step.paths}, step.command


def test_probabilities_of_somebody_else_are_not_replaced_at_the_end(root):
    (root / steps.ANSWERED).write_text("id,mine\n1,2\n")
    with pytest.raises(ClipsentError, match="step predict: .*_probabilities.csv would replace|would replace a file"):
        run_stage(None, Workspace(root))
    assert not (root / "outputs/reports").exists()


@pytest.mark.slow
def test_what_is_known_is_looked_at_again_where_an_earlier_step_has_to_be_repeated(root):
    text = SMALL + f'[compare]\nruns = ["{OTHER.as_posix()}"]\nreferences = false\n'
    run_steps(root, "splits,baseline,compare", text)
    shutil.move(root / OTHER, root / "elsewhere")
    with pytest.raises(ClipsentError, match="step compare: needs outputs/optimize/other, which is not there"):
        run_steps(root, "splits,baseline,compare", text.replace("[baseline]", "[baseline]\nlr = 2e-5"))
    assert read_json(root / steps.BASELINE / "config.json")["lr"] == TrainConfig().lr


def test_one_group_of_validation_posts_is_said_after_the_splits(root):
    val = root / "outputs/splits/val.csv"
    write_csv(read_split(val).head(1), val)
    with pytest.raises(ClipsentError, match="val.csv: holds one post, or copies of one"):
        steps.refuse_unready(steps.Plan("heads", steps.read_settings(None), Workspace(root)))


def parts_of(root: Path, *names: str) -> None:
    "Put files of another run of the same settings, which was trained on other posts, into a run folder."
    train = read_split(root / "outputs/splits/train.csv")
    write_csv(train.iloc[4:], root / "fewer.csv")
    fewer = sample_run(root, output_dir=Path("outputs/optimize/fewer"), train_csv=Path("fewer.csv"), epochs=1)
    for name in names:
        shutil.copy(fewer.folder / name, root / RUN / name)


def test_scores_and_predictions_of_another_run_are_not_taken_together(root):
    parts_of(root, "metrics.json", "val_predictions.csv")
    for call in steps_that_read_predictions(root)[:4]:
        with pytest.raises(ClipsentError, match="metrics.json: of another run than the config.json beside it"):
            call()


@pytest.mark.parametrize(
    "name, read",
    [
        ("train_posts.csv", lambda run: run.train_posts),
        ("history.csv", lambda run: run.history),
        ("val_epochs.npy", lambda run: run.epoch_probabilities),
    ],
)
def test_other_files_of_another_run_are_refused(root, name, read):
    assert read(Run.load(root / RUN)) is not None
    parts_of(root, name)
    with pytest.raises(ClipsentError, match=f"{name}: not the one that the run has written; copy the whole folder"):
        read(Run.load(root / RUN))


def test_weights_of_another_run_are_no_member(root):
    parts_of(root, "best.pt")
    with pytest.raises(ClipsentError, match="best.pt: of another run than the config.json beside it"):
        ensemble(f"{RUN},{OTHER}", workspace=Workspace(root), words=False)
    assert not (root / "outputs/optimize/ensemble").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value", ["two", -1, 2.5])
def test_a_number_of_errors_to_draw_that_is_none_is_named(root, value):
    mine(sample_config(root), "val", weights=RUN, report=False, output_csv=Path("outputs/optimize/bad_cases.csv"))
    values = {"project_root": str(root), "data_root": str(root), "explain_errors": value, "weights": str(root / RUN)}
    values["scored_csv"] = str(next((root / "outputs").rglob("scored.csv")))
    with pytest.raises(ClipsentError, match="--explain-errors .*: must be"):
        execute("badcases", root / "page", values)
