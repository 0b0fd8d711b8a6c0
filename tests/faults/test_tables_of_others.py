"""Tables as other programs write them, classes called none, and what a stage cannot do, said before it trains."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsent_nb.data import make_splits, read_split
from clipsent_nb.files import ClipsentError, Workspace, write_csv, write_json
from clipsent_nb.predict import predict_file
from clipsent_nb.robustness import CorruptionSettings, robustness
from clipsent_nb.runs import Run
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import run_stage
from clipsent_nb.stats import halve_groups
from clipsent_nb.tables import Columns

COUNT = 30
LABELS = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module")
def posts(tmp_path_factory) -> Path:
    "Different posts, whose pictures are files."
    root = tmp_path_factory.mktemp("posts")
    (root / "data").mkdir()
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(root / f"data/{number}.png")
        (root / f"data/{number}.txt").write_text(f"a text that only post number {number} has")
    return root


@pytest.fixture
def table(posts) -> pd.DataFrame:
    texts = [f"a text that only post number {number} has" for number in range(COUNT)]
    rows = {"id": map(str, range(COUNT)), "text": texts, "image": [f"data/{number}.png" for number in range(COUNT)]}
    return pd.DataFrame(rows | {"label": LABELS * (COUNT // 3)}, dtype=object)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("tables") / "sample")


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A project of its own with a short run."
    return Path(shutil.copytree(trained, tmp_path / "sample"))


def split(posts: Path, folder: Path, table: str, **options: object):
    workspace = Workspace(folder, data_root=posts, max_bad=options.pop("max_bad", "1%"))
    return make_splits(workspace, table=folder / table, val_ratio=0.2, **options)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("column", ["id", "group"])
def test_large_numbers_beside_a_missing_one_stay_as_they_are(posts, table, tmp_path, column, saved):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    numbers = [1_700_000_000_000_000_001 + number if number != 5 else None for number in range(COUNT)]
    columns = {name: pa.array(table[name].tolist()) for name in table} | {column: pa.array(numbers, pa.int64())}
    if saved:
        (tmp_path / "p").mkdir()
        with pa.ipc.new_stream(tmp_path / "p/data.arrow", pa.table(columns).schema) as file:
            file.write_table(pa.table(columns))
        write_json(tmp_path / "p/state.json", {"_data_files": [{"filename": "data.arrow"}]})
        write_json(tmp_path / "p/dataset_info.json", {"features": {}})
    else:
        parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    report = split(posts, tmp_path, "p" if saved else "p.parquet", max_bad="10%")
    written = {str(number) for number in numbers if number}
    assert written <= set(report.posts.guid if column == "id" else report.posts.group)


def test_different_posts_under_one_id_are_refused_and_equal_ones_count_once(posts, table, tmp_path):
    table.assign(id=[str(number // 2) for number in range(COUNT)]).to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(ClipsentError, match="two.csv:2: other rows have the id '0' too, and another text or picture"):
        split(posts, tmp_path, "two.csv", max_bad="40%")
    pd.concat([table, table.head(2)]).to_csv(tmp_path / "again.csv", index=False)
    report = split(posts, tmp_path, "again.csv")
    assert len(report.posts) == COUNT and report.audit.problem.tolist() == ["listed twice"] * 2
    moved = table.assign(split=["train", "val"] * (COUNT // 2))
    moved.loc[1, "id"] = "0"
    moved.to_csv(tmp_path / "moved.csv", index=False)
    workspace = Workspace(tmp_path, data_root=posts, max_bad="10%")
    report = make_splits(workspace, table=tmp_path / "moved.csv")
    assert "0" not in set(report.posts.guid) and len(report.posts) == COUNT - 2


def test_further_sheets_of_a_workbook_are_named_and_its_line_breaks_are_none_of_the_text(
    posts, table, tmp_path, caplog
):
    pytest.importorskip("openpyxl")
    table = table.assign(text=table.text + "_x000D_\nsecond line")  # as Excel stores a cell with CR and LF
    with pd.ExcelWriter(tmp_path / "p.xlsx") as book:
        table.head(0).to_excel(book, sheet_name="empty", index=False)
        table.head(18).to_excel(book, sheet_name="2023", index=False)
        table.tail(12).to_excel(book, sheet_name="2024", index=False)
    report = split(posts, tmp_path, "p.xlsx")
    assert len(report.posts) == 18 and "only its sheet 2023 is read; 2024 have rows too" in caplog.text
    texts = [(tmp_path / path).read_bytes() for path in report.posts.text_path]
    assert all(text.endswith(b"has\r\nsecond line") for text in texts)


def test_none_is_a_class_where_it_is_named_and_no_label_elsewhere(posts, table, tmp_path, caplog):
    table.assign(label=table.label.replace("neutral", "None")).to_csv(tmp_path / "p.csv", index=False)
    caplog.set_level("INFO")
    assert split(posts, tmp_path, "p.csv").labels == ("negative", "positive")
    assert "tagged none count as without a label" in caplog.text
    named = split(posts, tmp_path, "p.csv", labels="negative,none,positive")
    assert named.posts.label.value_counts().to_dict() == {"negative": 10, "none": 10, "positive": 10}
    renamed = split(posts, tmp_path, "p.csv", rename="none=neutral")
    assert renamed.labels == tuple(LABELS) and renamed.posts.label.eq("neutral").sum() == 10


def test_backslashes_of_windows_name_texts_as_they_name_pictures(posts, table, tmp_path):
    windows = table.drop(columns="text").assign(text_path=[f"data\\{number}.txt" for number in range(COUNT)])
    windows.assign(image=windows.image.str.replace("/", "\\")).to_csv(tmp_path / "p.csv", index=False)
    report = split(posts, tmp_path, "p.csv")
    assert len(report.posts) == COUNT and report.posts.text_path.str.startswith("data/").all()
    own = report.posts.assign(
        **{name: report.posts[name].str.replace("/", "\\") for name in ("text_path", "image_path")}
    )
    write_csv(own[["guid", "text_path", "image_path", "label"]], tmp_path / "own.csv")
    assert read_split(tmp_path / "own.csv").text_path.tolist() == report.posts.text_path.tolist()


def test_training_posts_without_a_label_are_named_and_count_as_no_fault(tmp_path, caplog):
    root = make_sample(tmp_path / "sample")
    lines = (root / "train.txt").read_text(encoding="utf-8").splitlines()
    bare = [f"{line.split(',')[0]},null" for line in lines[1:41]]
    (root / "train.txt").write_text("\n".join([*lines[:1], *bare, *lines[41:]]), encoding="utf-8")
    report = make_splits(Workspace(root))
    found = report.audit[report.audit.problem == "no label"]
    assert found.guid.tolist() == [line.split(",")[0] for line in bare] and set(found.done) == {"not used"}
    assert "warning: train.txt: 40 without a label, not used: guid" in caplog.text


def test_a_stage_says_before_it_trains_what_it_cannot_do(posts, table, tmp_path):
    write_csv(table, tmp_path / "posts.csv")
    (tmp_path / "s.toml").write_text(
        '[splits]\ntable = "posts.csv"\nval_ratio = 0.2\n[predict]\ntest_file = "outputs/splits/test.csv"\n'
    )
    (tmp_path / "data").symlink_to(posts / "data")
    where = {"settings": tmp_path / "s.toml", "workspace": Workspace(tmp_path, allow_outside=True)}
    with pytest.raises(
        ClipsentError, match="step predict: needs .*final_clip_aug.*, which retrain makes; nothing was beg"
    ):
        run_stage(**where, only="splits,baseline,predict")
    assert not (tmp_path / "outputs/splits").exists()
    with pytest.raises(ClipsentError, match="test.csv: no post is without a label.*--skip predict"):
        run_stage(**where, only="splits,mine,augment-images,augment-text,merge,retrain,predict")
    assert not (tmp_path / "outputs/optimize").exists()


def test_backslashes_name_the_texts_of_a_table_to_predict(root):
    posts = read_split(root / "outputs/splits/val.csv").head(3)
    files = posts[["guid", "text_path", "image_path"]].map(lambda cell: cell.replace("/", "\\"))
    write_csv(files.rename(columns={"guid": "id", "image_path": "image"}), root / "own.csv")
    path = predict_file(
        root / "outputs/optimize/clip", Workspace(root), test_file=Path("own.csv"), output=Path("o.txt")
    )
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4


def test_none_is_a_class_of_lists_too(tmp_path):
    root = make_sample(tmp_path / "sample")
    lines = (root / "train.txt").read_text(encoding="utf-8").replace(",neutral", ",none")
    (root / "train.txt").write_text(lines, encoding="utf-8")
    report = make_splits(Workspace(root), labels="negative,none,positive")
    assert report.posts.label.eq("none").sum() == lines.count(",none") > 0
    assert set(read_split(root / "outputs/splits/train.csv").label) == {"negative", "none", "positive"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p.json", "of an unknown kind; give a list"),
        ("p.xlsm", "unknown kind"),
        ("empty.csv", "^[^ ]*empty.csv: no rows"),
    ],
)
def test_a_file_to_predict_that_is_none_is_refused_by_its_own_name(root, name, message):
    (root / name).write_bytes(b"guid,text,image\n" if name == "empty.csv" else b"[{}]")
    with pytest.raises(ClipsentError, match=message):
        predict_file(root / "outputs/optimize/clip", Workspace(root), test_file=Path(name), columns=Columns())


def test_robustness_of_a_model_that_is_always_wrong_has_a_page(root):
    val = read_split(root / "outputs/splits/val.csv")
    run = Run.load(root / "outputs/optimize/clip")
    missed = run.predictions.set_index("guid").query("true_label != pred_label").index
    write_csv(val[val.guid.isin(missed)], root / "outputs/splits/wrong.csv")
    measured = robustness(
        run.folder,
        settings=CorruptionSettings("jpeg,word_drop"),
        workspace=Workspace(root),
        val_csv="outputs/splits/wrong.csv",
    )
    assert measured.conditions.val_f1_macro.iloc[0] == 0
    assert "there is no score to lose" in measured.page.read_text(encoding="utf-8")


def test_no_posts_have_no_halves():
    with pytest.raises(ClipsentError, match="there are none"):
        halve_groups([], 0)
