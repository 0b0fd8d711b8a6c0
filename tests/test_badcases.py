"""Bad cases: what is refused, what is carried along, and that copies of validation posts are never mistaken for train."""

import builtins
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsent_nb import badcases
from clipsent_nb.badcases import (
    REWRITES,
    as_read,
    augment_images,
    augment_text,
    conflicts,
    gallery,
    label_scores,
    merge,
    mine,
    rewrites_of,
    score_posts,
    with_settings_of,
)
from clipsent_nb.data import read_split
from clipsent_nb.decoding import open_image
from clipsent_nb.files import ClipsentError, write_csv
from clipsent_nb.train import fit, sample_config, sample_run

CASES = Path("outputs/optimize/bad_cases.csv")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("badcases") / "sample"
    sample_run(root, epochs=1)
    return root


def write_cases(root, posts):
    cases = posts.rename(columns={"label": "true_label"}).assign(pred_label="neutral", kind="model")
    write_csv(cases, root / CASES)


def copies(root, **options):
    augment_images(project_root=root, progress=False)
    augment_text(project_root=root, progress=False)
    return read_split(merge(project_root=root, progress=False, **options))


def test_copies_of_train_do_not_leak_and_copies_of_validation_do(root, capsys):
    for split, leaked in (("train", False), ("val", True)):
        write_cases(root, read_split(root / f"outputs/splits/{split}.csv").head(6))
        copies(root)
        config = sample_config(root, epochs=1, train_csv=Path("outputs/optimize/train_aug.csv"))
        run = fit(replace(config, output_dir=Path("outputs/optimize") / split), progress=False)
        assert run.metrics["leaked"] is leaked


def test_merge_keeps_groups_labels_and_files(root, capsys):
    train, val = (read_split(root / f"outputs/splits/{name}.csv") for name in ("train", "val"))
    copied = next(group for _, group in train.groupby("group") if len(group) > 1)
    write_cases(root, pd.concat([copied, val.head(1)]))
    merged = copies(root)
    new = merged[~merged.guid.isin(train.guid)]
    assert merged.head(len(train)).equals(train[list(merged)])
    assert new.guid.str.fullmatch(r".+_(ia|ta)\d+").all() and new.guid.is_unique
    sources = pd.concat([train, val]).set_index("guid").loc[new.guid.str.replace(r"_(ia|ta)\d+$", "", regex=True)]
    assert new.label.tolist() == sources.label.tolist() and new.group.tolist() == sources.group.tolist()
    assert all((root / path).is_file() for path in [*new.text_path, *new.image_path])
    merge(project_root=root)
    assert f"guid {val.guid[0]}" in capsys.readouterr().out


def test_posts_with_doubtful_labels_are_not_copied_unless_asked_for(root):
    posts = read_split(root / "outputs/splits/train.csv").head(3)
    write_cases(root, posts)
    cases = pd.read_csv(root / CASES, dtype=str)
    write_csv(cases.assign(kind=["label", "conflict", "model"]), root / CASES)
    augment_images(project_root=root, progress=False)
    augment_text(project_root=root, progress=False)
    for skip, expected in ((True, {posts.guid[2]}), (False, set(posts.guid))):
        merged = read_split(merge(project_root=root, skip_suspect=skip, progress=False))
        assert set(merged.guid[merged.guid.str.contains("_ia")].str.removesuffix("_ia1")) == expected


def test_paths_outside_the_data_root_are_absolute(root, tmp_path):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    project = tmp_path / "project"
    write_csv(pd.read_csv(root / CASES, dtype=str), project / CASES)
    write_csv(read_split(root / "outputs/splits/train.csv"), project / "outputs/splits/train.csv")
    where = {"project_root": project, "data_root": root, "progress": False}
    augment_images(**where)
    augment_text(**where)
    new = read_split(merge(**where)).tail(1)
    assert Path(new.text_path.iloc[0]).is_absolute() and Path(new.text_path.iloc[0]).is_file()


def test_pictures_are_made_once_and_again_when_the_source_changes(root):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    table = augment_images(project_root=root, output_dir=Path("outputs/once"), num_aug=2, progress=False)
    first = pd.read_csv(table, dtype=str)
    assert list(first) == ["guid", "true_label", "pred_label", "image_path", "source_image"]
    stamps = [(root / path).stat().st_mtime_ns for path in first.image_path]
    augment_images(project_root=root, output_dir=Path("outputs/once"), num_aug=2, progress=False)
    assert [(root / path).stat().st_mtime_ns for path in first.image_path] == stamps
    source = root / first.source_image[0]
    before = source.read_bytes()
    try:
        source.write_bytes(before + b"\0")
        augment_images(project_root=root, output_dir=Path("outputs/once"), num_aug=2, progress=False)
        assert set(pd.read_csv(table, dtype=str).image_path).isdisjoint(first.image_path)
    finally:
        source.write_bytes(before)
    assert not np.array_equal(*(np.asarray(open_image(root / path)) for path in first.image_path))


