"""Posts that come in one table: whatever its kind, the same content gives the same splits; and posts of one half."""

import json
import logging
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsent_nb.cli import parse
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import open_image
from clipsent_nb.files import ClipsentError, Workspace, digest
from clipsent_nb.posts import NO_PICTURE
from clipsent_nb.tables import Columns, as_text, read_post_table

TAGS = ("negative", "neutral", "positive")
POSTS = [(str(number), TAGS[number % 3]) for number in range(36)]


def write_posts(root, rows):
    "A folder of posts with noise for pictures."
    (root / "data").mkdir(parents=True)
    for guid, _ in rows:
        colours = np.random.default_rng(int(guid)).integers(0, 255, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((40, 40)).save(root / f"data/{guid}.jpg")
        (root / f"data/{guid}.txt").write_text(f"a text that only post number {guid} has", encoding="utf-8")
    (root / "train.txt").write_text("guid,tag\n" + "".join(f"{guid},{tag}\n" for guid, tag in rows))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder of posts, some of them copies, with its splits."
    root = write_posts(tmp_path_factory.mktemp("tables") / "posts", POSTS)
    for copy, post in ((6, 0), (20, 2)):
        (root / f"data/{copy}.jpg").write_bytes((root / f"data/{post}.jpg").read_bytes())
    (root / "data/7.txt").write_text("the café is open, as it always was", encoding="utf-8")
    (root / "data/8.txt").write_bytes(b" blanks and ends of lines\nare of the text as well \n")
    make_splits(Workspace(root), val_ratio=0.25)
    return root


def table_of(root, pictures=False) -> pd.DataFrame:
    texts = [(root / f"data/{guid}.txt").read_text(encoding="utf-8") for guid, _ in POSTS]
    paths = [f"data/{guid}.jpg" for guid, _ in POSTS]
    images = [(root / path).read_bytes() for path in paths] if pictures else paths
    return pd.DataFrame(
        {"id": [guid for guid, _ in POSTS], "tweet": texts, "image": images, "label": [tag for _, tag in POSTS]}
    )


def write_dataset(path, table) -> None:
    "As the library `datasets` saves it."
    import pyarrow as pa

    path.mkdir()
    features = {name: {"dtype": "string", "_type": "Value"} for name in ("id", "tweet")}
    features |= {"image": {"_type": "Image"}, "label": {"names": list(TAGS), "_type": "ClassLabel"}}
    table = table.assign(label=table.label.map(TAGS.index), image=[{"bytes": one, "path": None} for one in table.image])
    table = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(str(path / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (path / "dataset_info.json").write_text(json.dumps({"features": features}))


WRITERS = {
    "utf8.csv": lambda path, root: table_of(root).to_csv(path, index=False),
    "excel.csv": lambda path, root: path.write_bytes(
        ("sep=;\r\n" + table_of(root).to_csv(index=False, sep=";")).encode("utf-16")
    ),
    "old.tsv": lambda path, root: path.write_bytes(table_of(root).to_csv(index=False, sep="\t").encode("cp1252")),
    "lines.jsonl": lambda path, root: table_of(root).to_json(path, orient="records", lines=True),
    "sheet.xlsx": lambda path, root: table_of(root).to_excel(path, index=False),
    "bytes.parquet": lambda path, root: table_of(root, pictures=True).to_parquet(path),
    "saved": lambda path, root: write_dataset(path, table_of(root, pictures=True)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_posts_in_another_table_have_the_same_splits(folder, tmp_path, name):
    if name in ("sheet.xlsx", "bytes.parquet", "saved"):
        pytest.importorskip("openpyxl" if name == "sheet.xlsx" else "pyarrow")
    WRITERS[name](tmp_path / name, folder)
    make_splits(Workspace(tmp_path, data_root=folder), val_ratio=0.25, table=tmp_path / name)
    by_name = ["text_path", "image_path"]  # of files that were written for cells
    for split in ("train", "val"):
        own, there = (read_split(root / f"outputs/splits/{split}.csv") for root in (tmp_path, folder))
        assert own.drop(columns=by_name).equals(there.drop(columns=by_name))
    assert len(own) and digest((tmp_path / own.text_path[0]).read_bytes()) == own.text_digest[0]


@pytest.mark.parametrize("name", ["sheet.xlsx", "bytes.parquet"])
def test_a_library_that_a_table_needs_is_named(tmp_path, monkeypatch, name):
    library = {"sheet.xlsx": "openpyxl", "bytes.parquet": "pyarrow"}[name]
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ClipsentError, match=rf"needs {library}, which is not installed; run `pip install clipsent_nb\[tables\]`"
    ):
        make_splits(Workspace(tmp_path), table=name)


@pytest.mark.parametrize(
    ("change", "options", "what"),
    [
        (
            lambda table: table.assign(text=""),
            {},
            "text and tweet could both be the text; say which with --text-column",
        ),
        (lambda table: table.drop(columns="label"), {}, "no column for the label; name it with --label-column"),
        (
            lambda table: table,
            {"columns": Columns(group_column="author")},
            "--group-column author: no such column in p.csv",
        ),
        (lambda table: table.head(0), {}, "p.csv: no rows"),
        (lambda table: table.assign(Label=""), {}, "label and Label could both be the label"),
        (lambda table: table, {"columns": Columns(text_column="label")}, "column label would be both text and label"),
        (
            lambda table: table.assign(tweet=[f"data/{name}.txt" for name in table.iloc[:, 0]]),
            {},
            "column tweet names files, such as data/0.txt; call a column of text files text_path",
        ),
        (lambda table: table.assign(image="data:image/jpeg;base64," + 9999 * "A"), {}, "'data:image/jpeg;base64,A+…':"),
        (lambda table: table, {"mvsa": "single"}, "--table and --mvsa"),
        (
            lambda table: table.assign(fold=[str(i % 3) for i in range(36)]),
            {"folds": 3},
            "the table has folds of its own",
        ),
        (
            lambda table: table.assign(split=["val"] * 9 + ["train"] * 27),
            {"val_ratio": 0.1},
            "--val-ratio 0.1: the posts to validate on are named already",
        ),
        (
            lambda table: table.assign(fold=[str(i % 3) for i in range(36)]),
            {"val_ratio": 0.2},
            "--val-ratio 0.2: the posts to validate on are named already",
        ),
        (
            lambda table: table.assign(split=["val"] * 9 + ["train"] * 27),
            {"seed": 7},
            "--seed 7: the posts to validate on are named already",
        ),
        (lambda table: table.assign(image=""), {}, "36 of 36 posts cannot be used; .* p.csv:2: no image"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(folder, tmp_path, change, options, what):
    change(table_of(folder)).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ClipsentError, match=what) as caught:
        make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv", **options)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("p.csv", "id,text,image,label\n1,so good,1.jpg,positive,\n", "line 2: 5 cells instead of 4"),
        ("p.csv", "id,text,image,label\n1,so good,1.jpg\n", "line 2: 3 cells instead of 4"),
        ("p.csv", "sep=;\nid;text;image;label\n1;a;b\n", "line 3: 3 cells instead of 4"),
        ("p.csv", "id,text,image,label,label\n1,a,b,c,d\n", "label and label could both be the label"),
        ("p.tsv", 'id\ttext\n1\t"so good\n2\tb\n3\t"bad\n', "line 4: '\t' expected after '\"'"),
        ("p.jsonl", '{"text": "a"}\n7\n', "line 2: no JSON object"),
        ("p.jsonl", "[1, 2]\n", "line 1: no JSON object"),
        ("data", None, "a folder that holds no saved data set"),
    ],
)
def test_rows_that_are_cut_or_joined_by_their_signs_are_named_not_moved(tmp_path, name, content, what):
    (tmp_path / "data").mkdir()
    if content:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ClipsentError, match=re.escape(what)):
        make_splits(Workspace(tmp_path), table=name)


def test_a_line_of_json_may_hold_signs_that_end_lines_elsewhere_and_a_cell_bytes(tmp_path):
    rows = [{"text": text, "image": "1.jpg", "label": "1.0"} for text in ("a\u2028b", "a\x85b")]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = read_post_table(tmp_path / "p.jsonl", Columns(), Workspace(tmp_path))
    assert [(tmp_path / path).read_text(encoding="utf-8") for path in found.text_path] == ["a\u2028b", "a\x85b"]
    assert as_text(b"positive") == "positive"


@pytest.mark.parametrize("cells", [{"text": ["a", "b"]}, {"text": {"a": 1}}, {"image": ["1.jpg"]}, {"label": ["a"]}])
def test_a_cell_of_another_kind_is_no_text(tmp_path, cells):
    row = {"text": "a", "image": "1.jpg", "label": "a", "entities": [1]} | cells
    (tmp_path / "p.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ClipsentError, match="is no text but of type (list|dict); write one text"):
        read_post_table(tmp_path / "p.jsonl", Columns(), Workspace(tmp_path))


def test_an_encoding_that_was_guessed_is_said(tmp_path, caplog):
    for encoding, told in (("utf-8", False), ("gb18030", True), ("utf-16", False)):
        (tmp_path / "p.csv").write_bytes("id,text,image,label\n1,今天天气很好,1.jpg,a\n".encode(encoding))
        caplog.clear()
        read_post_table(tmp_path / "p.csv", Columns(), Workspace(tmp_path))
        assert ("p.csv: read as gb18030, which is a guess" in caplog.text) == told


def test_a_post_in_train_and_test_is_named(folder, tmp_path):
    table = table_of(folder)
    pd.concat([table.assign(split="train"), table.head(2).assign(split="test")]).to_csv(tmp_path / "p.csv", index=False)
    report = make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv")
    assert report.audit.problem.tolist() == ["in test and in another part"] * 2


def test_columns_are_flags_and_need_a_table():
    call = parse("splits", ["--project-root", "none", "--text-column", "words"])
    with pytest.raises(ClipsentError, match="--text-column: is a column of no table"):
        call()


def test_a_division_of_ones_own_is_kept_and_its_leaks_are_said(folder, tmp_path):
    parts = ["dev" if number in (1, 4, 20) else "test" if number in (5, 9) else "Train" for number in range(36)]
    table_of(folder).assign(split=parts, who=["ann", *"b" * 35]).to_csv(tmp_path / "p.csv", index=False)
    report = make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv")
    found = report.posts.set_index("guid").split
    assert {guid for guid in found.index if found[guid] == "val"} == {"1", "4", "20"} and found["5"] == "test"
    assert "warning: 1 val posts have copies in train" in str(report)  # 20 is a copy of 2


def test_folds_of_ones_own_are_kept(folder, tmp_path):
    table_of(folder).assign(fold=[str(number % 3) for number in range(36)]).to_csv(tmp_path / "p.csv", index=False)
    make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv")
    splits = tmp_path / "outputs/splits"
    for fold in range(3):
        assert {int(guid) % 3 for guid in read_split(splits / f"fold_{fold}/val.csv").guid} == {fold}
        assert {int(guid) % 3 for guid in read_split(splits / f"fold_{fold}/train.csv").guid} == {0, 1, 2} - {fold}
    assert (splits / "val.csv").read_bytes() == (splits / "fold_0/val.csv").read_bytes()


def test_folds_of_ones_own_leave_the_test_posts_out(folder, tmp_path):
    folds = ["test" if number % 4 == 3 else str(number % 4) for number in range(36)]
    table_of(folder).assign(fold=folds).to_csv(tmp_path / "p.csv", index=False)
    make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv")
    splits = tmp_path / "outputs/splits"
    assert len(read_split(splits / "test.csv")) == 9
    for fold in range(3):
        assert {int(guid) % 4 for guid in read_split(splits / f"fold_{fold}/val.csv").guid} == {fold}
        assert {int(guid) % 4 for guid in read_split(splits / f"fold_{fold}/train.csv").guid} == {0, 1, 2} - {fold}


def test_posts_are_divided_by_the_seed_that_help_names(folder, tmp_path):
    written = {}
    for name, given in {"default": {}, "42": {"seed": 42}, "43": {"seed": 43}}.items():
        make_splits(Workspace(tmp_path / name, data_root=folder), val_ratio=0.25, **given)
        written[name] = (tmp_path / name / "outputs/splits/val.csv").read_bytes()
    assert written["default"] == written["42"] != written["43"]


def divide(root, **parts):
    (root / "10-flod-1").mkdir(exist_ok=True)
    for name, content in parts.items():
        (root / "10-flod-1" / name.replace("_", ".")).write_text(content)


def test_a_published_division_is_kept_and_what_does_not_fit_is_said(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("clipsent_nb"), "propagate", True)  # where caplog listens
    shutil.copytree(folder, tmp_path / "posts")
    val, test = [{"id": 1}, {"id": "4"}, {"id": "20"}], "id,label\n5,neutral\n9,negative\n9\n"
    train = "".join(f"{guid}\n" for guid, _ in POSTS if guid not in ("1", "4", "20", "5", "9", "11"))
    divide(tmp_path / "posts", train_txt=train + "77\n", dev_json=json.dumps(val), test_txt=test)
    report = make_splits(Workspace(tmp_path / "posts"), division="10-flod-1")
    found = report.posts.set_index("guid").split
    assert {guid for guid in found.index if found[guid] == "val"} == {"1", "4", "20"}
    assert {guid for guid in found.index if found[guid] == "test"} == {"5", "9"} and "11" not in found
    assert "warning: 1 val posts have copies in train" in str(report)  # 20 is a copy of 2
    assert "1 in no part, not used: guid 11" in caplog.text and "1 without a post to use: guid 77" in caplog.text
    assert "guid 9 listed twice, counted once" in caplog.text
    assert set(report.audit.problem) == {"in no part of the division", "in the division, but no post to use"}


@pytest.mark.parametrize(
    "parts, what",
    [
        ({}, "holds no train.txt or train.json; name a folder"),
        ({"train_txt": "1\n2\n", "val_txt": "2\n"}, "guid 2 is in two parts; keep it in one"),
        ({"train_txt": "1\n", "val_txt": "2\n", "dev_txt": "3\n"}, "dev.txt and val.txt are both val; keep one"),
        ({"train_txt": "x1\n", "val_txt": "x2\n"}, "names none of the posts; is it of another data set?"),
        ({"train_json": "[1, {}]"}, "train.json, entry 2: has no id; write a list of ids"),
        ({"train_json": "[1, 2"}, "train.json: cannot be read"),
    ],
)
def test_a_published_division_that_cannot_be_used_is_refused(folder, tmp_path, parts, what):
    shutil.copytree(folder, tmp_path / "posts")
    before = (tmp_path / "posts/outputs/splits/val.csv").read_bytes()
    with pytest.raises(ClipsentError, match="--division 10-flod-2: no such folder"):
        make_splits(Workspace(tmp_path / "posts"), division="10-flod-2")
    divide(tmp_path / "posts", **parts)
    with pytest.raises(ClipsentError, match=re.escape(what)):
        make_splits(Workspace(tmp_path / "posts"), division="10-flod-1")
    assert (tmp_path / "posts/outputs/splits/val.csv").read_bytes() == before


def test_a_post_that_a_table_has_twice_is_named(folder, tmp_path):
    table = table_of(folder)
    other = table.iloc[[4]].assign(label=table.label[5])
    pd.concat([table, table.iloc[[3]], other]).to_csv(tmp_path / "p.csv", index=False)
    report = make_splits(Workspace(tmp_path, data_root=folder, max_bad="20%"), val_ratio=0.25, table=tmp_path / "p.csv")
    said = report.audit.groupby("guid").problem.first()
    assert said["3"].startswith("listed twice") and said["4"].startswith("listed with different tags")
    assert set(report.posts.guid) == set(table.id) - {"4"}


def test_a_table_is_not_divided_twice(folder, tmp_path):
    table_of(folder).assign(split="train").to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ClipsentError, match="the table has a division of its own"):
        make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv", division="10-flod-1")


def test_posts_of_one_author_stay_together(folder, tmp_path):
    table_of(folder).assign(group=[f"author{number // 4}" for number in range(36)]).to_csv(
        tmp_path / "p.csv", index=False
    )
    report = make_splits(Workspace(tmp_path, data_root=folder), val_ratio=0.3, table=tmp_path / "p.csv")
    authors = report.posts.assign(author=report.posts.guid.astype(int) // 4)
    assert (authors.groupby("author").split.nunique() == 1).all()


def test_votes_give_the_splits_of_their_labels(folder, tmp_path):
    rows = [f"{guid}\t{tag},{tag if int(guid) % 2 else 'neutral'}" for guid, tag in POSTS]
    (tmp_path / "labelResultAll.txt").write_text("\n".join(["ID\ttext,image", *rows, "99\tpositive,negative"]))
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data/99.txt").write_text("of nobody's opinion")  # in a list, although it has no label
    report = make_splits(Workspace(tmp_path), val_ratio=0.25, mvsa="single")
    for split in ("train", "val"):
        names = f"outputs/splits/{split}.csv"
        assert (tmp_path / names).read_bytes() == (folder / names).read_bytes()
    assert report.audit.problem.tolist() == ["votes contradict each other"]


def test_posts_of_one_half_are_kept_on_demand_and_are_no_copies(tmp_path):
    root = write_posts(tmp_path / "posts", POSTS)
    for name in ("3.txt", "4.jpg", "5.jpg", "8.jpg", "8.txt"):
        (root / "data" / name).unlink()
    with pytest.raises(ClipsentError, match="4 of 36 posts cannot be used; the first, guid 3: data/3.txt: no text"):
        make_splits(Workspace(root))
    (root / "data/9.txt").write_text(" \n")
    report = make_splits(Workspace(root, max_bad="3%"), allow_missing=True)
    posts = report.posts.set_index("guid")
    assert report.audit.problem.eq("empty text").sum() == 1  # what is missing is not also empty
    assert len(posts) == 35 and posts.group["4"] == "4" and posts.group["5"] == "5"
    assert "kept without a text: 2" in str(report) and "kept without a picture: 2" in str(report)
    assert open_image(NO_PICTURE).getpixel((0, 0)) == (255, 255, 255)


def test_the_audit_says_one_thing_of_a_post_that_lacks_a_half_and_whose_other_half_is_broken(tmp_path):
    root = write_posts(tmp_path / "posts", POSTS)
    (root / "data/3.txt").unlink()
    (root / "data/3.jpg").write_bytes(b"broken")
    (root / "data/5.jpg").write_bytes(b"broken")
    (root / "test_without_label.txt").write_text("guid,tag\n5,null\n8,null\n")
    (root / "data/8.txt").write_text("")
    report = make_splits(Workspace(root, max_bad="9%"), allow_missing=True)
    assert "kept without a text: 1" in str(report) and report.audit.problem.eq("empty text").sum() == 1
    assert report.audit.groupby("guid").done.nunique().to_dict() == {"3": 1, "5": 1, "8": 2}
    assert len(report.audit) == len(pd.read_csv(root / "outputs/audit.csv")) == 6


def test_cells_of_one_half_are_kept_on_demand(folder, tmp_path):
    table = table_of(folder)
    table.loc[3, "tweet"], table.loc[4, "image"] = "", ""
    table.to_csv(tmp_path / "p.csv", index=False)
    report = make_splits(Workspace(tmp_path, data_root=folder), table=tmp_path / "p.csv", allow_missing=True)
    assert len(report.posts) == 36 and report.posts.image_digest.eq(digest(NO_PICTURE)).sum() == 1


def test_a_label_that_a_training_post_of_a_table_lacks_is_named_and_that_of_a_test_post_is_not(folder, tmp_path):
    parts = ["test" if number % 6 == 0 else "val" if number % 6 == 1 else "train" for number in range(36)]
    table = table_of(folder).assign(split=parts)
    table.loc[[2, 6], "label"] = ""
    table.to_csv(tmp_path / "p.csv", index=False)
    report = make_splits(Workspace(tmp_path, data_root=folder, max_bad="10%"), table=tmp_path / "p.csv")
    named = report.audit[report.audit.problem.eq("no label")].guid.tolist()
    found = {str(table.iloc[row].iloc[0]): row for row in (2, 6)}
    assert [found[guid] for guid in named] == [2] and set(found) & set(report.posts.guid) == set(found) - set(named)
