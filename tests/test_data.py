"""Splits of awkward folders, and promises that hold for any groups."""

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from clipsent_nb.copies import MOST_BITS, MOST_PICTURES, find_copies
from clipsent_nb.data import SPLIT_COLUMNS, assign_parts, class_quotas, make_splits, read_split, with_content
from clipsent_nb.decoding import decode_text, guess_encodings, open_image, read_text
from clipsent_nb.files import ClipsentError, Workspace, read_table
from clipsent_nb.labels import LABELS
from clipsent_nb.posts import Problem, files_by_guid, post_file, read_list, settle_problems


def write_posts(root: Path, rows: list[tuple[str, str]], test: list[str] = ()) -> Path:
    (root / "data").mkdir(parents=True)
    for guid in [guid for guid, _ in rows] + list(test):
        colours = np.random.default_rng(list(guid.encode())).integers(0, 255, (5, 5, 3)).astype(np.uint8)
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
    assert np.abs(quotas.sum(axis=1) - shares * sum(counts)).max() <= max(
        1, len(weights) / 2
    )  # what is rounded adds up


def test_labels_with_trouble_are_audited(tmp_path):
    rows = [*forty(), ("3", "neutral"), ("4", LABELS[4 % 3]), ("50", "joyful")]
    root = write_posts(tmp_path / "posts", rows)
    with pytest.raises(ClipsentError, match="2 of 41 posts .*--max-bad 1% allows 0; nothing was started.*--max-bad 5%"):
        make_splits(Workspace(root))
    assert not (root / "outputs/splits").exists() and len(pd.read_csv(root / "outputs/audit.csv")) == 4
    report = make_splits(Workspace(root, max_bad="5%"))
    problems = report.audit.groupby("guid").problem.first()
    assert (
        problems["4"] == "listed twice" and problems["50"] == "unknown tag 'joyful'; write negative, neutral, positive"
    )
    assert ("3" in problems) == (LABELS[0] != "neutral")
    assert report.classes["all"].sum() == 39


def test_a_post_counts_once_whatever_is_wrong_with_it(tmp_path):
    root = write_posts(tmp_path / "posts", [(str(number), LABELS[number % 3]) for number in range(100)])
    for suffix in ("txt", "jpg"):
        (root / f"data/7.{suffix}").unlink()
    report = make_splits(Workspace(root))  # 1 of 100, as 1% allows
    assert report.classes["all"].sum() == 99 and report.audit.guid.tolist() == ["7", "7"]


def test_a_post_with_a_known_and_an_unknown_tag_is_left_out_as_the_count_says(tmp_path, caplog):
    root = write_posts(tmp_path / "posts", forty())
    with open(root / "train.txt", "a") as file:
        file.write("1,joyful\n")
    report = make_splits(Workspace(root, max_bad="3%"))
    assert "1 of 40 posts cannot be used" in caplog.text and len(report.posts) == 39


@pytest.mark.parametrize("bad", [1, 7, 29, 57, 58])
def test_a_limit_in_percent_is_exact(tmp_path, bad):
    problems = [Problem(str(guid), f"data/{guid}.jpg", "no image") for guid in range(bad)]
    settle_problems(problems, 100, "train.csv", Workspace(tmp_path, max_bad=f"{bad}%"))
    with pytest.raises(ClipsentError, match=f"{bad} of 100 posts .* allows {bad - 1}; .* --max-bad {bad}%"):
        settle_problems(problems, 100, "train.csv", Workspace(tmp_path, max_bad=f"{bad - 1}%"))


def test_problems_of_two_commands_are_in_one_audit_and_each_once(tmp_path):
    workspace = Workspace(tmp_path)
    first, second = Problem("1", "data/1.txt", "empty text", "kept"), Problem("2", "data/2.txt", "no text of this name")
    settle_problems([first], 200, "a", workspace)
    settle_problems([first, second], 200, "b", workspace)
    assert read_table(workspace.audit_csv).guid.tolist() == ["1", "2"]


