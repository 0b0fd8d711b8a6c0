"""Bad cases: what is refused, what is carried along, and that copies of validation posts are never mistaken for train."""

import logging
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsent_nb.augment import (
    REWRITES,
    augment_images,
    augment_text,
    clean_default,
    make_copy_rows,
    merge,
    rewrite_text,
)
from clipsent_nb.badcases import (
    describe_cases,
    find_conflicts,
    gallery,
    make_folds,
    mine,
    read_scored,
    score_labels,
    score_posts,
    take_settings,
)
from clipsent_nb.batches import Execution
from clipsent_nb.cli import parse
from clipsent_nb.config import TrainConfig
from clipsent_nb.copies import find_copies
from clipsent_nb.data import read_split
from clipsent_nb.decoding import open_image
from clipsent_nb.files import ClipsentError, Workspace, read_json, read_table, write_csv
from clipsent_nb.inputs import refresh_content
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit

CASES = Path("outputs/optimize/bad_cases.csv")


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_run):
    return fresh_run(tmp_path_factory.mktemp("badcases") / "sample")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="clipsent_nb")
    return caplog


def write_cases(root, posts, **columns):
    cases = posts.rename(columns={"label": "true_label"}).assign(pred_label="neutral", kind="model", **columns)
    write_csv(
        cases[
            [
                "guid",
                "true_label",
                "pred_label",
                *cases.columns.difference(["guid", "true_label", "pred_label"], sort=False),
            ]
        ],
        root / CASES,
    )


def make_copies(root):
    augment_images(workspace=Workspace(root))
    augment_text(workspace=Workspace(root))


def copies(root, **options):
    make_copies(root)
    return read_split(merge(workspace=Workspace(root), **options))


def new_rows(root, merged):
    return merged[~merged.guid.isin(read_split(root / "outputs/splits/train.csv").guid)]


@pytest.mark.parametrize("columns", ["all", "no group", "neither group nor digests"])
def test_copies_of_train_do_not_leak_and_copies_of_validation_do(root, columns):
    for split, leaked in (("train", False), ("val", True)):
        write_cases(root, read_split(root / f"outputs/splits/{split}.csv").head(6))
        merged = copies(root)
        dropped = {"all": [], "no group": ["group"]}.get(columns, list(merged.columns[4:]))
        write_csv(merged.drop(columns=dropped), root / "aug.csv")
        config = sample_config(root, epochs=1, train_csv=Path("aug.csv"), overwrite=True)
        run = fit(replace(config, output_dir=Path("outputs/optimize") / split))
        assert run.metrics["leaked"] is leaked


def test_merge_keeps_groups_labels_and_files(root, said):
    train, val = (read_split(root / f"outputs/splits/{name}.csv") for name in ("train", "val"))
    copied = next(group for _, group in train.groupby("group") if len(group) > 1)
    write_cases(root, pd.concat([copied, val.head(1)]))
    merged = copies(root)
    new = new_rows(root, merged)
    assert merged.head(len(train)).equals(train[list(merged)])
    assert new.guid.str.fullmatch(r".+_(ia|ta)\d+").all() and new.guid.is_unique
    sources = pd.concat([train, val]).set_index("guid").loc[new.guid.str.replace(r"_(ia|ta)\d+$", "", regex=True)]
    assert new.label.tolist() == sources.label.tolist() and new.group.tolist() == sources.group.tolist()
    assert all((root / path).is_file() for path in [*new.text_path, *new.image_path])
    assert f"guid {val.guid[0]}. If they validate, scores leak" in said.text


def test_posts_with_doubtful_labels_are_not_copied_unless_asked_for(root):
    posts = read_split(root / "outputs/splits/train.csv").head(3)
    write_cases(root, posts)
    write_csv(read_table(root / CASES).assign(kind=["label", "conflict", "model"]), root / CASES)
    make_copies(root)
    for skip, expected in ((True, {posts.guid[2]}), (False, set(posts.guid))):
        merged = read_split(merge(skip_suspect=skip, workspace=Workspace(root)))
        assert set(merged.guid[merged.guid.str.contains("_ia")].str.removesuffix("_ia1")) == expected


