"""Which row of a table is meant, how its cells are parted, and processes without a stream or with an editor's variables."""

import os
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from clipsent_nb import report
from clipsent_nb.cli import prepare_process
from clipsent_nb.data import make_splits
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.tables import Columns, read_post_table


def lines_of(path: Path) -> list[int]:
    return read_post_table(path, Columns(), Workspace(path.parent)).line.tolist()


def write_workbook(path: Path, *rows: list) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("twice", ["text", "label", "image", "id"])
def test_two_columns_of_one_name_are_refused_in_a_workbook_too(tmp_path, twice):
    names = ["id", "text", "image", "label"]
    path = write_workbook(tmp_path / "t.xlsx", [*names, twice], [1, "so good", "1.jpg", "positive", "other"])
    with pytest.raises(ClipsentError, match=f"{twice} and {twice} could both be the {twice}"):
        read_post_table(path, Columns(), Workspace(tmp_path))


def test_a_row_has_the_number_that_editors_and_spreadsheets_show(tmp_path):
    rows = ["id;text;image;label", "", "1;a;1.jpg;positive", ";;;", '2;"b\nb";2.jpg;positive', "3;c;3.jpg;positive"]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    assert lines_of(tmp_path / "t.csv") == [3, 5, 7]
    (tmp_path / "s.csv").write_text("sep=;\n" + "\n".join(rows), encoding="utf-8")
    assert lines_of(tmp_path / "s.csv") == [4, 6, 8]
    one, two = '{"id": 1, "text": "a", "image": "1.jpg", "label": "positive"}', '{"id": 2, "text": "b", "label": "x"}'
    (tmp_path / "t.jsonl").write_text(f"{one}\n\n{two}\n", encoding="utf-8")
    assert lines_of(tmp_path / "t.jsonl") == [1, 3]
    names, first, second = ["id", "text", "image", "label"], [1, "a", "1.jpg", "x"], [2, "b", "2.jpg", "x"]
    assert lines_of(write_workbook(tmp_path / "t.xlsx", [None], names, first, [None] * 4, second)) == [3, 5]


@pytest.mark.parametrize(
    "head",
    [
        "id;text;image;label;note (a, b, c, d, e, f)",
        '"id";"text";"image";"label";"note, remark, a, b, c, d"',
        "id\ttext\timage\tlabel\tnote (a; b; c; d; e, f)",
    ],
)
def test_the_separator_is_what_parts_the_rows_too(tmp_path, head):
    cells = ["1", "so good, really", "1.jpg", "positive", ""]
    (tmp_path / "t.csv").write_text(f"{head}\n{('	' if '	' in head else ';').join(cells)}\n", encoding="utf-8")
    assert read_post_table(tmp_path / "t.csv", Columns(), Workspace(tmp_path)).label.tolist() == ["positive"]


def test_a_row_without_an_id_is_said_to_have_none(tmp_path):
    rows = ["id,text,image,label", "", ",words,1.jpg,positive"]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(ClipsentError, match="t.csv:3: no id"):
        make_splits(Workspace(tmp_path), table=Path("t.csv"))


@pytest.mark.parametrize("backend", ["foo", "module://backend_interagg"])
def test_the_way_an_editor_shows_figures_concerns_no_command_and_no_report(monkeypatch, backend):
    monkeypatch.setenv("MPLBACKEND", backend)
    prepare_process("errors", [])
    assert os.environ["MPLBACKEND"] == "agg" and "inline" in report.KERNEL_VARIABLES["MPLBACKEND"]
    monkeypatch.setenv(
        "MPLBACKEND", report.KERNEL_VARIABLES["MPLBACKEND"]
    )  # of a notebook, which goes on to show its own
    prepare_process("errors", [])
    assert os.environ["MPLBACKEND"] == report.KERNEL_VARIABLES["MPLBACKEND"]


@pytest.mark.parametrize("closed", ["sys.stderr = None", "sys.stdout = sys.stderr = None"])
def test_a_process_without_a_stream_works(tmp_path, closed):
    code = (
        f"import sys; {closed}; from clipsent_nb.cli import main; sys.exit(main(['sample', {str(tmp_path / 's')!r}]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert (tmp_path / "s/train.txt").is_file()
