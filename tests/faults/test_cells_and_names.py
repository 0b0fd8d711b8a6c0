"""Texts and pictures taken for names of files, tables of any kind under `clipsent run`, and classes called like a column."""

import logging
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from clipsent_nb.cli import prepare_process
from clipsent_nb.data import make_splits
from clipsent_nb.files import ClipsentError, Workspace, describe_error, log, progress_bar, show_progress
from clipsent_nb.labelling import read_rows
from clipsent_nb.sample import write_sample
from clipsent_nb.stage import step_inputs
from clipsent_nb.steps import Plan
from clipsent_nb.tables import Columns, read_post_table

LONG = {"of one byte a letter": "x" * 300, "Chinese": "这家店的东西真的很好吃" * 9, "Thai": "ดีมาก" * 18}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_text_that_is_too_long_for_a_name_is_a_text(tmp_path, text):
    pd.DataFrame({"id": [1], "text": [text], "image": ["1.jpg"], "label": ["positive"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    table = read_post_table(tmp_path / "t.csv", Columns(), Workspace(tmp_path))
    assert (tmp_path / table.text_path[0]).read_text(encoding="utf-8") == text
    [rows] = read_rows(tmp_path / "t.csv", Columns(), Workspace(tmp_path), "auto", ["text"])
    assert rows.text.tolist() == [text]


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ({"image": "data:image/jpeg;base64," + "AAAA" * 1999}, "row 3: 'data:image/jpeg;base64,A{57}…': "),
        ({"image": "/9j/" + "AAAA" * 99}, "row 3: '/9j/A{76}…': leads out of the data root"),
        ({"text_path": "x" * 300}, "row 3: 'x{80}…': "),
        ({"text_path": "nope.txt"}, "row 3: 'nope.txt': No such file or directory; name a file"),
        ({"text_path": "../1.txt"}, "row 3: '../1.txt': leads out of the data root"),
    ],
)
def test_a_cell_that_names_no_file_is_named_by_table_and_row(tmp_path, cells, what):
    row = {"id": 1, "text_path" if "text_path" in cells else "text": "hi", "image": "1.jpg"} | cells
    (tmp_path / "t.csv").write_text("\n" + pd.DataFrame([row]).to_csv(index=False), encoding="utf-8")
    with pytest.raises(ClipsentError, match=f"^t.csv, {what}") as error:
        next(read_rows(tmp_path / "t.csv", Columns(), Workspace(tmp_path), "auto", ["text"]))
    assert len(str(error.value)) < 300


def test_a_name_that_the_machine_complains_of_is_shortened():
    assert len(describe_error(OSError(36, "File name too long", "x" * 9999))) < 400


@pytest.fixture
def posts(tmp_path) -> Workspace:
    write_sample(tmp_path)
    return Workspace(tmp_path)


def write_rows(workspace: Workspace, name: str, **options) -> Path:
    "A table of posts by the names of their files."
    root = workspace.project_root
    pictures = sorted((root / "data").glob("*.jpg"))[:8]
    names = [
        {"id": one.stem, "text_path": f"data/{one.stem}.txt", "image_path": f"data/{one.name}"} for one in pictures
    ]
    table, path = pd.DataFrame(names).assign(label="positive", note="good, bad; 好"), root / name
    writers = {".jsonl": "to_json", ".csv": "to_csv", ".tsv": "to_csv", ".parquet": "to_parquet", ".xlsx": "to_excel"}
    getattr(table, writers[path.suffix])(path, **options)
    return path


KINDS = {
    "t.jsonl": {"orient": "records", "lines": True},
    "t.parquet": {},
    "t.xlsx": {"index": False},
    "t.tsv": {"index": False, "sep": "\t", "encoding": "utf-16"},
    "semicolons.csv": {"index": False, "sep": ";"},
    "gbk.csv": {"index": False, "encoding": "gb18030"},
    "commas.csv": {"index": False},
}


@pytest.mark.parametrize(("step", "key"), [("splits", "table"), ("predict", "test_file")])
@pytest.mark.parametrize("name", KINDS)
def test_the_stage_sees_that_a_text_has_changed_that_any_table_names(posts, name, step, key):
    write_rows(posts, name, **KINDS[name])
    plan = Plan(step, {"train": {}, step: {key: name}}, posts, "settings.toml")
    before = step_inputs(plan)
    assert step_inputs(plan) == before
    some = sorted((posts.project_root / "data").glob("*.jpg"))[3]
    for file in (some, some.with_suffix(".txt")):
        content = file.read_bytes()
        file.write_bytes(content[::-1])
        assert {key: one for key, one in step_inputs(plan).items() if key != "posts"} != {
            key: one for key, one in before.items() if key != "posts"
        }
        file.write_bytes(content)


def test_a_row_that_leads_elsewhere_hides_no_change_of_the_others(posts):
    path = write_rows(posts, "t.jsonl", **KINDS["t.jsonl"])
    table = pd.read_json(path, lines=True)
    table.loc[0, ["text_path", "image_path"]] = ["../../1.txt", "../../1.jpg"]
    table.to_json(path, orient="records", lines=True)
    plan = Plan("predict", {"train": {}, "predict": {"test_file": "t.jsonl"}}, posts, "settings.toml")
    before = step_inputs(plan)
    (posts.project_root / table.text_path[1]).write_text("other words")
    assert step_inputs(plan) != before


@pytest.mark.parametrize("name", ["all", "unlabelled", "Unlabelled"])
def test_a_class_cannot_be_called_like_a_column_beside_the_classes(posts, name):
    path = posts.project_root / "train.txt"
    path.write_text(path.read_text().replace("neutral", name))
    with pytest.raises(
        ClipsentError, match="cannot be the name of a class; .* leave the label empty where it is not known"
    ):
        make_splits(posts)
    assert not (posts.project_root / "outputs/splits/train.csv").exists()


def test_a_line_beside_a_bar_that_is_not_due_yet_leaves_nothing_of_it(capsys):
    show_progress()
    try:
        with progress_bar(total=9, description="labelling"):
            log.info("a line")
        written = capsys.readouterr().err
    finally:
        log.setLevel(logging.WARNING)
    assert written.rpartition("\r")[2] == "" and "a line\n" in written


@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminals of this kind")
def test_a_terminal_that_does_not_say_how_wide_it_is_has_bars(monkeypatch):
    ours, its = os.openpty()
    with open(ours, "rb"), open(its, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TQDM_NCOLS", "")
        monkeypatch.delenv("TQDM_NCOLS")
        prepare_process("doctor", [])
        assert os.environ["TQDM_NCOLS"] == "80"