def test_copies_do_not_bring_back_a_label_that_was_corrected(root, said):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(3))
    make_copies(root)
    label = "negative" if train.label[0] != "negative" else "positive"
    write_csv(train.assign(label=train.label.mask(train.guid == train.guid[0], label)), root / "corrected.csv")
    merged = read_split(merge(Path("corrected.csv"), workspace=Workspace(root)))
    sources = set(new_rows(root, merged).group)
    assert sources == set(train.group[1:3]) and f"guid {train.guid[0]} changed since" in said.text


@pytest.mark.parametrize("column", ["text_path", "image_path"])
@pytest.mark.parametrize("moment", ["before the copies", "after the copies"])
def test_copies_of_a_text_or_picture_that_changed_since_are_left_out(root, tmp_path, said, column, moment):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(3))
    path = root / train[column][0]
    before = path.read_bytes()
    if moment == "after the copies":
        make_copies(root)
    try:
        path.write_bytes(before + (b" and more" if column == "text_path" else b"\0"))
        merged = copies(root) if moment == "before the copies" else read_split(merge(workspace=Workspace(root)))
    finally:
        path.write_bytes(before)
    assert (
        set(new_rows(root, merged).group) == set(train.group[1:3])
        and f"guid {train.guid[0]} changed since" in said.text
    )


def test_a_list_mined_out_of_fold_from_another_training_file_is_refused(root):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(3), source="oof")
    make_copies(root)
    write_csv(train[1:], root / "other.csv")
    with pytest.raises(ClipsentError, match=f"guid {train.guid[0]} .*another training file"):
        merge(Path("other.csv"), workspace=Workspace(root))


def test_a_second_round_numbers_its_copies_anew_and_adds_none_twice(root):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(2))
    first, again = copies(root), Path("outputs/optimize/second.csv")
    assert read_split(merge(CASES.with_name("train_aug.csv"), output_csv=again, workspace=Workspace(root))).equals(
        first
    )
    augment_images(seed=7, workspace=Workspace(root))
    second = read_split(merge(CASES.with_name("train_aug.csv"), output_csv=again, workspace=Workspace(root)))
    assert second.guid.str.extract(r"_(ia\d+)$")[0].value_counts().to_dict() == {"ia1": 2, "ia2": 2}


def test_a_list_without_bad_cases_adds_nothing(root):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(0))
    assert copies(root).equals(train)
    assert gallery(read_table(root / CASES), Workspace(root)).count("<img") == 0


def test_an_altered_picture_is_known_by_its_source_even_without_text_and_group(root):
    source = read_split(root / "outputs/splits/train.csv")
    source = source[source.image_hash != ""].head(1).assign(text_key="", group="")
    write_cases(root, source)
    table = read_table(augment_images(workspace=Workspace(root)))
    row = make_copy_rows(table, source, "ia", source, Workspace(root))
    assert row.image_digest.ne(source.image_digest).all()
    assert find_copies(source.assign(guid="other", group="other"), row).all()


def test_lists_of_other_programs_have_no_digests_and_are_taken_as_they_are(root):
    posts = read_split(root / "outputs/splits/train.csv").head(2)
    write_cases(root, posts)
    columns = ["guid", "true_label", "pred_label", "text_path", "image_path"]
    write_csv(read_table(root / CASES)[columns], root / CASES)
    merged = copies(root)
    assert set(new_rows(root, merged).group) == set(posts.group)


def test_paths_outside_the_data_root_are_absolute(root, tmp_path):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    project = tmp_path / "project"
    write_csv(read_table(root / CASES), project / CASES)
    write_csv(read_split(root / "outputs/splits/train.csv"), project / "outputs/splits/train.csv")
    where = {"workspace": Workspace(project, root)}
    augment_images(**where)
    augment_text(**where)
    new = read_split(merge(**where)).tail(1)
    assert Path(new.text_path.iloc[0]).is_absolute() and Path(new.text_path.iloc[0]).is_file()