def test_a_guid_that_other_programs_take_for_missing_is_a_guid(tmp_path):
    root = write_posts(tmp_path / "posts", [*forty(), ("NA", "neutral"), ("null", "neutral"), ("007", "positive")])
    make_splits(Workspace(root))
    splits = pd.concat([read_split(root / f"outputs/splits/{name}.csv") for name in ("train", "val")])
    assert {"NA", "null", "007"} <= set(splits.guid) & set(splits.group)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("positive", "1", "tags are numbers (1) and words (negative, neutral)"),
        ("39,negative", "39,1", "unknown tag '1'; write negative, neutral, positive"),
        (
            "positive",
            '"positive,neutral"',
            "two tags, 'positive,neutral'; make them one of negative, neutral, positive",
        ),
        ("39,negative", "39,4.0", "unknown tag '4'; write negative, neutral, positive"),
        ("39,negative", "39,긍정", "unknown tag '긍정'; write negative, neutral, positive"),
        ("39,negative", "39,😀", "unknown tag '😀'; write negative, neutral, positive"),
        ("39,negative", "39,neutral/positive", "two tags, 'neutral/positive'; make them one of negative"),
        ("2,", "2.jpg,", "data/2.jpg.txt: no text of this name, but one of 2; leave the ending out"),
        ("2,", "02,", "data/02.txt: no text of this name, but one of 2: a program"),
        ("2,", "2.0,", "data/2.0.txt: no text of this name, but one of 2: a program made a number of the guid"),
    ],
)
def test_a_list_of_another_tool_is_refused_with_what_is_expected(tmp_path, old, new, what):
    root = write_posts(tmp_path / "posts", forty())
    (root / "train.txt").write_text((root / "train.txt").read_text().replace(old, new), encoding="utf-8")
    with pytest.raises(ClipsentError, match=re.escape(what)):
        make_splits(Workspace(root))


def test_a_list_is_read_in_the_encoding_that_was_named(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "train.txt").write_bytes((root / "train.txt").read_text().encode("utf-16-le"))
    with pytest.raises(ClipsentError, match="train.txt: holds null bytes.*--encoding utf-16-le"):
        make_splits(Workspace(root))
    assert len(make_splits(Workspace(root), encoding="utf-16-le").posts) == 40


@pytest.mark.parametrize("end", [",", ",5"])
def test_a_row_with_more_cells_than_the_first_line_moves_no_cell_to_another_column(tmp_path, end):
    (tmp_path / "v.csv").write_text(f"guid,text_path,image_path,label\n1,a,b,positive{end}\n")
    with pytest.raises(ClipsentError, match="v.csv: not a CSV file .Length of header"):
        read_split(tmp_path / "v.csv")


