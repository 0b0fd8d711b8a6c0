"""What robustness refuses, and that a clear loss counts as one among many conditions."""

import numpy as np
import pytest

from clipsent_nb.corruptions import CORRUPTIONS
from clipsent_nb.files import ClipsentError
from clipsent_nb.robustness import conclusion, losses, robustness
from clipsent_nb.train import sample_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("robustness") / "sample"
    return root, sample_run(root, epochs=1).folder


def answers_to(truth, wrong):
    "As many conditions as a whole measurement has; only the text is used."
    clean = np.where(np.arange(len(truth)) % 5 == 0, (truth + 1) % 3, truth)
    answers = {("clean", 0): clean}
    for name, kind in CORRUPTIONS.items():
        for severity in range(1, len(kind.levels) + 1):
            answers[name, severity] = clean
    answers["missing_text", 5] = np.where(np.arange(len(truth)) % 10 < wrong, (truth + 1) % 3, truth)
    return answers


def test_one_clear_loss_among_all_conditions_is_found():
    truth = np.random.default_rng(0).integers(0, 3, 400)
    conditions, summary = losses(truth, answers_to(truth, wrong=5))
    row = conditions[(conditions.corruption == "missing_text") & (conditions.severity == 5)].iloc[0]
    assert row["drop"] > 0.1 and row.p_adjusted < 0.05
    said = conclusion(conditions, summary)
    assert "The model uses the text" in said and "uses the image cannot be shown" in said


def test_equal_answers_are_no_loss():
    truth = np.random.default_rng(0).integers(0, 3, 400)
    conditions, summary = losses(
        truth, answers_to(truth, wrong=2) | {("missing_text", 5): answers_to(truth, 2)["clean", 0]}
    )
    assert not (conditions.p_adjusted < 0.05).any()
    assert "None of the" in conclusion(conditions, summary)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ({"corruptions": "noize"}, "noize"),
        ({"severities": "0,6"}, "severities"),
        ({"batch_size": 0}, "batch-size"),
        ({"val_csv": "no.csv"}, "no.csv"),
    ],
)
def test_bad_flags_are_named_and_nothing_is_written(trained, flags, complaint):
    root, folder = trained
    with pytest.raises(ClipsentError, match=complaint):
        robustness(folder, project_root=root, progress=False, **flags)
    assert not (root / "outputs/optimize/robustness_ln").exists()


def test_a_second_call_repeats_nothing_and_changes_nothing(trained, monkeypatch):
    from clipsent_nb.robustness import Probe

    root, folder = trained
    flags = {"project_root": root, "corruptions": "fog,keyboard,missing_text", "severities": "1,5", "report": False}
    robustness(folder, progress=False, **flags)
    file = root / "outputs/optimize/robustness_ln/robustness_metrics.json"
    before = file.read_bytes()
    monkeypatch.setattr(Probe, "answers", None)
    robustness(folder, progress=False, **flags)
    assert file.read_bytes() == before
