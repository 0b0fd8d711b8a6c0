"""Splits of awkward folders, and promises that hold for any groups."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsent_nb.data import LABELS, assign_parts, class_quotas, make_splits, read_list, read_split
from clipsent_nb.decoding import open_image
from clipsent_nb.files import ClipsentError


def write_posts(root: Path, rows: list[tuple[str, str]], test: list[str] = ()) -> Path:
    (root / "data").mkdir(parents=True)
    for guid in [guid for guid, _ in rows] + list(test):
        colours = np.random.default_rng(abs(hash(guid)) % 2**32).integers(0, 255, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((40, 40)).save(root / f"data/{guid}.jpg")
        (root / f"data/{guid}.txt").write_text(f"a text that only post number {guid} has", encoding="utf-8")
    (root / "train.txt").write_text("guid,tag\n" + "".join(f"{guid},{tag}\n" for guid, tag in rows), encoding="utf-8")
    (root / "test_without_label.txt").write_text("guid,tag\n" + "".join(f"{guid},null\n" for guid in test))
    return root


def forty() -> list[tuple[str, str]]:
    return [(str(number), LABELS[number % 3]) for number in range(40)]


groups_and_labels = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(LABELS)), min_size=1, max_size=120)


@settings(max_examples=200)
@given(groups_and_labels, st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 1000))
def test_parts_are_a_partition_without_straddling_groups(rows, weights, seed):
    groups, labels = [str(group) for group, _ in rows], [label for _, label in rows]
    shares = np.array(weights) / sum(weights)
    parts = assign_parts(labels, groups, shares, seed)
    assert len(parts) == len(rows) and set(parts) <= set(range(len(shares)))
    assert pd.Series(parts).groupby(groups).nunique().max() == 1


@settings(max_examples=200)
@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=120), st.integers(2, 6), st.integers(0, 1000))
def test_without_groups_class_shares_are_within_one_row(labels, parts_count, seed):
    shares = [1 / parts_count] * parts_count
    parts = assign_parts(labels, [str(i) for i in range(len(labels))], shares, seed)
    for label in LABELS:
        found = np.bincount(parts[np.array(labels) == label], minlength=parts_count)
        assert np.abs(found - labels.count(label) / parts_count).max() <= 1


@given(st.lists(st.integers(0, 500), min_size=3, max_size=3), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_quotas_use_every_row(counts, weights):
    shares = np.array(weights) / sum(weights)
    quotas = class_quotas(np.array(counts), shares)
    assert quotas.min() >= 0
    assert quotas.sum(axis=0).tolist() == counts
    assert np.abs(quotas.sum(axis=1) - shares * sum(counts)).max() <= 1


def test_labels_with_trouble_are_audited(tmp_path):
    rows = [*forty(), ("3", "neutral"), ("4", LABELS[4 % 3]), ("50", "joyful")]
    root = write_posts(tmp_path / "posts", rows)
    with pytest.raises(ClipsentError, match="3 of 42 posts .*--max-bad 1% allows 0; nothing was started.*--max-bad 8%"):
        make_splits(root, progress=False)
    assert not (root / "outputs/splits").exists() and len(pd.read_csv(root / "outputs/audit.csv")) == 4
    report = make_splits(root, max_bad="8%", progress=False)
    problems = report.audit.groupby("guid").problem.first()
    assert problems["4"] == "listed twice" and problems["50"] == "unknown tag 'joyful'"
    assert ("3" in problems) == (LABELS[0] != "neutral")
    assert report.classes["all"].sum() == 39


def test_a_folder_without_test_list_is_fine(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "test_without_label.txt").unlink()
    report = make_splits(root, progress=False)
    assert report.classes.loc["test", "all"] == 0
    assert "0 groups over 0 posts; 0 with conflicting labels, 0 across" in str(report)


def test_path_with_blanks_and_accents(tmp_path):
    root = write_posts(tmp_path / "Übung drei", forty(), test=["100"])
    make_splits(root, progress=False)
    assert len(read_split(root / "outputs/splits/test.csv")) == 1


def test_nothing_usable_is_one_error(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    for path in (root / "data").glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ClipsentError, match="none of its posts can be used"):
        make_splits(root, progress=False)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_our_error(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_bytes(raw)
    try:
        assert len(read_list(path))
    except ClipsentError as error:
        assert "list.txt" in str(error)


@pytest.mark.parametrize("content", [b"", b"guid,text_path\n", b"\xff\xfe\x00", b'guid,"text\n1,2,3\n'])
def test_broken_split_file_is_our_error(tmp_path, content):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ClipsentError, match="train.csv"):
        read_split(tmp_path / "train.csv")


def test_folds_of_an_earlier_call_are_gone(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    make_splits(root, folds=5, progress=False)
    make_splits(root, folds=3, seed=1, progress=False)
    assert sorted(path.name for path in (root / "outputs/splits").glob("fold_*")) == ["fold_0", "fold_1", "fold_2"]
    make_splits(root, progress=False)
    assert not list((root / "outputs/splits").glob("fold_*"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(2, 60))
def test_any_exif_block_leaves_the_pixels(raw, place):
    image = Image.new("RGB", (8, 4), "teal")
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    image.save(buffer, "JPEG", exif=block[:place] + raw + block[place:])
    assert sorted(open_image(buffer).size) == [4, 8]
