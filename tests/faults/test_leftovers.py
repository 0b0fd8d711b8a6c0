"""What users left in folders is not replaced; what is older than its source, or of another run, is not taken in silence."""

import json
import logging
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from clipsent_nb import stage, steps
from clipsent_nb.augment import augment_images, augment_text, merge
from clipsent_nb.badcases import mine
from clipsent_nb.cli import main
from clipsent_nb.compare import compare, gather_contenders
from clipsent_nb.data import make_splits, read_split, with_content
from clipsent_nb.ensemble import ensemble
from clipsent_nb.errors import ErrorReport, errors
from clipsent_nb.export import export
from clipsent_nb.files import ClipsentError, Workspace, read_json, write_csv, write_json
from clipsent_nb.labels import choose_labels, plain_name
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.robustness import CorruptionSettings, robustness
from clipsent_nb.runs import Run
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import run_stage
from clipsent_nb.state import load_inputs, sample_config
from clipsent_nb.steps import Plan, read_settings, refuse_lacking

torch.set_num_threads(1)
RUN = Path("outputs/optimize/clip")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("leftovers") / "sample")


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A project of its own with a short run."
    return Path(shutil.copytree(trained, tmp_path / "sample"))


@pytest.mark.parametrize("name", ["tiny_clip/model.safetensors", "tiny_clip/preprocessor_config.json", "mine.csv"])
def test_answers_replace_nothing_but_answers(root, name):
    (root / "mine.csv").write_text("id,text,image,label\n1,hi,a.jpg,positive\n")
    before = (root / name).read_bytes()
    with pytest.raises(
        ClipsentError, match="--output .*: would replace a file that is none of ours; ours start with 'g"
    ):
        predict_file(RUN, Workspace(root), Path(name))
    with pytest.raises(ClipsentError, match="--output-csv .*: would replace a file|not the name of a table"):
        compare(config=sample_config(root, output_dir=RUN), references=False, output_csv=Path(name), report=False)
    assert (root / name).read_bytes() == before


def test_answers_that_a_spreadsheet_saved_are_replaced(root):
    (root / "tags.txt").write_text("\ufeffguid,tag\n1,positive\n", encoding="utf-8")
    predict_file(RUN, Workspace(root), Path("tags.txt"))
    assert len((root / "tags.txt").read_text(encoding="utf-8").splitlines()) == 61


@pytest.mark.parametrize("folder", ["tiny_clip", "data", "outputs/splits", "outputs/optimize/clip"])
def test_tables_are_not_written_into_the_folder_of_something_else(root, folder):
    before = sorted((root / folder).rglob("*"))
    options = {"output_dir": Path(folder), "workspace": Workspace(root), "report": False}
    for call in (lambda: errors(RUN, **options), lambda: robustness(RUN, **options)):
        with pytest.raises(
            ClipsentError, match="--output-dir .*: is the folder of (a model or an encoder|the splits|the posts)"
        ):
            call()
    assert sorted((root / folder).rglob("*")) == before