def test_more_folds_than_posts_are_refused(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    with pytest.raises(ClipsentError, match="--folds 37: more than the 36 posts that are no copies; cut into fewer"):
        make_splits(Workspace(root), folds=37)
    assert not (root / "outputs/splits").exists()


def test_posts_that_are_all_copies_are_named(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    for guid, _ in forty():
        (root / f"data/{guid}.jpg").write_bytes((root / "data/0.jpg").read_bytes())
    with pytest.raises(ClipsentError, match="of 40; 40 of them are copies of guid 0, 'a text that only post number 0"):
        make_splits(Workspace(root))


def test_a_text_that_many_pictures_share_makes_no_copies(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    for guid, _ in forty()[: MOST_PICTURES + 1]:
        (root / f"data/{guid}.txt").write_text("I posted a new photo to Facebook http://t.co/abc")
    report = make_splits(Workspace(root))
    assert report.duplicates.empty and "16 different pictures have this text: 'I posted" in report.audit.problem[0]
    (root / "data/0.txt").write_text("another text")
    assert make_splits(Workspace(root)).duplicates.posts.tolist() == [MOST_PICTURES]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "cp1252"])
def test_a_folder_in_one_encoding_is_read_as_it_was_written_and_again_from_the_split_file(tmp_path, encoding):
    root = write_posts(tmp_path / "posts", forty())
    texts = ["It’s great, don’t miss post {}", "the café of Zürich, post {}", "señor – “no” {}", "é{}", "naïve {}"]
    texts = {guid: texts[number % len(texts)].format(guid) for number, (guid, _) in enumerate(forty())}
    for guid, text in texts.items():
        (root / f"data/{guid}.txt").write_bytes(text.encode(encoding))
    report = make_splits(Workspace(root))
    assert set(report.posts.encoding) == {encoding}
    for row in read_split(root / "outputs/splits/train.csv").itertuples():
        assert read_text(root / row.text_path, row.encoding) == (texts[row.guid], encoding)


def test_a_text_that_is_unclear_is_read_like_the_others_of_its_folder():
    clear, unclear = "It’s".encode("cp1252"), "囧".encode("gb18030")
    assert guess_encodings([unclear]) == ["gb18030"]
    assert guess_encodings([clear, unclear, b"plain"]) == ["cp1252", "cp1252", ""]


def test_a_named_encoding_is_used_for_what_is_not_utf_8_and_a_wrong_guess_is_audited(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/1.txt").write_bytes("Привет, как дела".encode("cp1251"))
    assert make_splits(Workspace(root)).audit.problem.tolist() == ["unusual characters, read as cp1252"]
    report = make_splits(Workspace(root), encoding="cp1251")
    assert report.audit.empty and report.posts.set_index("guid").start["1"] == "Привет, как дела"
    assert read_text(root / "data/1.txt", report.posts.set_index("guid").encoding["1"])[0] == "Привет, как дела"
    with pytest.raises(ClipsentError, match="1 of 40 posts .*data/1.txt: not utf-8; save"):
        make_splits(Workspace(root), encoding="utf-8")
    with pytest.raises(ClipsentError, match="--encoding klingon: no such encoding"):
        make_splits(Workspace(root), encoding="klingon")


@pytest.mark.parametrize(
    "text, encoding",
    [("Größe", "cp1252"), ("créée", "cp1252"), ("iPhone和iPad", "gb18030"), ("好 ok", "gb18030")],
)
def test_a_chinese_sign_alone_between_letters_is_rather_a_pair_of_accents(text, encoding):
    assert decode_text(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize("end", [1, 2, 3])
def test_utf_8_that_was_cut_in_a_character_stays_utf_8_and_is_named(tmp_path, end):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/1.txt").write_bytes("“what a day” 😀".encode()[:-end])
    report = make_splits(Workspace(root))
    assert report.posts.set_index("guid").start["1"] == "“what a day”"
    assert report.audit.problem.tolist() == ["the last character lacks bytes"]


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("It’s a café", "mac_roman"),
        ("이 영화는 진짜 재미있어요, 꼭 다시 보고 싶은 작품입니다", "euc_kr"),
        ("今日は楽しい", "iso2022_jp"),
        ("Zażółć gęślą jaźń", "cp1250"),
        ("悲しい。もう二度と来ません", "euc_jp"),
        ("コーヒー", "euc_jp"),
        ("생일 축하해요!", "euc_kr"),
        ("วันนี้อากาศดีมาก", "tis_620"),
        ("อร่อย", "cp874"),
        ("Đi chơi thôi em", "cp1258"),
        ("şeker gibi", "cp1254"),
        ("кофе", "koi8_r"),
        ("אהבה", "cp1255"),
        ("قهوة", "cp1256"),
        ("dziękuję", "iso8859_2"),
        ("Kočka", "cp1250"),
        ("nagyon szép idő", "cp1250"),
    ],
)
def test_a_text_in_an_encoding_that_is_not_guessed_at_is_audited(tmp_path, text, encoding):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/1.txt").write_bytes(text.encode(encoding))
    [row] = make_splits(Workspace(root)).audit.itertuples()
    assert row.problem.startswith("unusual characters, read as ") and "--encoding" in row.done


@pytest.mark.parametrize(
    "text, encoding",
    [("今日は楽しい", "iso2022_jp"), ("so happy", "utf_16_le"), ("so happy", "utf_32_be"), ("여자", "gb18030")],
)
def test_an_encoding_that_was_named_is_no_guess_and_also_read_where_its_bytes_are_ascii(tmp_path, text, encoding):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/1.txt").write_bytes(text.encode(encoding))
    report = make_splits(Workspace(root), encoding=encoding)
    row = report.posts.set_index("guid").loc["1"]
    assert (row.start, row.encoding) == (text, encoding) and report.audit.empty
    assert read_text(root / "data/1.txt", row.encoding) == (text, encoding)


def test_a_file_that_was_saved_as_utf_8_after_the_split_is_read_as_utf_8():
    assert decode_text("天气真好".encode(), "gb18030") == ("天气真好", "utf-8")


def test_a_folder_without_test_list_is_fine(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "test_without_label.txt").unlink()
    report = make_splits(Workspace(root))
    assert report.classes.loc["test", "all"] == 0
    assert "0 groups over 0 posts; 0 with conflicting labels, all kept, 0 across" in str(report)
    assert "where labels differ" not in str(report)


def test_path_with_blanks_and_accents(tmp_path):
    root = write_posts(tmp_path / "Übung drei", forty(), test=["100"])
    make_splits(Workspace(root))
    assert len(read_split(root / "outputs/splits/test.csv")) == 1


def test_nothing_usable_is_one_error(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    for path in (root / "data").glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ClipsentError, match="40 of 40 posts cannot be used; .*none is left"):
        make_splits(Workspace(root))


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_our_error(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_bytes(raw)
    try:
        rows, problems = read_list(path)
        assert len(rows) or not problems
    except ClipsentError as error:
        assert "list.txt" in str(error)


@pytest.mark.parametrize("content", [b"", b"guid,text_path\n", b"\xff\xfe\x00", b'guid,"text\n1,2,3\n'])
def test_broken_split_file_is_our_error(tmp_path, content):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ClipsentError, match="train.csv"):
        read_split(tmp_path / "train.csv")


@pytest.mark.parametrize("rows, what", [([], "no rows"), (["7", "8", "7"], "guid 7 stands there twice")])
def test_a_split_file_without_rows_or_with_a_post_twice_is_refused(tmp_path, rows, what):
    lines = [f"{guid},data/{guid}.txt,data/{guid}.jpg,positive" for guid in rows]
    (tmp_path / "own.csv").write_text("\n".join(["guid,text_path,image_path,label", *lines, ""]))
    with pytest.raises(ClipsentError, match=f"own.csv: {what}; "):
        read_split(tmp_path / "own.csv")


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClipsentError, match="train.txt: no such file; it should hold lines like"):
        read_list(tmp_path / "train.txt")