def test_pictures_are_made_once_and_again_when_the_source_changes(root):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    options = {"output_dir": Path("outputs/once"), "num_aug": 2, "workspace": Workspace(root)}
    table = augment_images(**options)
    first = read_table(table)
    assert list(first)[:5] == ["guid", "true_label", "pred_label", "image_path", "source_image"]
    stamps = [(root / path).stat().st_mtime_ns for path in first.image_path]
    augment_images(**options)
    assert [(root / path).stat().st_mtime_ns for path in first.image_path] == stamps
    copy = root / first.image_path[0]
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    augment_images(**options)
    assert copy.read_bytes() == whole
    source = root / first.source_image[0]
    before = source.read_bytes()
    try:
        source.write_bytes(before + b"\0")
        write_csv(read_table(root / CASES).drop(columns="image_digest"), root / CASES)  # as if mined since
        augment_images(**options)
        assert set(read_table(table).image_path).isdisjoint(first.image_path)
    finally:
        source.write_bytes(before)
    assert not np.array_equal(*(np.asarray(open_image(root / path)) for path in first.image_path))


@given(st.text(alphabet=st.sampled_from("aAbo !.#@:)❤🙂é\n not the"), max_size=60), st.integers(0, 99))
def test_rewrites_differ_from_source_and_one_another(text, seed):
    found = rewrite_text(text, len(REWRITES), random.Random(seed))
    assert len({clean_default(one) for one in [text, *found]}) == len(found) + 1
    assert found == rewrite_text(text, len(REWRITES), random.Random(seed))


def test_word_dropout_keeps_negations_and_feelings():
    text = "this is not a good day and we will never be alone"
    for seed in range(20):
        words = REWRITES["drop_words"](text, random.Random(seed)).split()
        assert {"not", "good", "never", "alone", "day"} <= set(words) and len(words) < len(text.split())


def test_label_quality_finds_planted_labels_and_needs_every_class():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 300)
    probabilities = np.eye(3)[truth] * 0.9 + 0.1 / 3
    given_labels = truth.copy()
    given_labels[:30] = (truth[:30] + 1) % 3
    quality, suspect = score_labels(given_labels, probabilities)
    assert set(np.flatnonzero(suspect)) <= set(range(30)) and suspect.sum() > 25
    assert quality[:30].max() < quality[30:].min()
    with pytest.raises(ClipsentError, match="positive"):
        score_labels(np.minimum(truth, 1), probabilities)


def test_a_label_that_one_in_ten_such_posts_would_have_is_not_called_wrong():
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet([0.4, 0.4, 0.4], 2000)
    labels = np.array([draw.choice(3, p=row) for row in probabilities])  # so the probabilities are right
    quality, suspect = score_labels(labels, probabilities)
    assert 0.05 < quality[suspect].max() < 0.1


def toy_scores(groups, **columns):
    guids = [str(number) for number in range(6)]
    posts = pd.DataFrame({"guid": guids, "text_path": "t", "image_path": "i"})
    posts["label"] = ["negative", "neutral", "positive"] * 2
    posts["group"] = groups
    probabilities = np.eye(3)[[0, 1, 2, 0, 1, 2]] * 0.8 + 0.2 / 3
    probabilities[3] = [0.3, 0.6, 0.1]  # wrong, but the label is not unlikely
    probabilities[5] = [0.3, 0.3, 0.4]
    names = [f"p_{label}" for label in ("negative", "neutral", "positive")]
    table = pd.DataFrame(probabilities, columns=names).assign(guid=guids, confidence=probabilities.max(axis=1))
    table["pred_label"] = np.take(("negative", "neutral", "positive"), probabilities.argmax(axis=1))
    return posts, score_posts(posts, table.assign(**columns), "csv", 0.5).set_index("guid", drop=False)