@pytest.mark.parametrize("name", ["test_without_label.txt", "data/1.txt", "tiny_clip/config.json"])
def test_a_sample_replaces_no_file_of_a_user(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("8,null\n")
    with pytest.raises(ClipsentError, match=rf"holds other posts or files already \({re.escape(name)}\)"):
        make_sample(tmp_path)
    assert (tmp_path / name).read_text() == "8,null\n" and not (tmp_path / "train.txt").exists()


def test_a_sample_is_not_written_through_a_link(root, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/data").symlink_to(root / "data")
    with pytest.raises(ClipsentError, match="holds other posts or files already"):
        make_sample(tmp_path / "linked")
    assert make_sample(root) == root  # again, over its own files


def test_weights_of_another_run_are_not_taken_for_those_of_a_folder(root):
    other = read_json(root / RUN / "config.json") | {"seed": 7}
    write_json(root / RUN / "config.json", other)
    with pytest.raises(
        ClipsentError, match=r"best.pt: of another run than the config.json beside it \(seed 42, not 7\)"
    ):
        Classifier.load(root / RUN)


def test_an_export_says_that_its_posts_were_trained_on_or_changed(root, caplog):
    assert export(RUN, Workspace(root)).met_posts == 0
    val = read_split(root / "outputs/splits/val.csv")
    write_csv(
        val.assign(label=val.label.replace({"positive": "negative", "negative": "positive"})),
        root / "outputs/splits/val.csv",
    )
    export(RUN, Workspace(root))
    assert "label, text or picture of some posts changed" in caplog.text
    write_csv(read_split(root / "outputs/splits/train.csv").head(9), root / "outputs/splits/val.csv")
    found = export(RUN, Workspace(root))
    assert found.met_posts == 9 and "LEAKED: the run was trained on 9 of these posts" in str(found)
    write_csv(val.assign(label=[*val.label[:-1], ""]), root / "outputs/splits/val.csv")
    with pytest.raises(ClipsentError, match=f"val.csv: no label for guid {val.guid.iloc[-1]}"):
        export(RUN, Workspace(root))


def test_an_ensemble_tells_of_the_posts_that_its_members_predicted(root):
    shutil.copytree(root / RUN, root / "outputs/optimize/other")
    make_splits(Workspace(root), seed=7)
    made = ensemble("outputs/optimize/clip,outputs/optimize/other", words=False, workspace=Workspace(root))
    assert made.metrics["leaked"] is False


@pytest.mark.parametrize("column", ["text_key", "image_hash"])
def test_an_emptied_column_hides_no_copies(root, column):
    config = sample_config(root)
    val, train = (read_split(root / f"outputs/splits/{name}.csv") for name in ("val", "train"))
    train = train[~train.guid.isin(val.guid)]
    copies = val.head(6).assign(guid=[f"T{number}" for number in range(6)])
    part, other = ("text", "image") if column == "text_key" else ("image", "text")
    copies[f"{other}_path"] = train[f"{other}_path"].head(6).to_numpy()
    for place in copies[f"{part}_path"]:  # other bytes, the same post
        if part == "text":
            (root / f"{place}.copy.txt").write_bytes((root / place).read_bytes() + b" http://t.co/abc\n")
        else:
            Image.open(root / place).convert("RGB").resize((200, 150)).save(root / f"{place}.copy.jpg")
    copies[f"{part}_path"] = [f"{place}.copy.{'txt' if part == 'text' else 'jpg'}" for place in copies[f"{part}_path"]]
    names = ["guid", "text_path", "image_path", "label"]
    both = with_content(pd.concat([train, copies], ignore_index=True)[names].assign(group=""), Workspace(root))[0]
    both = both.assign(group=both.guid)
    write_csv(both, root / "full.csv")
    write_csv(both.assign(**{column: [*([""] * (len(both) - 1)), both[column].iloc[-1]]}), root / "emptied.csv")
    found = [load_inputs(sample_config(root, train_csv=Path(name))).leaked for name in ("full.csv", "emptied.csv")]
    assert found[0] and found[0] == found[1], config


def test_labels_that_changed_since_copies_were_merged_are_said(root, caplog):
    train = read_split(root / "outputs/splits/train.csv")
    write_csv(train, root / "outputs/optimize/train_aug.csv")
    label = {"positive": "negative"}.get(train.label[0], "positive")
    write_csv(train.assign(label=[label, *train.label[1:]]), root / "outputs/splits/train.csv")
    load_inputs(sample_config(root, train_csv=Path("outputs/optimize/train_aug.csv")))
    assert "train_aug.csv: another label than in" in caplog.text
    assert f"for guid {train.guid[0]}; if it was made from there, make it again with `clipsent merge`" in caplog.text


def test_a_class_that_is_in_one_fold_alone_is_said_before_any_fold_is_trained(root):
    train = read_split(root / "outputs/splits/train.csv")
    alone = train[train.label == "neutral"].head(1)
    write_csv(pd.concat([train[train.label != "neutral"], alone]), root / "outputs/splits/train.csv")
    with pytest.raises(
        ClipsentError, match=rf"train.csv: all posts that are neutral \(guid {alone.guid.iloc[0]}\) are in one"
    ):
        mine(sample_config(root), report=False)
    assert not list((root / "outputs/optimize").glob("**/fold_*"))


@pytest.mark.parametrize("rows", [1, 2])
def test_one_post_and_its_copy_are_refused_before_the_work(root, rows):
    val = read_split(root / "outputs/splits/val.csv").head(1)
    pair = pd.concat([val, val.assign(guid="copy")]).head(rows)
    write_csv(pair, root / "one.csv")
    with pytest.raises(ClipsentError, match="one.csv: holds one post, or copies of one"):
        robustness(RUN, val_csv=Path("one.csv"), workspace=Workspace(root), report=False)
    config = sample_config(root, val_csv=Path("one.csv"), output_dir=Path("outputs/optimize/base"))
    with pytest.raises(ClipsentError, match="one.csv: holds one post, or copies of one"):
        compare(config=config, report=False)
    assert not (root / "outputs/optimize/base").exists()


def test_a_model_without_a_right_answer_loses_nothing(root):
    run = Run.load(root / RUN)
    wrong = run.predictions.guid[run.predictions.true_label != run.predictions.pred_label]
    val = read_split(root / "outputs/splits/val.csv")
    write_csv(val[val.guid.isin(wrong)].head(4), root / "wrong.csv")
    settings = CorruptionSettings(corruptions="gaussian_noise", severities="1")
    found = robustness(RUN, val_csv=Path("wrong.csv"), workspace=Workspace(root), settings=settings, report=False)
    assert "nan" not in str(found)


REFUSED_LATER = {
    "retrain": ('tracker = "mlflow"', "needs mlflow, which is not installed"),
    "predict": ("abstain_below = 0.5\ncoverage = 0.9", "say the same"),
    "errors": ('run = "outputs/optimize/baseline"', "give one of them"),
    "mine": ('source = "val"', "needed with --source val"),
}


@pytest.mark.parametrize("step", REFUSED_LATER)
def test_what_a_step_always_refuses_is_said_before_the_first_one(root, tmp_path, monkeypatch, step):
    if step == "retrain":
        monkeypatch.setattr(steps, "find_spec", lambda name: None)
    setting, what = REFUSED_LATER[step]
    (tmp_path / "s.toml").write_text(f"[{step}]\n{setting}\n")
    with pytest.raises(ClipsentError, match=what):
        run_stage(tmp_path / "s.toml", Workspace(root))
    assert not (root / "outputs/reports").exists()


def test_answers_by_several_workers_of_no_cluster_are_refused_before_the_first_step(root, tmp_path):
    (tmp_path / "s.toml").write_text("[predict]\njobs = 2\n")
    with pytest.raises(ClipsentError, match=r"\[predict\] --jobs 2 needs --engine ray"):
        run_stage(tmp_path / "s.toml", Workspace(root))


def test_a_head_that_robustness_takes_is_among_those_that_are_compared(root, tmp_path):
    for variants, fits in (('"base,mlp"', False), ('["base", "ln"]', True)):
        (tmp_path / "s.toml").write_text(f"[heads]\nvariants = {variants}\n")
        plan = Plan("robustness", read_settings(tmp_path / "s.toml"), Workspace(root))
        if fits:
            refuse_lacking(plan)
            continue
        with pytest.raises(ClipsentError, match="step robustness: needs the head ln, which"):
            refuse_lacking(plan)


def test_settings_are_what_they_say(root, tmp_path):
    (tmp_path / "s.toml").write_text('[train]\nreport = "no"\n[compare]\nruns = 5\n')
    settings = read_settings(tmp_path / "s.toml")
    assert not any(path.endswith("report.html") for path in Plan("baseline", settings, Workspace(root)).files)
    assert stage.find_named(Plan("compare", settings, Workspace(root))) == {}


@pytest.mark.parametrize("record", ['{"baseline": 5}', '{"splits": null}'])
def test_a_damaged_record_of_steps_is_named(root, record):
    (root / "outputs/reports").mkdir()
    (root / "outputs/reports/steps.json").write_text(record)
    with pytest.raises(ClipsentError, match=r"steps.json: damaged \(what it says of (baseline|splits)\); delete it"):
        run_stage(None, Workspace(root), only="baseline")


def test_copies_that_are_gone_make_their_step_incomplete(root):
    train = read_split(root / "outputs/splits/train.csv")
    cases = train.head(3).rename(columns={"label": "true_label"}).assign(pred_label="neutral", kind="model")
    write_csv(cases, root / steps.BAD_CASES)
    augment_images(workspace=Workspace(root))
    pd.DataFrame(columns=["guid", "true_label", "pred_label", "text_path", "text_aug"]).to_csv(
        root / steps.TEXT_CSV, index=False
    )
    merge(workspace=Workspace(root))
    plans = [Plan(name, read_settings(None), Workspace(root)) for name in ("augment-images", "merge")]
    assert not any(map(stage.lacks_copies, plans))
    next((root / steps.IMAGE_CSV).parent.glob("*.jpg")).unlink()
    assert all(map(stage.lacks_copies, plans))


def test_a_verdict_on_models_that_were_trained_again_is_not_shown(root):
    for folder in (steps.BASELINE, steps.FINAL):
        shutil.copytree(root / RUN, root / folder)
    row = {"model": "final_clip_aug", "leaked": False, "verdict": "better", "difference": 0.1}
    write_csv(pd.DataFrame([row]), root / f"{steps.COMPARED}.csv")
    assert "**better**" in stage.judge_final(Workspace(root))
    metrics = root / steps.FINAL / "metrics.json"
    write_json(metrics, read_json(metrics) | {"best_val_f1_macro": 0.9})
    assert "better" not in stage.judge_final(Workspace(root))
    assert "`clipsent compare` tells of today's" in stage.judge_final(Workspace(root))


@pytest.mark.parametrize("tags", ["सकारात्मक नकारात्मक तटस्थ", "ดี แย่ กลางๆ", "İyi kötü orta", "إيجابيّ سلبيّ", "ខុស ល្អ"])
def test_labels_in_any_script_are_labels(tags):
    labels, found = choose_labels(pd.Series(tags.split() * 9).map(plain_name))
    assert len(labels) == len(tags.split()) and found.isin(labels).all()


@pytest.mark.parametrize("name", ["macro_low", "macro_high"])
def test_names_of_columns_are_no_labels(name):
    with pytest.raises(ClipsentError, match=f"'{name}' cannot be the name of a class"):
        choose_labels(pd.Series([name, "positive"] * 9))


def test_a_comma_in_the_name_of_a_run_is_named(root):
    with pytest.raises(ClipsentError, match="'b,1' has a comma, which separates names; rename it"):
        ensemble(["outputs/optimize/clip", "b,1"], workspace=Workspace(root))


@pytest.mark.parametrize("values", [{"format": "2"}, {"labels": None}])
def test_a_damaged_description_of_a_run_is_named(root, values, capsys):
    path = root / RUN / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    words = ["ensemble", "--runs", str(RUN), "--project-root", str(root), "--no-progress"]
    assert main(words) == 2 and "config.json: damaged (format or labels)" in capsys.readouterr().err


def test_a_list_without_bad_cases_is_of_the_posts_that_are_mined_by_default(root, caplog):
    columns = "guid,true_label,pred_label,confidence,text_path,image_path,reason,kind"
    (root / steps.BAD_CASES).write_text(columns + "\n")
    found = errors(workspace=Workspace(root), report=False)
    assert len(found.posts) == len(read_split(root / "outputs/splits/train.csv"))
    assert "warning: no bad cases, so they are taken for those of" in caplog.text


def test_values_of_papermill_are_what_they_say(root):
    shutil.copytree(root / RUN, root / "outputs/optimize/other")
    config = sample_config(root, output_dir=RUN)
    _, contenders, _ = gather_contenders(config, "outputs/optimize/other", references="no")
    assert len(contenders) == 2
    errors(RUN, workspace=Workspace(root), report=False)
    assert len(ErrorReport.load(str(root / "outputs/optimize"), "20").posts)
    for wrong in (0, "nan", True):
        with pytest.raises(ClipsentError, match="min_count|--min-count"):
            ErrorReport.load(root / "outputs/optimize", wrong)


def test_bad_cases_without_copies_are_counted(root, caplog):
    caplog.set_level(logging.INFO, logger="clipsent_nb")
    train = read_split(root / "outputs/splits/train.csv")
    cases = train.head(5).rename(columns={"label": "true_label"}).assign(pred_label="neutral", kind="model")
    write_csv(cases.head(2), root / steps.BAD_CASES)
    augment_images(workspace=Workspace(root))
    augment_text(workspace=Workspace(root))
    write_csv(cases, root / steps.BAD_CASES)
    merge(workspace=Workspace(root))
    assert "3 bad cases without a copy" in caplog.text


@pytest.mark.parametrize("name", [steps.BAD_CASES, steps.TRAIN_AUG, f"{steps.COMPARED}.csv", steps.LABELLED])
def test_tables_of_older_scripts_are_refused_before_the_first_step(root, name):
    (root / name).write_text("id,mine\n1,2\n")
    with pytest.raises(ClipsentError, match="step .*: would replace a file that is none of ours; .* or move it away"):
        run_stage(None, Workspace(root))
    assert (root / name).read_text() == "id,mine\n1,2\n" and not (root / "outputs/reports").exists()


def test_the_verdict_of_a_project_that_was_copied_stays(root):
    for folder in (steps.BASELINE, steps.FINAL):
        shutil.copytree(root / RUN, root / folder)
    write_csv(
        pd.DataFrame([{"model": "final_clip_aug", "leaked": False, "verdict": "better", "difference": 0.1}]),
        root / f"{steps.COMPARED}.csv",
    )
    own = Workspace(root)
    names = [f"{folder}/metrics.json" for folder in (steps.BASELINE, steps.FINAL)]
    record = {"compare": {"inputs": {name: stage.table_digest(root / name, own) for name in names}}}
    write_json(root / stage.RECORD, record)
    for name in names:
        (root / name).touch()
    assert "**better**" in stage.judge_final(own)