@given(st.text(alphabet=st.sampled_from("aAbo !.#@:)❤🙂é\n not the"), max_size=60), st.integers(0, 99))
def test_rewrites_differ_from_source_and_one_another(text, seed):
    found = rewrites_of(text, len(REWRITES), random.Random(seed))
    assert len({as_read(one) for one in [text, *found]}) == len(found) + 1
    assert found == rewrites_of(text, len(REWRITES), random.Random(seed))


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
    quality, suspect = label_scores(given_labels, probabilities)
    assert set(np.flatnonzero(suspect)) <= set(range(30)) and suspect.sum() > 25
    assert quality[:30].max() < quality[30:].min()
    with pytest.raises(ClipsentError, match="positive"):
        label_scores(np.minimum(truth, 1), probabilities)


def test_kinds_and_reasons():
    guids = [str(number) for number in range(6)]
    posts = pd.DataFrame({"guid": guids, "text_path": "t", "image_path": "i"})
    posts["label"] = ["negative", "neutral", "positive"] * 2
    posts["group"] = ["0", "0", "2", "3", "4", "5"]
    probabilities = np.eye(3)[[0, 1, 2, 0, 1, 2]] * 0.8 + 0.2 / 3
    probabilities[3] = [0.3, 0.6, 0.1]  # wrong, but the label is not unlikely
    probabilities[5] = [0.3, 0.3, 0.4]
    names = [f"p_{label}" for label in ("negative", "neutral", "positive")]
    answers = pd.DataFrame(probabilities, columns=names).assign(guid=guids, confidence=probabilities.max(axis=1))
    answers["pred_label"] = np.take(("negative", "neutral", "positive"), probabilities.argmax(axis=1))
    table = score_posts(posts, answers, "oof", 0.5).set_index("guid")
    assert table.reason[guids].tolist() == ["", "", "", "wrong", "", "low_conf"]
    assert table.kind[guids].tolist() == ["", "", "", "model", "", "unsure"]
    assert conflicts(posts).tolist() == ["1", "0", "", "", "", ""]


def test_settings_come_from_the_weights(root):
    asked = sample_config(root, lr=0.5, batch_size=16, output_dir=Path("outputs/elsewhere"))
    config, overruled = with_settings_of(root / "outputs/optimize/clip", asked)
    assert config.epochs == 1 and config.lr == sample_config(root).lr and config.output_dir == asked.output_dir
    assert overruled == ["--epochs", "--batch-size", "--lr"]


def test_mining_given_posts_and_escaping_them(root):
    posts = read_split(root / "outputs/splits/val.csv")
    (root / "data/evil.txt").write_text("<script>alert(1)</script>", encoding="utf-8")
    posts.loc[0, "text_path"] = "data/evil.txt"
    write_csv(posts, root / "some.csv")
    options = dict(weights=Path("outputs/optimize/clip"), csv=Path("some.csv"), output_csv=Path("out/some_bad.csv"))
    mined = mine(sample_config(root), min_confidence=1, report=False, progress=False, **options)
    assert set(mined.scored.source) == {"csv"} and len(mined.cases) == len(posts)
    assert (root / "out/some_bad/scored.csv").is_file() and str(root) in str(mined)
    page = gallery(mined.cases[mined.cases.text_path == "data/evil.txt"], root)
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="true_label"), "no column true_label"),
        (lambda table: table.assign(true_label="glad"), "unknown label 'glad'"),
        (lambda table: table.assign(image_path="data/none.jpg"), "no picture for guid"),
        (lambda table: table.assign(text_path="data/none.txt"), "1 text: cannot be used"),
    ],
)
def test_unusable_tables_are_refused(root, change, message):
    write_cases(root, read_split(root / "outputs/splits/train.csv").head(1))
    write_csv(change(pd.read_csv(root / CASES, dtype=str)), root / CASES)
    augment = augment_text if "text" in message else augment_images
    with pytest.raises(ClipsentError, match=message):
        augment(project_root=root, progress=False)


def test_copies_of_other_bad_cases_are_refused(root):
    train = read_split(root / "outputs/splits/train.csv")
    write_cases(root, train.head(2))
    copies(root)
    write_cases(root, train.tail(2))
    with pytest.raises(ClipsentError, match=f"{train.guid[0]}.*not among the bad cases"):
        merge(project_root=root, progress=False)
    with pytest.raises(ClipsentError, match="would replace the training file"):
        merge(project_root=root, output_csv=Path("outputs/splits/train.csv"), progress=False)


def test_without_cleanlab_the_extra_is_named_before_any_work(root, monkeypatch):
    usual = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(badcases, "run_many", lambda *arguments: pytest.fail("work was begun"))
    with pytest.raises(ClipsentError, match=r"clipsent_nb\[badcases\]"):
        mine(sample_config(root), progress=False)