def test_kinds_and_reasons():
    posts, table = toy_scores(["0", "0", "2", "3", "4", "5"])
    assert table.reason[posts.guid].tolist() == ["", "", "", "wrong", "", "low_conf"]
    assert table.kind[posts.guid].tolist() == ["", "", "", "model", "", "unsure"]
    assert find_conflicts(posts).tolist() == ["1", "0", "", "", "", ""]
    assert find_conflicts(posts[::-1]).equals(find_conflicts(posts)[::-1])


def test_the_interval_of_the_error_rate_counts_copies_once():
    alone, copied = (toy_scores(list(groups))[1] for groups in ("012345", "000345"))
    widths = []
    for table in (alone, copied):
        low, high = (float(part) for part in describe_cases(table).split("interval ")[1].split("%)")[0].split("% to "))
        widths.append(high - low)
        assert "was trained on" not in describe_cases(table) and "without those" not in describe_cases(table)
    assert widths[1] > widths[0] + 5


def test_settings_come_from_the_weights(root):
    asked = sample_config(root, lr=0.5, batch_size=16, output_dir=Path("outputs/elsewhere"))
    config, overruled = take_settings(root / "outputs/optimize/clip", asked)
    assert config.epochs == 1 and config.lr == sample_config(root).lr and config.output_dir == asked.output_dir
    assert overruled == ["--epochs", "--batch-size", "--lr"]


def test_a_setting_that_was_typed_is_named_as_unused_even_if_it_is_the_default(root):
    config = parse("mine", ["--project-root", str(root), "--epochs", str(TrainConfig().epochs)]).keywords["config"]
    assert take_settings(root / "outputs/optimize/clip", config)[1] == ["--epochs"]


def test_settings_of_training_are_named_as_unused_where_a_run_predicts(root, said):
    options = dict(weights=Path("outputs/optimize/clip"), output_csv=Path("out/unused.csv"), report=False)
    mine(sample_config(root, lr=0.5, batch_size=16, model_name="elsewhere"), "val", **options)
    assert "not used, since outputs/optimize/clip predicts: --epochs, --lr\n" in said.text
    assert "--model-name elsewhere is not used, since" in said.text
    said.clear()
    config = sample_config(root, epochs=1)
    mine(config, "val", **options)
    mine(replace(config, explain_errors=0), "val", **options)  # a copy repeats what the first one was given
    assert "not used" not in said.text
    mine(replace(config, train_csv=Path("none.csv")), "val", **options)
    assert "not used, since the posts are those of" in said.text and "val.csv: --train-csv\n" in said.text


def test_mining_given_posts_and_escaping_them(root):
    posts = read_split(root / "outputs/splits/val.csv")
    (root / "data/evil.txt").write_text("<script>alert(1)</script>", encoding="utf-8")
    posts.loc[0, "text_path"] = "data/evil.txt"
    write_csv(posts, root / "some.csv")
    options = dict(weights=Path("outputs/optimize/clip"), csv=Path("some.csv"), output_csv=Path("out/some_bad.csv"))
    mined = mine(sample_config(root), min_confidence=1, report=False, **options)
    assert set(mined.scored.source) == {"csv"} and len(mined.cases) == len(posts)
    assert set(mined.scored.met) == {"no"} and "error rate" in str(mined)
    assert (root / "out/some_bad/scored.csv").is_file() and str(root) in str(mined)
    page = gallery(mined.cases[mined.cases.text_path == "data/evil.txt"], Workspace(root))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_model_asked_about_its_training_posts_says_so_whatever_they_are_called(root):
    train = read_split(root / "outputs/splits/train.csv")[["guid", "text_path", "image_path", "label"]]
    renamed = train.head(40).assign(guid=[f"new {number}" for number in range(40)])
    val = read_split(root / "outputs/splits/val.csv")[list(train)]
    options = dict(weights=Path("outputs/optimize/clip"), csv=Path("asked.csv"), report=False)
    write_csv(renamed, root / "asked.csv")
    mined = mine(sample_config(root), output_csv=Path("out/met.csv"), **options)
    assert set(mined.scored.met) == {"yes"} and "trained on 40 of them" in str(mined) and "error rate" not in str(mined)
    write_csv(pd.concat([renamed, val]), root / "asked.csv")
    mined = mine(sample_config(root), output_csv=Path("out/met.csv"), **options)
    assert (mined.scored.met == "no").sum() == len(val) and "without those" in str(mined)
    known = root / "outputs/optimize/clip/train_posts.csv"
    known.rename(root / "apart.csv")
    try:
        assert "not known which posts" in str(mine(sample_config(root), output_csv=Path("out/met.csv"), **options))
    finally:
        (root / "apart.csv").rename(known)


