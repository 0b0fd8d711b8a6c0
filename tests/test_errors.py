"""What an analysis of errors refuses, and what it must not be fooled by."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipsent_nb.data import read_split
from clipsent_nb.errors import (
    AXES,
    ErrorReport,
    count_errors,
    difference_p,
    errors,
    find_slices,
    make_slices,
    picture_size,
    script_of,
    summarise_dimensions,
    text_traits,
)
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.inputs import content_fingerprint

torch.set_num_threads(1)
RUN = Path("outputs/optimize/clip")


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("posts") / "sample")


def bad_cases(root: Path, split: str = "val", rows: int = 6) -> pd.DataFrame:
    posts = read_split(root / f"outputs/splits/{split}.csv").iloc[:rows]
    wrong = np.arange(rows) % 2 == 0
    other = posts.label.map({"negative": "neutral", "neutral": "positive", "positive": "negative"})
    return pd.DataFrame(
        {
            "guid": posts.guid,
            "true_label": posts.label,
            "pred_label": posts.label.where(~wrong, other),
            "confidence": 0.5,
            "reason": np.where(wrong, "wrong", "low_conf"),
        }
    )


def analyse(root: Path, table: pd.DataFrame, folder: Path, **flags):
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / "bad.csv", index=False)
    flags = {"badcase_csv": folder / "bad.csv", "output_dir": folder / "out", **flags}
    return errors(workspace=Workspace(root), report=False, **flags)


@pytest.mark.parametrize("split", ["val", "train"])
def test_only_wrong_rows_are_errors_and_the_split_is_found(root, tmp_path, split):
    analysis = analyse(root, bad_cases(root, split), tmp_path)
    assert analysis.posts.wrong.sum() == 3
    assert len(analysis.posts) == len(read_split(root / f"outputs/splits/{split}.csv"))
    table = pd.read_csv(tmp_path / "out/error_analysis_text_len.csv")
    assert table.columns[:4].tolist() == ["bucket", "total", "errors", "error_rate"]
    assert table.total.sum() == len(analysis.posts) and table.errors.sum() == 3
    drawn = Image.open(tmp_path / "out/error_analysis_text_len.png").convert("RGB")
    assert drawn.width > 300 and len(drawn.getcolors(10**6)) > 9


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("guid", "made-up", "--split-csv"),
        ("reason", "low_conf", "contradict"),
        ("reason", "other", "contradict"),
        ("pred_label", "joy", "none of the labels"),
        ("true_label", "negative neutral", "unknown label"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(root, tmp_path, column, value, message):
    table = bad_cases(root)
    table.loc[0, column] = value
    with pytest.raises(ClipsentError, match=message):
        analyse(root, table, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_label_that_was_corrected_since_is_noticed_in_a_list_without_digests(root, tmp_path):
    table = bad_cases(root)
    [third] = {"negative", "neutral", "positive"} - {table.true_label[0], table.pred_label[0]}
    table.loc[0, "true_label"] = third
    with pytest.raises(ClipsentError, match=f"guid {table.guid[0]}: true_label is not that of the split"):
        analyse(root, table, tmp_path)


def test_twice_the_same_post(root, tmp_path):
    table = bad_cases(root)
    with pytest.raises(ClipsentError, match=str(table.guid[0])):
        analyse(root, pd.concat([table, table.iloc[:1]]), tmp_path)


def test_an_empty_list_is_of_the_split_that_is_named(root, tmp_path):
    empty = bad_cases(root).iloc[:0]
    assert analyse(root, empty, tmp_path, split_csv=Path("outputs/splits/val.csv")).posts.wrong.sum() == 0


def test_unlabelled_posts_have_no_errors(root, tmp_path):
    with pytest.raises(ClipsentError, match="no label"):
        analyse(root, bad_cases(root), tmp_path, split_csv=Path("outputs/splits/test.csv"))


def test_columns_and_files_that_are_missing(root, tmp_path):
    with pytest.raises(ClipsentError, match="reason"):
        analyse(root, bad_cases(root).drop(columns="reason"), tmp_path)
    with pytest.raises(ClipsentError, match="metrics.json"):
        errors(run=Path("nowhere"), workspace=Workspace(root))
    with pytest.raises(ClipsentError, match="--run"):
        errors(workspace=Workspace(root))


def test_agreement_needs_weights_and_leaves_no_old_file(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="clipsent_nb")
    with_weights = errors(run=RUN, workspace=Workspace(root), output_dir=tmp_path / "out", report=False)
    assert set(with_weights.tables) == set(AXES) and (tmp_path / "out/error_analysis_agreement.png").is_file()
    posts = with_weights.posts
    same = (posts.text_prediction == posts.image_prediction).sum()
    counts = with_weights.tables["agreement"].set_index("bucket").total
    assert 0 < same < len(posts) and counts.to_dict() == {
        "same prediction": same,
        "different predictions": len(posts) - same,
    }
    assert "Agreement of text" not in caplog.text and "" not in [record.message for record in caplog.records]
    without = analyse(root, bad_cases(root), tmp_path)
    assert "Agreement of text and picture is left out" in caplog.text
    assert "agreement" not in without.tables and not list((tmp_path / "out").glob("*agreement*"))


def test_a_broken_picture_is_named(root, tmp_path):
    split = read_split(root / "outputs/splits/val.csv")
    split.loc[0, "image_path"] = "outputs/broken.jpg"
    (root / "outputs/broken.jpg").write_bytes(b"no picture")
    split.to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(ClipsentError, match="broken.jpg"):
        analyse(root, bad_cases(root), tmp_path, split_csv=tmp_path / "val.csv")


def test_a_photo_on_its_side_is_measured_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == (40, 60)


def test_traits_of_odd_texts():
    assert text_traits("")["script"] == "no letters" and text_traits("")["characters"] == 0
    assert text_traits("👨‍👩‍👧 family")["emoji"] == 1
    assert text_traits("see http://t.co/a#b #1 @one @two") | {"script": "Latin"} == text_traits(
        "see http://t.co/a#b #1 @one @two"
    )
    assert text_traits("@one, @two")["mentions"] == 2 and text_traits("http://t.co/a#b")["hashtags"] == 0
    assert script_of("naïve café") == "Latin"


def test_a_bucket_below_the_minimum_is_marked():
    buckets = pd.Series(["few"] * 3 + ["many"] * 30, dtype="category")
    table = count_errors(buckets, pd.Series([True] * 3 + [False] * 30), min_count=4).set_index("bucket")
    assert table.enough.to_dict() == {"few": False, "many": True}
    assert table.error_rate.to_dict() == {"few": 1, "many": 0}


def test_parts_of_a_bad_class_are_not_reported_again():
    random = np.random.default_rng(0)
    buckets = pd.DataFrame({name: random.choice(["x", "y", "z"], 3000) for name in "abc"}).astype("category")
    wrong = pd.Series(random.random(3000) < np.where(buckets.a == "x", 0.6, 0.2))
    found = find_slices(buckets, wrong, 30)
    assert found.slice[found.verdict == "worse"].tolist() == ["a = x"]
    posts = pd.DataFrame(
        {"label": "neutral", "pred_label": "neutral", "wrong": wrong, "group": wrong.index.astype(str)}
    )
    report = str(ErrorReport(posts, {"a": count_errors(buckets.a, wrong, 30)}, summarise_dimensions({}), found, Path()))
    assert re.search(r"^  a = x: \d+ of \d+ wrong, elsewhere [\d.]+%$", report, re.M)


def test_of_slices_with_the_same_posts_the_simplest_stays_and_none_covers_nearly_all():
    buckets = pd.DataFrame({"a": ["x"] * 40 + ["y"] * 40, "b": ["u"] * 40 + ["v"] * 40, "c": ["s"] * 78 + ["t"] * 2})
    found = make_slices(buckets.astype("category"), 10)
    assert list(found) == [(("a", "x"),), (("a", "y"),), (("a", "y"), ("c", "s"))]


def test_nothing_wrong_and_too_few_posts():
    buckets = pd.DataFrame({"a": ["x", "y"] * 30}).astype("category")
    assert (find_slices(buckets, pd.Series([False] * 60), 5).verdict == "not distinguishable").all()
    assert find_slices(buckets, pd.Series([True] * 60), 50).empty


def test_posts_that_cannot_be_read_any_more_are_left_out_and_named(root, tmp_path, caplog):
    copy = shutil.copytree(root, tmp_path / "copy")
    posts = read_split(copy / "outputs/splits/val.csv")
    lost, cut = (copy / path for path in posts.image_path[:2])
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-200])  # its header still tells the size
    for limits in ({"strict": True}, {"max_bad": "0%"}):
        with pytest.raises(ClipsentError, match=rf"the predicted posts: 2 of {len(posts)} posts cannot be used;"):
            errors(run=RUN, workspace=Workspace(copy, **limits), report=False)
    analysis = errors(run=RUN, workspace=Workspace(copy, max_bad="10%"), report=False)
    assert analysis.posts.guid.tolist() == posts.guid[2:].tolist()
    assert f"2 of {len(posts)} posts cannot be used" in caplog.text
    audit = pd.read_csv(copy / "outputs/audit.csv", dtype=str)
    assert set(posts.guid[:2]) <= set(audit.guid[audit.done == "row left out"])
    for path in posts.image_path[2:]:
        (copy / path).unlink()
    with pytest.raises(ClipsentError, match=rf"{len(posts)} of {len(posts)} posts cannot be used; .*; none is left; "):
        errors(run=RUN, workspace=Workspace(copy, max_bad="100%"), report=False)


def test_a_list_from_other_posts_than_those_of_the_split_is_refused(root, tmp_path):
    split = read_split(root / "outputs/splits/val.csv")
    bad = bad_cases(root).assign(split_digest=content_fingerprint(split))
    assert analyse(root, bad, tmp_path).posts.wrong.sum() == 3
    split.drop(index=len(split) - 1).to_csv(tmp_path / "fewer.csv", index=False)
    right = split.index[~split.guid.isin(bad.guid)][0]
    other = {"negative": "neutral", "neutral": "positive", "positive": "negative"}[split.label[right]]
    split.assign(label=split.label.where(split.index != right, other)).to_csv(tmp_path / "corrected.csv", index=False)
    for name in ("fewer.csv", "corrected.csv"):
        with pytest.raises(ClipsentError, match="mined from other posts"):
            analyse(root, bad, tmp_path, split_csv=tmp_path / name)


def test_a_changed_text_is_noticed_after_mining_and_after_a_run(root, tmp_path, caplog):
    split = read_split(root / "outputs/splits/val.csv")
    bad = bad_cases(root).assign(split_digest=content_fingerprint(split))
    path = root / split.text_path.iloc[-1]
    before = path.read_bytes()
    try:
        path.write_bytes(before + b" indeed")
        with pytest.raises(ClipsentError, match="changed since"):
            analyse(root, bad, tmp_path)
        caplog.clear()
        errors(run=RUN, workspace=Workspace(root), output_dir=tmp_path / "out", report=False)
        assert "text or picture of some posts changed" in caplog.text
    finally:
        path.write_bytes(before)


def test_a_post_called_na_stays_in_the_analysis(root, tmp_path):
    split = read_split(root / "outputs/splits/val.csv")
    split.loc[0, ["guid", "group"]] = "NA"
    split.to_csv(tmp_path / "na.csv", index=False)
    bad = bad_cases(root)
    bad.loc[0, "guid"] = "NA"
    analysis = analyse(root, bad, tmp_path, split_csv=tmp_path / "na.csv", min_count=5)
    assert "NA" in set(analysis.posts.guid)
    assert ErrorReport.load(tmp_path / "out", 5).posts.guid.tolist() == analysis.posts.guid.tolist()


def test_the_parts_of_a_bucket_that_are_copies_count_once():
    wrong, buckets = pd.Series([True, False] * 20), pd.Series(["x"] * 40, dtype="category")
    alone = count_errors(buckets, wrong, 1).iloc[0]
    copied = count_errors(buckets, wrong, 1, pd.Series(np.tile(range(2), 20) + 2 * np.repeat(range(5), 8))).iloc[0]
    assert (alone.total, alone.errors, copied.total, copied.errors) == (40, 20, 40, 20)
    assert (copied.drawn_posts, copied.drawn_errors) == (10, 5) and copied.high - copied.low > alone.high - alone.low


@pytest.mark.parametrize(
    ("columns", "remark"),
    [
        ({"source": "csv", "met": ["yes", "no"] * 3}, "LEAKED: the model was trained on 3 of these rows"),
        ({"source": "csv", "met": "unknown"}, "not known which posts the model was trained on"),
        ({"source": "val", "met": "no"}, "The epoch was chosen by these posts"),
        ({"source": "oof"}, "The epoch was chosen by these posts"),
        ({"source": "csv", "met": "no"}, "the rest only unsure.\n"),
        ({}, "the rest only unsure.\n"),
    ],
)
def test_what_lowers_the_rates_of_a_list_is_said(root, tmp_path, caplog, columns, remark):
    caplog.set_level(logging.INFO, logger="clipsent_nb")
    analyse(root, bad_cases(root).assign(**columns), tmp_path)
    assert remark in caplog.text


def test_the_rates_of_a_run_are_those_of_posts_that_chose_its_epoch(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="clipsent_nb")
    errors(RUN, output_dir=tmp_path, workspace=Workspace(root), report=False)
    assert "The epoch was chosen by these posts, so the rates may be a little low." in caplog.text


def test_two_buckets_are_told_apart_and_posts_keep_their_groups_whatever_their_index():
    assert difference_p(np.array([50, 50]), np.array([1, 30])) < 0.01
    wrong = pd.Series([True, False] * 20, index=range(100, 140))
    buckets = pd.Series(pd.Categorical(["a", "b"] * 20), index=wrong.index)
    copies = count_errors(buckets, wrong, 1, pd.Series(["one"] * 40, index=wrong.index))
    alone = count_errors(buckets, wrong, 1)
    assert copies.drawn_posts.tolist() == [1, 1] and alone.drawn_posts.tolist() == [20, 20]