def test_of_two_pictures_the_more_usual_format_is_used(tmp_path):
    for name in ("7.txt", "7.bmp", "7.png"):
        (tmp_path / name).touch()
    assert files_by_guid(tmp_path) == {"7": {"text": ["7.txt"], "image": ["7.png", "7.bmp"]}}


def test_a_class_without_validation_posts_is_said(tmp_path):
    report = make_splits(Workspace(write_posts(tmp_path, [*forty(), ("40", "neutral")])), val_ratio=0.05)
    lacking = [line for line in str(report).splitlines() if line.startswith("warning: no ")]
    counts = report.classes.loc["val", list(LABELS)]
    assert lacking == [f"warning: no {label} post in val" for label in LABELS if not counts[label]] != []
    assert "index" not in report.posts


def test_folds_of_an_earlier_call_are_gone(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    make_splits(Workspace(root), folds=5)
    make_splits(Workspace(root), folds=3, seed=1)
    assert sorted(path.name for path in (root / "outputs/splits").glob("fold_*")) == ["fold_0", "fold_1", "fold_2"]
    make_splits(Workspace(root))
    assert not list((root / "outputs/splits").glob("fold_*"))


def own_table(root: Path, guids: list[str]) -> pd.DataFrame:
    "A table with the four columns that a user writes by hand, read as split files are."
    rows = [(guid, f"data/{guid}.txt", f"data/{guid}.jpg", "neutral") for guid in guids]
    pd.DataFrame(rows, columns=SPLIT_COLUMNS[:4]).to_csv(root / "own.csv", index=False)
    return read_split(root / "own.csv")


def test_copies_are_found_by_picture_by_text_by_likeness_by_group_and_by_name(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/10.jpg").write_bytes((root / "data/0.jpg").read_bytes())
    (root / "data/11.txt").write_text("RT @x: A TEXT that only post number 1 has! http://t.co/a", encoding="utf-8")
    Image.open(root / "data/2.jpg").resize((60, 60)).save(root / "data/12.jpg", quality=60)
    posts, problems = with_content(own_table(root, ["10", "11", "12", "13", "14", "4"]), Workspace(root))
    known, _ = with_content(own_table(root, ["0", "1", "2", "3", "4"]), Workspace(root))
    known.loc[3, "group"] = "14"
    assert find_copies(posts, known).tolist() == [True, True, True, False, True, True] and not problems


def test_copies_are_found_as_one_by_one_for_any_hashes():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**63, 60, dtype=np.uint64)
    near = bits[generator.integers(0, 60, 200)] ^ (np.uint64(1) << generator.integers(0, 64, 200).astype(np.uint64))
    for _ in range(5):
        near = np.where(
            generator.random(200) < 0.7, near ^ (np.uint64(1) << generator.integers(0, 64, 200).astype(np.uint64)), near
        )
    tables = []
    for name, values in (("a", near), ("b", bits)):
        hashes = [f"{value:016x}" for value in values]
        guids = [f"{name}{number}" for number in range(len(values))]
        tables.append(
            pd.DataFrame({"guid": guids, "group": guids, "image_digest": "", "text_key": "", "image_hash": hashes})
        )
    expected = [min(int(a ^ b).bit_count() for b in bits) <= MOST_BITS for a in near]
    assert find_copies(*tables).tolist() == expected and 0 < sum(expected) < 200


def test_a_table_of_one_s_own_gets_content_and_its_copies_one_group(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/2.jpg").write_bytes((root / "data/1.jpg").read_bytes())
    (root / "data/3.txt").unlink()
    posts, problems = with_content(own_table(root, ["1", "2", "3", "4"]), Workspace(root))
    assert posts.guid.tolist() == ["1", "2", "4"] and posts.group.tolist() == ["1", "1", "4"]
    assert [problem.guid for problem in problems] == ["3"]
    make_splits(Workspace(root, max_bad="10%"))
    written = read_split(root / "outputs/splits/train.csv").set_index("guid")
    again, _ = with_content(posts, Workspace(root / "no such folder"))  # nothing is opened twice
    assert again.equals(posts)
    both = posts[posts.guid.isin(written.index)].set_index("guid")[SPLIT_COLUMNS[5:]]
    assert both.equals(written.loc[both.index, SPLIT_COLUMNS[5:]])


def test_groups_are_kept_by_name_when_rows_without_content_join_a_split(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    make_splits(Workspace(root))
    train = read_split(root / "outputs/splits/train.csv")
    new = train.head(1).assign(guid="copy", group="copy", **dict.fromkeys(SPLIT_COLUMNS[5:], ""))
    merged, _ = with_content(
        pd.concat([train.assign(group="g" + train.group), new], ignore_index=True), Workspace(root)
    )
    assert merged.guid.tolist() == [*train.guid, "copy"]
    assert merged.group.tolist() == [*("g" + train.group), "g" + train.group[0]]


def test_a_table_that_lost_its_groups_finds_them_by_its_digests(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    (root / "data/2.jpg").write_bytes((root / "data/1.jpg").read_bytes())
    make_splits(Workspace(root), val_ratio=0.05)
    table = pd.concat([read_table(root / f"outputs/splits/{name}.csv") for name in ("train", "val")])
    table.drop(columns="group").to_csv(root / "own.csv", index=False)
    assert read_split(root / "own.csv").set_index("guid").group[["1", "2"]].nunique() == 1


@pytest.mark.parametrize("table", ["sep=,\r\n{}", "\ufeff{}"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_split_file_that_a_windows_program_saved_is_read(tmp_path, table, encoding):
    text = "guid,text_path,image_path,label\r\n1,data/1.txt,data/1.jpg,neutral\r\n"
    (tmp_path / "own.csv").write_bytes(
        table.format(text).removeprefix("\ufeff" * (encoding == "utf-16")).encode(encoding)
    )
    assert read_split(tmp_path / "own.csv").guid.tolist() == ["1"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_no_path_leads_out_of_the_data_root_by_any_way(tmp_path):
    root, secret = write_posts(tmp_path / "posts", forty()), tmp_path / "secret"
    secret.mkdir()
    (secret / "1.txt").write_text("private")
    (root / "data/sub").symlink_to(secret)
    for path in (str(secret / "1.txt"), "data/sub/1.txt", "../secret/1.txt", "data/../../secret/1.txt"):
        with pytest.raises(ClipsentError, match="leads out of the data root; .*--allow-outside"):
            post_file(path, Workspace(root))
        assert post_file(path, Workspace(root, allow_outside=True)).read_text() == "private"
    assert post_file("..hidden/1.txt", Workspace(root)) == root / "..hidden/1.txt"
    assert post_file(str(root / "data/1.txt"), Workspace(root)) == root / "data/1.txt"
    project = Workspace(tmp_path / "project", data_root=root)
    assert post_file(str(tmp_path / "project/outputs/new.jpg"), project) == tmp_path / "project/outputs/new.jpg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_cut_picture_is_refused_whatever_the_host_program_told_pillow(kind, monkeypatch):
    buffer = io.BytesIO()
    Image.effect_noise((90, 60), 90).convert("RGB").save(buffer, kind)
    for lenient in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        assert open_image(buffer).size == (90, 60)
        for share in (0.99, 0.6):
            with pytest.raises(ClipsentError, match="cut: broken"):
                open_image(io.BytesIO(buffer.getvalue()[: int(share * buffer.tell())]), name="cut")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_note_says(orientation):
    image, exif, buffer = Image.effect_noise((6, 4), 90), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, "PNG", exif=exif)
    expected = {1: image, 2: image.transpose(0), 3: image.rotate(180), 4: image.transpose(1), 5: image.transpose(5)}
    expected |= {6: image.rotate(-90, expand=True), 7: image.transpose(6), 8: image.rotate(90, expand=True)}
    assert open_image(buffer).tobytes() == expected[orientation].convert("RGB").tobytes()


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


def test_posts_of_the_test_list_have_no_label_whatever_stands_there(tmp_path):
    root = write_posts(tmp_path, forty(), ["a", "b"])
    path = root / "test_without_label.txt"
    path.write_text(path.read_text().replace("null", "positive"))
    posts = make_splits(Workspace(root), seed=0).posts
    assert posts.label[posts.split == "test"].tolist() == ["", ""]


def test_the_first_post_that_cannot_be_used_is_named_with_its_guid_if_it_has_one(tmp_path):
    for guid, named in (("7", "the first, guid 7: data/7.jpg: broken"), ("", "the first, data/7.jpg: broken")):
        with pytest.raises(ClipsentError, match=named):
            settle_problems([Problem(guid, "data/7.jpg", "broken")], 1, "posts", Workspace(tmp_path))


def test_an_audit_is_named_only_if_there_is_one(tmp_path):
    root = write_posts(tmp_path, forty())
    for broken in (False, True):
        if broken:
            (root / "data/1.jpg").write_bytes(b"none")
        said = str(make_splits(Workspace(root, max_bad="5%")))
        assert ("audit.csv" in said) == (root / "outputs/audit.csv").is_file() == broken


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".webp", ".BMP", ".gif", ".TIF", ".avif", ".heic", ".mpo.jpg"])
def test_pictures_of_any_usual_format_are_found_and_read(tmp_path, suffix):
    root = write_posts(tmp_path / "posts", [(str(number), LABELS[number % 3]) for number in range(12)])
    kind = suffix[1:].lower().removesuffix(".jpg").replace("tif", "tiff").replace("jpg", "jpeg").upper()
    if kind == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    (root / "data/0.jpg").unlink()
    red = Image.new("RGB", (64, 64), "red")
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "blue")]} if kind == "MPO" else {}
    red.save(path := root / f"data/0{suffix.removeprefix('.mpo')}", kind.replace("HEIC", "HEIF"), **more)
    assert len(make_splits(Workspace(root), val_ratio=0.3).posts) == 12
    assert open_image(path).getpixel((32, 32))[0] > 240 and open_image(path).getpixel((32, 32))[2] < 15


def test_a_picture_that_needs_a_library_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ClipsentError, match=r"0.heic: is HEIC, which needs pillow-heif; run `pip install clipsent_nb\[heic\]`"
    ):
        open_image(b"\0\0\0\x18ftypheic" + bytes(50), "0.heic")


