"""Groups of posts that are missing, odd or of another name; pictures given twice; cells without a value; misplaced marks."""

import codecs
import io
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipsent_nb.augment import augment_images, merge
from clipsent_nb.copies import find_copies, looks_wrong
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import decode_text, guess_encodings, open_image
from clipsent_nb.explain import deletion_gap
from clipsent_nb.export import OnnxClassifier, compare_with_run, export
from clipsent_nb.files import ClipsentError, Workspace, write_csv
from clipsent_nb.inputs import inputs_from_memory
from clipsent_nb.posts import read_list
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.sample import make_sample
from clipsent_nb.state import load_inputs, sample_config
from clipsent_nb.stats import adjust_p, compare_seeds, group_numbers, halve_groups, mcnemar, refuse_one_group
from clipsent_nb.tables import Columns, as_text, read_division, read_post_table, read_votes

torch.set_num_threads(1)
RUN = Path("outputs/optimize/clip")
MARK = codecs.BOM_UTF8


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("marks") / "sample")


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A project of its own with a short run."
    return Path(shutil.copytree(trained, tmp_path / "sample"))


def test_an_altered_copy_of_a_validation_post_leaks_whatever_its_group(root):
    val = read_split(root / "outputs/splits/val.csv")
    source, mate, stranger = val.guid.iloc[:3]
    for guid in (source, mate):
        (root / f"data/{guid}.txt").write_text("hm ok")  # too short to tell of a copy
    write_csv(val.assign(group=val.group.mask(val.guid.isin([source, mate]), mate)), root / "outputs/splits/val.csv")
    row = val[val.guid == source].rename(columns={"label": "true_label"}).assign(pred_label="neutral")
    write_csv(row[["guid", "true_label", "pred_label", "text_path", "image_path"]], root / "mine.csv")
    write_csv(pd.DataFrame(columns=["guid", "true_label", "text_aug"]), root / "texts.csv")
    images = augment_images(Path("mine.csv"), workspace=Workspace(root))
    merge(Path("outputs/splits/train.csv"), Path("mine.csv"), images, Path("texts.csv"), workspace=Workspace(root))
    leaked = load_inputs(sample_config(root, train_csv=Path("outputs/optimize/train_aug.csv"))).leaked
    assert {source, mate} <= set(leaked) and stranger not in leaked


def test_groups_that_are_called_like_other_posts_are_no_copies():
    columns = {"image_digest": "", "text_key": "", "image_hash": ""}
    posts = pd.DataFrame({"guid": ["1", "2", "8_ia1"], "group": ["7", "8", "9"], **columns})
    authors = pd.DataFrame({"guid": ["11", "12"], "group": ["1", "2"], **columns})  # numbers, as the guids are
    assert not find_copies(posts, authors).any()
    copies = authors.assign(guid=["1_ia2", "2_ta1_ia12"])
    assert find_copies(posts, copies).tolist() == [True, True, False]


def test_an_export_looks_for_copies_among_the_files_of_today(root):
    export(RUN, Workspace(root))
    path = root / "outputs/splits/val.csv"
    train, val = read_split(root / "outputs/splits/train.csv"), read_split(path)
    classifier, exported = Classifier.load(RUN, Workspace(root), device="cpu"), OnnxClassifier.load(root / RUN / "onnx")
    for mine, met in zip(val.image_path[:4], train.image_path[:4], strict=True):
        Image.open(root / met).convert("RGB").save(root / mine, "JPEG", quality=80)
    assert compare_with_run(classifier, exported, Workspace(root))[0]["met_posts"] >= 4
    write_csv(train[["guid", "text_path", "image_path", "label"]].head(9), path)
    assert compare_with_run(classifier, exported, Workspace(root))[0]["met_posts"] == 9


def test_a_palette_with_opacities_becomes_white_where_it_is_clear():
    drawn = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    drawn.paste((255, 0, 0, 255), (20, 20, 40, 40))
    palette = drawn.quantize(16, method=Image.Quantize.FASTOCTREE)
    assert palette.mode == "P" and palette.palette.mode == "RGBA"
    assert [open_image(palette).getpixel(place) for place in ((0, 0), (30, 30))] == [(255,) * 3, (255, 0, 0)]


class SlowStream(io.BytesIO):
    "An open file that other threads can get hold of between two calls."

    reads = 0

    def seek(self, *place: int) -> int:
        found = super().seek(*place)
        time.sleep(0.05)
        return found

    def read(self, *size: int) -> bytes:
        self.reads += 1
        return super().read(*size)


