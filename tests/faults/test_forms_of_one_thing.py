"""One thing in several forms: labels, missing groups, columns called like ours, answers of no form."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipsent_nb.badcases import mine
from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.errors import errors
from clipsent_nb.explain import deletion_gap
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.labels import plain_name
from clipsent_nb.objective import wilson_interval
from clipsent_nb.stage import refuse_early
from clipsent_nb.stats import compare_seeds, cross_fit_answers, rank_runs, seeds_interval
from clipsent_nb.steps import Plan
from clipsent_nb.tables import NO_GROUP, Columns, read_post_table
from clipsent_nb.tracking import numbers_of

RUN = Path("outputs/optimize/clip")


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("forms") / "sample")


@pytest.mark.parametrize("missing", [None, "", float("nan"), pd.NA])
def test_posts_without_a_group_stand_alone_in_an_interval(missing):
    assert wilson_interval(3, 30, groups=["a", *[missing] * 29]) == wilson_interval(3, 30)
    assert wilson_interval(1, 3, groups=[missing] * 3) == wilson_interval(1, 3)
    assert wilson_interval(3, 30, groups=["a"] * 2 + [missing] * 28) == wilson_interval(3, 30, groups=[0, *range(29)])


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("-0.0", "0"),
        ("-0", "0"),
        ("+0.0", "0"),
        ("-1.0", "-1"),
        ("－１", "-1"),
        ("＋1", "1"),
        ("ｐositive", "positive"),
    ],
)
def test_a_tag_has_one_form(tag, name):
    assert plain_name(tag) == name


def test_a_label_in_two_forms_of_unicode_is_one_class(tmp_path, fresh_sample):
    root = fresh_sample(tmp_path / "sample")
    lines = (root / "train.txt").read_text(encoding="utf-8").splitlines()
    forms = [unicodedata.normalize(form, "fâché") for form in ("NFC", "NFD")]
    mixed = [line.replace("negative", forms[number % 2]) for number, line in enumerate(lines)]
    (root / "train.txt").write_text("\n".join(mixed), encoding="utf-8")
    assert len(make_splits(Workspace(root), val_ratio=0.2).labels) == 3


def test_a_tracker_takes_the_names_of_all_classes():
    assert set(numbers_of({"val_f1_don't like": 1.0, "val_f1_r&b": 0, "lr": 1})) == {
        "val_f1_don_t like",
        "val_f1_r_b",
        "lr",
    }


def test_a_class_with_a_stroke_is_in_no_conflict_with_itself(tmp_path, fresh_sample):
    root = fresh_sample(tmp_path / "sample")
    before = len(make_splits(Workspace(root)).conflicting)
    list_ = root / "train.txt"
    list_.write_text(list_.read_text(encoding="utf-8").replace("negative", "angry/sad"), encoding="utf-8")
    report = make_splits(Workspace(root))
    assert len(report.conflicting) == before > 0
    assert report.conflicting.labels.str.contains(" | ", regex=False).all()


@pytest.mark.parametrize("name", ["width", "words", "confidence", "true_label", "p_id", "p_positive", "pred_label"])
def test_columns_of_ones_own_are_not_taken_for_ours(root, tmp_path, name):
    val = pd.read_csv(root / "outputs/splits/val.csv", dtype=str, keep_default_na=False)
    val.assign(**{name: "x1"}).to_csv(tmp_path / "val.csv", index=False)
    config = TrainConfig(project_root=root, val_csv=tmp_path / "val.csv")
    bad = mine(config, source="val", weights=RUN, output_csv=tmp_path / "bad.csv", report=False)
    assert bad.csv.is_file()
    assert errors(
        run=RUN, split_csv=tmp_path / "val.csv", workspace=Workspace(root), output_dir=tmp_path / "e", report=False
    )


@pytest.mark.parametrize("name", ["label", "group", "guid"])
def test_a_column_that_stands_there_twice_is_refused(root, tmp_path, name):
    val = pd.read_csv(root / "outputs/splits/val.csv", dtype=str, keep_default_na=False)
    pd.concat([val, val[name]], axis=1).to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(ClipsentError, match=f"val.csv: has two columns {name}; keep the one that is meant"):
        read_split(tmp_path / "val.csv")


@pytest.mark.parametrize("missing", NO_GROUP)
def test_what_a_program_writes_for_no_author_is_none(tmp_path, missing):
    rows = {
        "id": [1, 2, 3],
        "text": list("abc"),
        "image": list("abc"),
        "label": "x",
        "author": [missing, missing, "Nan"],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    table = read_post_table(tmp_path / "t.csv", Columns(group_column="author"), Workspace(tmp_path))
    assert table.group.tolist() == ["guid 1", "guid 2", "Nan"]


def test_a_group_of_our_own_that_is_called_after_a_post_called_null_stays(root, tmp_path):
    val = pd.read_csv(root / "outputs/splits/val.csv", dtype=str, keep_default_na=False)
    val.assign(group=["null"] * 2 + ["NA"] * (len(val) - 2)).to_csv(tmp_path / "val.csv", index=False)
    assert read_split(tmp_path / "val.csv").group.nunique() == 2


Y = [0, 1, 1, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: seeds_interval(Y, []),
        lambda: compare_seeds(Y, Y, None),
        lambda: compare_seeds(Y, Y, [Y, Y[:2]]),
        lambda: cross_fit_answers(Y, []),
        lambda: rank_runs(Y, {"a": []}),
    ],
)
def test_answers_that_are_none_are_one_line(call):
    with pytest.raises(ClipsentError, match="must be one or more lists of 4 class ids"):
        call()


def test_answers_may_come_from_an_iterator():
    assert compare_seeds(Y, Y, iter(Y)) == compare_seeds(Y, Y, Y)


def test_the_gap_of_no_posts_has_its_columns():
    empty = pd.DataFrame({"post": [], "part": [], "random": np.empty(0), "ranked": np.empty(0)})
    assert list(deletion_gap(empty)) == ["part", "gap", "low", "high", "p", "groups"]


@pytest.mark.parametrize(
    ("step", "values", "what"),
    [
        ("mine", {"csv": "outputs/splits/test.csv", "weights": str(RUN)}, "no label for guid"),
        ("robustness", {"val_csv": "outputs/splits/test.csv", "weights": str(RUN)}, "no label for guid"),
        ("robustness", {"weights": "outputs/optimize/several"}, "an ensemble, which robustness cannot take apart"),
        ("robustness", {"val_csv": "one.csv", "weights": str(RUN)}, "holds one post"),
    ],
)
def test_what_a_later_step_would_refuse_is_refused_first(root, step, values, what):
    (root / "outputs/optimize/several").mkdir(exist_ok=True)
    for name in ("ensemble.json", "metrics.json"):
        (root / "outputs/optimize/several" / name).write_text("{}")
    read_split(root / "outputs/splits/val.csv").head(1).to_csv(root / "one.csv", index=False)
    plans = [Plan(step, {"train": {}, "batch": {}, step: values}, Workspace(root), "s.toml")]
    with pytest.raises(ClipsentError, match=what):
        refuse_early(plans, {}, False, {})