def test_a_post_called_na_is_mined_like_any_other(root):
    posts = read_split(root / "outputs/splits/val.csv")
    posts.loc[0, ["guid", "group"]] = "NA"
    write_csv(posts, root / "na.csv")
    options = dict(weights=Path("outputs/optimize/clip"), csv=Path("na.csv"), output_csv=Path("out/na.csv"))
    mined = mine(sample_config(root), min_confidence=1, report=False, **options)
    scored = read_scored(root / "out/na/scored.csv")
    assert "NA" in set(scored.guid) and scored.margin.dtype == float
    augment_images(Path("out/na.csv"), workspace=Workspace(root))
    assert (
        "NA"
        in set(read_table(augment_text(Path("out/na.csv"), workspace=Workspace(root))).guid)
        <= set(mined.cases.guid)
    )


def test_out_of_fold_says_what_its_error_rate_is(root):
    config = sample_config(root, epochs=2, output_dir=Path("outputs/folds"))
    posts = refresh_content(read_split(root / "outputs/splits/train.csv"), config)
    for fold in make_folds(posts, config, 2):
        fit(fold)
    plan = mine(config, folds=2, execution=Execution(dry_run=True))
    assert "2 runs" in plan and not (root / "outputs/folds/cells.json").exists()
    mined = mine(config, folds=2, output_csv=Path("out/oof.csv"), report=False)
    assert sorted(mined.scored.guid) == sorted(posts.guid) and mined.scored.cross_fitted.isin(posts.label).all()
    assert "the epoch was chosen by these posts" in str(mined) and mined.scored.split_digest.nunique() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="true_label"), "no column true_label"),
        (lambda table: table.assign(true_label="glad"), "unknown label 'glad'"),
        (lambda table: table.assign(image_path="data/none.jpg"), "data/none.jpg: no such image"),
        (lambda table: table.assign(text_path="data/none.txt"), "data/none.txt: no such text"),
    ],
)
def test_unusable_tables_are_refused(root, change, message):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    write_csv(change(read_table(root / CASES)), root / CASES)
    augment = augment_text if "text" in message else augment_images
    with pytest.raises(ClipsentError, match=message):
        augment(workspace=Workspace(root))


def test_copies_of_other_bad_cases_are_refused(root):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(2))
    copies(root)
    write_cases(root, train.tail(2))
    with pytest.raises(ClipsentError, match=f"{train.guid[0]}.*not among the bad cases"):
        merge(workspace=Workspace(root))
    with pytest.raises(ClipsentError, match="would replace an input file"):
        merge(output_csv=Path("outputs/splits/train.csv"), workspace=Workspace(root))


@pytest.mark.slow
def test_the_report_draws_what_the_surest_errors_rest_on(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    config = sample_config(Path(root.name), explain_errors=1)
    mined = mine(config, "val", weights=Path("outputs/optimize/clip"), output_csv=Path("out/explained.csv"))
    [*_, last] = read_json(mined.report.with_suffix(".ipynb"))["cells"]
    pictures = [output for output in last["outputs"] if "image/png" in output.get("data", {})]
    wrong = mined.scored[
        mined.scored.kind.isin(["model", "unsure"]) & (mined.scored.pred_label != mined.scored.true_label)
    ]
    assert len(pictures) == min(1, len(wrong))