def test_one_picture_of_several_posts_is_read_once(root):
    content = io.BytesIO()
    Image.effect_noise((600, 600), 90).convert("RGB").save(content, "PNG")
    processors = Classifier.load(RUN, Workspace(root)).processors

    def read(images: list, first: int = 0) -> np.ndarray:
        found = inputs_from_memory(["a"] * len(images), images, processors, {}, workers=4, first=first)
        return found.pixels[found.rows]

    wanted = read([content.getvalue()] * 8)
    stream = SlowStream(content.getvalue())
    np.testing.assert_array_equal(read([stream] * 8), wanted)
    assert stream.reads == 1
    for _ in range(5):
        np.testing.assert_array_equal(read([Image.open(content)] * 8), wanted)
    other, broken = Image.new("RGB", (9, 9)), io.BytesIO(b"nothing")
    mixed = read([other, content, other, content.getvalue()])
    np.testing.assert_array_equal(mixed[[1, 3]], wanted[:2])
    assert (mixed[0] == mixed[2]).all() and (mixed[0] != mixed[1]).any()
    with pytest.raises(ClipsentError, match="picture 12: broken"):
        read([other, other, broken, broken], first=10)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif"])
def test_a_lazy_picture_whose_file_is_closed_is_broken(tmp_path, name):
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        pass
    with pytest.raises(ClipsentError, match=r"given: broken picture \("):
        open_image(image, "given")


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, pd.NaT, ""])
@pytest.mark.parametrize("shape", [list, tuple, lambda given: pd.Series(given, index=[5, 5, 1, 0], dtype=object)])
def test_posts_without_a_group_stand_alone(missing, shape):
    assert group_numbers(shape(["a", missing, "a", missing]), 4).tolist() == [0, 1, 0, 2]
    assert group_numbers(shape([2**60, missing, 2**60 + 1, 2**60]), 4).tolist() == [0, 2, 1, 0]
    refuse_one_group(shape([missing] * 4), "posts")


ODD_GROUPS = {
    "2-D": np.zeros((4, 2)),
    "lists": [["a"], ["b"], ["c"], ["d"]],
    "tuples": [("a", 1), ("a", 2), ("b", 1), ("b", 2)],
    "a series of lists": pd.Series([["a"], ["b"], ["c"], ["d"]]),
    "a mapping": dict.fromkeys("abcd"),
    "a set": set("abcd"),
    "a text": "abcd",
    "a number": 4,
    "too few": ["a"],
}


@pytest.mark.parametrize("groups", ODD_GROUPS.values(), ids=list(ODD_GROUPS))
def test_groups_that_are_no_labels_are_refused(groups):
    ids, curves = [0, 1, 0, 1], curves_of(4)
    calls = [
        lambda: group_numbers(groups, 4),
        lambda: mcnemar(ids, ids, ids, groups),
        lambda: compare_seeds(ids, ids, ids, groups=groups),
        lambda: halve_groups(groups, 4),
        lambda: deletion_gap(curves, groups),
    ]
    for call in calls:
        with pytest.raises(ClipsentError, match="groups: must be a list of 4"):
            call()


def curves_of(posts: int) -> pd.DataFrame:
    "As `deletion_curves` has them."
    rows = [(post, part, 0.1, 0.1 * post, 0.9) for post in range(posts) for part in ("picture", "words")]
    return pd.DataFrame(rows, columns=["post", "part", "share", "ranked", "random"])


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, ""])
def test_explained_posts_without_a_group_count(missing):
    curves = curves_of(4)
    found = deletion_gap(curves, ["a", "a", missing, missing])
    pd.testing.assert_frame_equal(found, deletion_gap(curves, ["a", "a", "b", "c"]))
    assert found.groups.tolist() == [3, 3]


def test_groups_of_explained_posts_may_come_from_a_generator():
    curves = curves_of(4)
    pd.testing.assert_frame_equal(deletion_gap(curves, (name for name in "aabc")), deletion_gap(curves, list("aabc")))


@pytest.mark.parametrize("cell", [None, pd.NaT, pd.NA, float("nan"), np.float32("nan"), np.datetime64("NaT")])
def test_a_missing_cell_of_any_type_is_no_text(cell):
    assert as_text(cell) == ""


def test_posts_without_a_date_are_no_group(tmp_path):
    day = pd.Series([pd.Timestamp("2020-01-01"), pd.NaT, pd.NaT, pd.Timestamp("2020-01-01")])
    table = {"id": list("abcd"), "text": list("wxyz"), "image": ["1.jpg"] * 4, "label": ["positive"] * 4, "group": day}
    pd.DataFrame(table).to_parquet(tmp_path / "t.parquet")
    groups = read_post_table(tmp_path / "t.parquet", Columns(), Workspace(tmp_path)).group.tolist()
    assert groups[1:3] == ["guid b", "guid c"] and groups[0] == groups[3]


@pytest.mark.parametrize("p", [[2, -1], [0.5, 1.5], [np.inf], ["a"], 0.5, [[0.1], [0.2]]])
def test_what_is_no_list_of_p_values_is_refused(p):
    with pytest.raises(ClipsentError, match="p: must be "):
        adjust_p(p)


def test_p_values_of_no_test_stay():
    np.testing.assert_array_equal(adjust_p([np.nan, 0.01, 0.04]), [np.nan, 0.02, 0.04])
    assert adjust_p([]).shape == (0,)


