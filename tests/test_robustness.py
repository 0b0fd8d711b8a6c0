"""What robustness refuses, what it says about posts that the model has met, and what counts as more than luck."""

import numpy as np
import pandas as pd
import pytest

from clipsent_nb import robustness as chapter
from clipsent_nb.corruptions import CORRUPTIONS
from clipsent_nb.files import ClipsentError, Workspace, read_table
from clipsent_nb.robustness import CorruptionSettings, Robustness, describe_drops, robustness, score_drops

MILD = CorruptionSettings("noise")
FOLDER = "outputs/optimize/robustness_ln"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run):
    root = fresh_run(tmp_path_factory.mktemp("robustness") / "sample")
    return Workspace(root), root / "outputs/optimize/clip"


def predictions_of(truth, wrong):
    "As many conditions as a whole measurement has; only the text is used."
    clean = np.where(np.arange(len(truth)) % 5 == 0, (truth + 1) % 3, truth)
    predictions = {("clean", 0): clean}
    for name, kind in CORRUPTIONS.items():
        for severity in range(1, len(kind.levels) + 1):
            predictions[name, severity] = clean
    predictions["missing_text", 5] = np.where(np.arange(len(truth)) % 10 < wrong, (truth + 1) % 3, truth)
    return predictions


def test_one_clear_drop_among_all_conditions_is_found():
    truth = np.random.default_rng(0).integers(0, 3, 400)
    conditions, summary = score_drops(truth, predictions_of(truth, wrong=5), range(400))
    row = conditions[(conditions.corruption == "missing_text") & (conditions.severity == 5)].iloc[0]
    assert row["drop"] > 0.1 and row.p_adjusted < 0.05
    said = describe_drops(conditions, summary)
    assert "The model uses the text" in said and "uses the image cannot be shown" in said


def test_equal_predictions_are_no_drop():
    truth = np.random.default_rng(0).integers(0, 3, 400)
    same = predictions_of(truth, wrong=2)
    same["missing_text", 5] = same["clean", 0]
    conditions, summary = score_drops(truth, same, range(400))
    assert not (conditions.p_adjusted < 0.05).any()
    assert "None of the" in describe_drops(conditions, summary)


def test_copies_of_a_post_add_no_certainty():
    truth, random = np.random.default_rng(0).integers(0, 3, 60), np.random.default_rng(1)
    predictions = {("clean", 0): truth, ("fog", 1): np.where(random.random(60) < 0.15, (truth + 1) % 3, truth)}
    alone = score_drops(truth, predictions, range(60))[0]
    fourfold = {condition: np.repeat(ids, 4) for condition, ids in predictions.items()}
    copied = score_drops(np.repeat(truth, 4), fourfold, np.repeat(np.arange(60), 4))[0]
    pd.testing.assert_frame_equal(copied, alone)


@pytest.mark.parametrize(
    "wrong, complaint",
    [({"corruptions": "noize"}, "noize"), ({"severities": "0,6"}, "severities"), ({"batch_size": 0}, "batch-size")],
)
def test_settings_that_cannot_work_do_not_exist(wrong, complaint):
    with pytest.raises(ClipsentError, match=complaint):
        CorruptionSettings(**wrong)


def test_missing_posts_are_named_and_nothing_is_written(trained):
    workspace, folder = trained
    with pytest.raises(ClipsentError, match="no.csv"):
        robustness(folder, "outputs/nothing", "no.csv", workspace=workspace)
    assert not workspace.resolve("outputs/nothing").exists()


def test_a_second_call_repeats_nothing_and_changes_nothing(trained, monkeypatch):
    workspace, folder = trained
    arguments = {"settings": CorruptionSettings("fog,keyboard,missing_text", "1,5"), "workspace": workspace}
    robustness(folder, report=False, **arguments)
    files = [workspace.resolve(FOLDER) / name for name in ("robustness.csv", "robustness_metrics.json")]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(chapter, "predict_condition", None)
    robustness(folder, report=False, **arguments)
    assert [file.read_bytes() for file in files] == before


def test_predictions_of_other_corruptions_are_not_taken(trained, monkeypatch):
    workspace, folder = trained
    probe = chapter.load_probe(folder, settings=MILD, workspace=workspace)
    files = {chapter.predictions_file(probe, folder / "best.pt", workspace.project_root)}
    monkeypatch.setattr(chapter, "CORRUPTIONS_VERSION", 0)
    files |= {chapter.predictions_file(probe, folder / "best.pt", workspace.project_root)}
    monkeypatch.setattr(chapter, "cleaning_fingerprint", lambda: "other rules")
    files |= {chapter.predictions_file(probe, folder / "best.pt", workspace.project_root)}
    assert len(files) == 3


def test_damaged_predictions_are_an_error_that_names_the_file(trained):
    workspace, folder = trained
    result = robustness(folder, "outputs/damaged", settings=MILD, workspace=workspace, report=False)
    kept = next(result.folder.glob("predictions-*.csv"))
    kept.write_text(kept.read_text().replace("positive", "great", 1))
    with pytest.raises(ClipsentError, match=kept.name):
        robustness(folder, "outputs/damaged", settings=MILD, workspace=workspace, report=False)


def test_posts_of_training_are_leaked_whatever_they_are_called(trained):
    workspace, folder = trained
    train = read_table(workspace.resolve("outputs/splits/train.csv"))
    renamed = train[["guid", "text_path", "image_path", "label"]].assign(guid=[f"new{i}" for i in range(len(train))])
    renamed.to_csv(workspace.resolve("renamed.csv"), index=False)
    for posts in ("outputs/splits/train.csv", "renamed.csv"):
        result = robustness(folder, "outputs/leak", posts, settings=MILD, workspace=workspace, report=False)
        assert result.metrics["leaked"] is True and result.metrics["met_posts"] == len(train)
        assert str(result).startswith(f"LEAKED: the model was trained on {len(train)} of these {len(train)} posts")
    clean = robustness(folder, "outputs/leak", settings=MILD, workspace=workspace, report=False)
    assert clean.metrics["leaked"] is False and "LEAKED" not in str(clean)


def test_weights_without_a_list_of_training_posts_are_not_called_clean(trained):
    workspace, folder = trained
    lone = workspace.resolve("lone")
    lone.mkdir()
    (lone / "best.pt").write_bytes((folder / "best.pt").read_bytes())
    model = str(workspace.resolve("tiny_clip").resolve())
    result = robustness(lone / "best.pt", "outputs/lone", None, model, MILD, workspace, report=False)
    assert result.metrics["leaked"] is None and "is not known" in str(result)


@pytest.mark.parametrize("corruptions", ["missing_text", pytest.param("noise", marks=pytest.mark.slow)])
def test_a_measurement_of_one_corruption_has_a_report(trained, corruptions):
    workspace, folder = trained
    one = CorruptionSettings(corruptions, "3")
    result = robustness(folder, f"outputs/{corruptions}", settings=one, workspace=workspace)
    assert (result.folder / "report.html").is_file() and str(result).endswith("report.html")
    assert len(Robustness.load(result.folder).summary) == (2 if corruptions == "noise" else 3)