@pytest.mark.parametrize("damage", ["a number", "no hash", "no key", "no hashes left"])
def test_a_split_file_whose_content_columns_were_damaged_is_looked_at_again(tmp_path, damage):
    root = write_posts(tmp_path / "posts", forty())
    make_splits(Workspace(root), val_ratio=0.2)
    whole = pd.read_csv(root / "outputs/splits/train.csv", dtype=str, keep_default_na=False)
    table = whole.copy()
    if damage == "a number":
        table.loc[0, "image_hash"] = "1.23457E+15"
    elif damage == "no hashes left":
        table["image_hash"] = ""
    else:
        table = table.drop(columns="image_hash" if damage == "no hash" else "text_key")
    table.to_csv(root / "outputs/splits/own.csv", index=False)
    posts, problems = with_content(read_split(root / "outputs/splits/own.csv"), Workspace(root))
    assert not problems and posts[SPLIT_COLUMNS].equals(whole[SPLIT_COLUMNS]) and whole.image_hash.ne("").all()


def test_hidden_files_and_files_of_other_kinds_are_no_posts(tmp_path):
    root = write_posts(tmp_path / "posts", forty())
    for name in (".7.jpg", "._7.jpg", ".8.txt", "notes.md", "7.json"):
        (root / "data" / name).write_bytes(b"x")
    found = files_by_guid(root / "data")
    assert len(found) == 40 and found["7"] == {"text": ["7.txt"], "image": ["7.jpg"]}


def test_few_validation_posts_are_called_few_and_the_way_out_suits_the_split(tmp_path):
    workspace = Workspace(write_posts(tmp_path, [(str(number), LABELS[number % 3]) for number in range(90)]))
    words = str(make_splits(workspace)).splitlines()[-1]
    assert words.startswith("9 posts to validate on") and words.endswith("--val-ratio 0.3 or more posts help")
    assert "may move macro-F1 by ±0.33, so only large differences" in words  # 1.96 / 2 / sqrt(9)
    assert str(make_splits(workspace, val_ratio=0.4)).endswith("can be told apart; more posts help")