SENTENCES = {"gb18030": "今天天气真好，我们去公园玩吧", "cp1252": "été très bon et naïve façade"}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_a_mark_of_utf8_before_other_bytes_is_no_letter(encoding, tmp_path, caplog):
    sentence = SENTENCES[encoding]
    raw = MARK + sentence.encode(encoding)
    assert decode_text(raw) == decode_text(raw, encoding) == (sentence, encoding)
    assert guess_encodings([raw]) == [encoding] and not looks_wrong(raw, encoding)
    table = f"id,text,image,label\na17,{sentence},data/1.jpg,positive\n"
    (tmp_path / "t.csv").write_bytes(MARK + table.encode(encoding))
    rows = read_post_table(tmp_path / "t.csv", Columns(), Workspace(tmp_path))
    assert rows.guid.tolist() == ["a17"] and (tmp_path / rows.text_path[0]).read_text(encoding="utf-8") == sentence
    assert f"t.csv: read as {encoding}, which is a guess" in caplog.text
    (tmp_path / "train.txt").write_bytes(MARK + f"guid,tag\n1,{sentence[:5]}\n".encode(encoding))
    rows, problems = read_list(tmp_path / "train.txt")
    assert rows.guid.tolist() == ["1"] and rows.label.tolist() == [sentence[:5].strip("，")] and not problems


def test_a_marked_table_is_labelled_by_its_own_ids(root):
    rows = [("a17", "今天天气真好", "2"), ("b29", "很开心", "3")]
    body = "id,text,image\n" + "".join(f"{guid},{text},data/{post}.jpg\n" for guid, text, post in rows)
    (root / "posts.csv").write_bytes(MARK + body.encode("gb18030"))
    for post in ("2", "3"):
        Image.new("RGB", (9, 9)).save(root / f"data/{post}.jpg")
    predict_file(RUN, Workspace(root), Path("answers.csv"), test_file=Path("posts.csv"))
    assert pd.read_csv(root / "answers.csv").guid.tolist() == ["a17", "b29"]


def test_posts_in_no_part_of_a_division_do_not_count(tmp_path):
    root = make_sample(tmp_path / "sample")
    make_splits(Workspace(root))
    guids = pd.concat([read_split(root / f"outputs/splits/{name}.csv") for name in ("train", "val")]).guid.tolist()
    folder, outside = root / "10-flod-1", guids[100:]
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(guids[:80]))
    (folder / "dev.txt").write_text("\n".join(guids[80:100]))
    for guid in outside:
        for file in (root / "data").glob(f"{guid}.*"):
            file.unlink()
    report = make_splits(Workspace(root, max_bad="0%"), division=Path("10-flod-1"))
    audit = report.audit[report.audit.guid.isin(outside)]
    assert len(report.posts) == 100 and set(audit.guid) == set(outside)
    assert not audit.done.str.startswith("row left out").any()
    (root / f"data/{guids[0]}.txt").unlink()
    with pytest.raises(ClipsentError, match=f"1 of 100 posts cannot be used; the first, guid {guids[0]}"):
        make_splits(Workspace(root, max_bad="0%"), division=Path("10-flod-1"))


def test_the_files_of_a_division_and_votes_are_read_as_encoding_says(tmp_path, caplog):
    root = make_sample(tmp_path / "sample")
    make_splits(Workspace(root))
    train = read_split(root / "outputs/splits/train.csv")
    guids = train.guid[train.encoding == "utf-8"].tolist()
    folder = root / "10-flod-1"
    folder.mkdir()
    (folder / "train.txt").write_bytes("\n".join(guids[:40]).encode("utf-16-le"))
    (folder / "val.json").write_bytes(f"[{', '.join(map(repr, guids[40:60]))}]".replace("'", '"').encode("utf-16-le"))
    division = Path("10-flod-1")
    assert len(make_splits(Workspace(root), division=division, encoding="utf-16-le").posts) == 60
    with pytest.raises(ClipsentError, match="train.txt: cannot be read .holds null bytes"):
        make_splits(Workspace(root), division=division)
    (folder / "val.json").unlink()
    (folder / "train.txt").write_text("甲1\n", encoding="big5")
    assert read_division(folder, "big5").index[0] == "甲1"
    votes = "ID\ttext,image\n" + "".join(f"{guid}\tpositive,positive\n" for guid in guids)
    (root / "labelResultAll.txt").write_bytes(votes.encode("utf-16-le"))
    assert read_votes(root / "labelResultAll.txt", 1, "utf-16-le").guid.tolist() == guids
    make_splits(Workspace(root, max_bad="9%"), mvsa="single", encoding="utf-16-le", labels="positive,negative")
    with pytest.raises(ClipsentError, match="labelResultAll.txt: cannot be read .holds null bytes"):
        make_splits(Workspace(root), mvsa="single")
