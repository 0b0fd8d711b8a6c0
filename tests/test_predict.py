"""What a prediction takes, and what it refuses to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from faults.hub import FakeHub, status
from PIL import Image
from runfolders import record_parts

from clipsent_nb import labelling
from clipsent_nb.batches import Cluster
from clipsent_nb.cli import main
from clipsent_nb.data import read_split
from clipsent_nb.export import OnnxClassifier, write_export
from clipsent_nb.files import ClipsentError, Workspace, log, read_json, write_json
from clipsent_nb.model import read_weights, write_weights
from clipsent_nb.posts import NO_PICTURE
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.push import copy_public, find_robustness, push
from clipsent_nb.sample import make_sample
from clipsent_nb.tables import Columns

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("posts") / "sample")


@pytest.fixture(scope="module")
def classifier(root) -> Classifier:
    return Classifier.load(root / WEIGHTS)


WEIGHTS = Path("outputs/optimize/clip/best.pt")


@pytest.mark.parametrize("output", ["train.txt", "test_without_label.txt", "data", "data/new.txt"])
def test_inputs_are_not_replaced(root, output):
    before = (root / "train.txt").read_bytes()
    with pytest.raises(ClipsentError, match="--output"):
        predict_file(WEIGHTS, Workspace(root), Path(output))
    assert (root / "train.txt").read_bytes() == before and not (root / "data/new.txt").exists()


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        ([None], ["x.jpg"], "text 0: is missing; the model was trained on posts with both halves"),
        ([None], [None], "post 0: has neither a text nor a picture"),
        (np.array("hi"), ["x.jpg"], "texts: are one ndarray"),
        (["hi"], None, "picture 0: is missing; the model was trained on posts with both halves"),
        ("hi", ["x.jpg"], "texts: are one str"),
        (["hi"], b"picture", "images: are one bytes"),
        (["hi"], [], "post 0: has no picture"),
        ([], ["x.jpg"], "post 0: has no text"),
        (["hi"], ["x.jpg"], r"picture 0 \(x.jpg\): no such picture"),
        (["hi"], [b"no picture" * 99], "picture 0: broken"),
        (["hi"], [7], "picture 0: no picture but of type int"),
        (["hi"], ["data:image/jpeg;base64," + 9999 * "A"], r"picture 0 \(data:image/jpeg;base64,A+\): broken picture"),
        (["hi"], [np.zeros((3, 8, 8, 2))], "picture 0: broken picture"),
        (["ok", "\ud83d"], [Image.new("RGB", (9, 9))] * 2, "text 1: holds half of a character"),
    ],
)
def test_misshapen_posts_are_named_in_a_short_line(classifier, texts, images, message):
    with pytest.raises(ClipsentError, match=message) as caught:
        classifier.predict(texts, images)
    assert len(str(caught.value)) < 300


def test_no_posts_give_an_empty_table(classifier):
    assert classifier.memory_probabilities([], []).shape == (0, 3)
    table = classifier.predict(iter([]), iter([]))
    one = classifier.predict(["a"], [Image.new("RGB", (9, 9))])
    assert len(table) == 0 and table.dtypes.equals(one.dtypes)


def test_posts_are_numbered_from_the_first_one_unless_told_otherwise(classifier):
    for first in ((), (7,)):
        with pytest.raises(ClipsentError, match=f"picture {sum(first)}: broken"):
            classifier.memory_probabilities(["hi"], [b"no picture" * 99], *first)


def test_a_picture_that_pillow_opened_and_cannot_read_is_named(classifier, root, tmp_path):
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(next((root / "data").glob("*.jpg")).read_bytes()[:900])
    with Image.open(torn) as lazy, pytest.raises(ClipsentError, match="picture 0: broken picture"):
        classifier.predict(["hi"], [lazy])
    closed = Image.open(torn)
    closed.close()
    with pytest.raises(ClipsentError, match="picture 0: broken picture"):
        classifier.predict(["hi"], [closed])


def test_columns_arrays_and_streams_are_posts(classifier, root):
    paths = sorted((root / "data").glob("*.jpg"))[:5]
    expected = classifier.predict(list("abcde"), paths)
    for texts, images in (
        (pd.Series(list("abcde"), index=list("vwxyz")), pd.Series(map(str, paths))),
        (np.array(list("abcde")), np.array(paths, dtype=object)),
        (iter("abcde"), (path.read_bytes() for path in paths)),
    ):
        if not isinstance(texts, str):
            pd.testing.assert_frame_equal(classifier.predict(texts, images, batch_size=2), expected, atol=1e-5)


def test_weights_alone_need_the_name_of_the_encoder_under_the_project_root(root, tmp_path, monkeypatch):
    moved = root / "w" / "best.pt"
    moved.parent.mkdir()
    moved.write_bytes((root / WEIGHTS).read_bytes())
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (50, 80), "gold")
    tables = [
        Classifier.load(WEIGHTS, Workspace(root)).predict(["lovely"], [picture]),
        Classifier.load("w/best.pt", Workspace(root), model_name="tiny_clip").predict(["lovely"], [picture]),
    ]
    assert tables[0].equals(tables[1])
    words = ["predict", "--project-root", str(root), "--weights", "w/best.pt", "--model-name", "tiny_clip"]
    assert main([*words, "--no-progress"]) == 0
    with pytest.raises(ClipsentError, match="no-such-model"):
        Classifier.load("w/best.pt", Workspace(root, offline=True), model_name="no-such-model")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--weights", WEIGHTS],
        ["robustness", "--weights", WEIGHTS.parent, "--corruptions", "missing_text", "--severities", "1"],
        ["mine", "--source", "val", "--weights", WEIGHTS],
        ["errors", "--run", WEIGHTS.parent],
    ],
)
def test_paths_start_at_a_project_root_that_is_relative_itself(root, monkeypatch, words):
    monkeypatch.chdir(root.parent)
    without = ["--no-report"] * (words[0] != "predict")
    assert main([*map(str, words), *without, "--project-root", root.name, "--no-progress"]) == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["predict", "--weights", str(WEIGHTS), "--batch-size", "0"],
        ["predict", "--weights", "nowhere/best.pt"],
        ["splits", "--seed", "-1"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(root, flags, capsys):
    assert main([*flags, "--project-root", str(root), "--no-progress"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_unsure_answers_are_marked_beside_the_file_that_is_handed_in(root, classifier, tmp_path):
    plain = predict_file(WEIGHTS, Workspace(root), tmp_path / "plain.txt").read_bytes()
    for name, options in {"below": {"abstain_below": 0.5}, "share": {"coverage": 0.5}}.items():
        written = predict_file(WEIGHTS, Workspace(root), tmp_path / f"{name}.txt", **options)
        assert written.read_bytes() == plain
        table = pd.read_csv(tmp_path / f"{name}_probabilities.csv")
        names = ["guid", "tag", "p_negative", "p_neutral", "p_positive", "confidence", "abstained"]
        assert table.columns.tolist() == names and table.guid.tolist() == pd.read_csv(written).guid.tolist()
        threshold = options.get("abstain_below") or classifier.confidence_at(0.5)
        assert (table.abstained == (table.confidence < threshold)).all() and table.abstained.any()
    assert not pd.read_csv(tmp_path / "plain_probabilities.csv").abstained.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abstain_below": 0.5, "coverage": 0.5}, "--abstain-below and --coverage: say the same"),
        ({"coverage": 0.0}, "--coverage 0.0: must be above 0"),
        ({"coverage": 90}, "--coverage 90"),
        ({"output": "data/new.txt"}, "would replace an input file"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused_before_anything_is_written(root, options, message):
    with pytest.raises(ClipsentError, match=message):
        predict_file(WEIGHTS, Workspace(root), **{"output": "new/file.txt"} | options)
    assert not (root / "new").exists()


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("predict", {"abstain_below": 50}, "--abstain-below 50: must be less than or equal to 1"),
        ("predict", {"abstain_below": float("nan")}, "--abstain-below nan: must be a finite number"),
        ("predict", {"abstain_below": True}, "--abstain-below True"),
        ("predict", {"batch_size": True}, "batch_size True"),
        ("predict_sets", {"alpha": None}, "--alpha None: must be a number"),
        ("predict_sets", {"alpha": 1}, "--alpha 1: must be less than 1"),
        ("confidence_at", {"coverage": None}, "--coverage None: must be a number"),
        ("predict_posts", {"posts": pd.DataFrame({"guid": ["1"]})}, "no column text_path, image_path"),
    ],
)
def test_what_is_no_share_and_no_table_of_posts_is_refused(classifier, method, values, message):
    posts = {"texts": [], "images": []} if method in ("predict", "predict_sets") else {}
    with pytest.raises(ClipsentError, match=message):
        getattr(classifier, method)(**posts, **values)


def test_shares_may_be_text_and_tables_empty(classifier):
    assert classifier.confidence_at("0.5") == classifier.confidence_at(0.5)
    assert classifier.predict_posts(pd.DataFrame({"guid": [], "text_path": [], "image_path": []}))[1].empty


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(root, device):
    with pytest.raises(ClipsentError, match=f"device {device}: no such device on this machine"):
        Classifier.load(WEIGHTS, Workspace(root), device=device)


def test_a_model_without_its_validation_predictions_has_no_sets(classifier, root, tmp_path):
    alone = Path(shutil.copytree((root / WEIGHTS).parent, tmp_path / "alone"))
    (alone / "val_predictions.csv").unlink()
    with pytest.raises(ClipsentError, match="alone/val_predictions.csv: no such file"):
        Classifier.load(alone).predict_sets(["hi"], [Image.new("RGB", (9, 9))])
    with pytest.raises(ClipsentError, match="alpha 1"):
        classifier.predict_sets(["hi"], [Image.new("RGB", (9, 9))], alpha=1)
    assert set(classifier.predict_sets(["hi"], [Image.new("RGB", (9, 9))], alpha=0.001)[0]) == set(classifier.labels)


def test_sample_keeps_its_hands_off_other_posts(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jpg").write_bytes(b"mine")
    with pytest.raises(ClipsentError, match="holds other posts"):
        make_sample(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.jpg"]


def test_sample_is_the_same_twice(tmp_path):
    make_sample(tmp_path / "a")
    # another process, because hash seeds differ between them
    subprocess.run([sys.executable, "-m", "clipsent_nb.cli", "sample", tmp_path / "b"], check=True)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) > 700
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_weights_of_an_unfinished_run_are_said_to_be_so(root, caplog):
    (root / WEIGHTS).with_name("last.pt").write_bytes(b"")
    Classifier.load(root / WEIGHTS)
    (root / WEIGHTS).with_name("last.pt").unlink()
    assert "not finished" in caplog.text


@pytest.fixture(scope="module")
def new_posts(root) -> pd.DataFrame:
    "Six posts that are in no list: a folder, and the same posts as a table."
    folder, rows = root / "new", []
    folder.mkdir()
    for picture in sorted((root / "data").glob("1*.jpg"))[:6]:
        shutil.copy(picture, folder / picture.name)
        (folder / f"{picture.stem}.txt").write_text(f"a lovely day, number {picture.stem}", encoding="utf-8")
        rows.append((picture.stem, f"a lovely day, number {picture.stem}", f"new/{picture.name}"))
    return pd.DataFrame(rows, columns=["id", "tweet", "picture"])


def write_bytes_table(table: pd.DataFrame, path: Path) -> None:
    pictures = [{"bytes": (path.parent / name).read_bytes(), "path": name} for name in table.picture]
    table.assign(picture=pictures).to_parquet(path)


WRITERS = {
    "table.csv": lambda table, path: table.to_csv(path, index=False),
    "files.csv": lambda table, path: (
        table.assign(text_path=[name.replace(".jpg", ".txt") for name in table.picture])
        .drop(columns="tweet")
        .to_csv(path, index=False)
    ),
    "table.jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
    "table.xlsx": lambda table, path: table.to_excel(path, index=False),
    "bytes.parquet": write_bytes_table,
}


@pytest.fixture(scope="module")
def labelled(root, new_posts) -> bytes:
    "The probabilities of the six posts of the folder."
    predict_file(WEIGHTS, Workspace(root), "outputs/folder.txt", "new")
    return (root / "outputs/folder_probabilities.csv").read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_posts_in_any_table_are_labelled_like_those_of_a_folder(root, new_posts, labelled, name):
    if library := {".xlsx": "openpyxl", ".parquet": "pyarrow"}.get(Path(name).suffix):
        pytest.importorskip(library)
    WRITERS[name](new_posts, root / name)
    written = predict_file(WEIGHTS, Workspace(root), f"outputs/{name}.txt", name)
    assert (root / f"outputs/{name}_probabilities.csv").read_bytes() == labelled
    assert pd.read_csv(written, dtype=str).guid.tolist() == new_posts.id.tolist()


def test_a_killed_process_goes_on_and_writes_the_same_bytes(root, new_posts, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "PART_SIZE", 2)
    new_posts.to_csv(root / "many.csv", index=False)
    whole = predict_file(WEIGHTS, Workspace(root), tmp_path / "whole.txt", "many.csv")
    answer, asked = labelling.answer_part, []

    def interrupted(classifier, part, source, first, batch_size):
        if first > 4 and not asked.count(-1):
            asked.append(-1)
            raise KeyboardInterrupt
        asked.append(first)
        return answer(classifier, part, source, first, batch_size)

    monkeypatch.setattr(labelling, "answer_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "parts.txt", "many.csv")
    assert not (tmp_path / "parts.txt").exists()
    again = predict_file(WEIGHTS, Workspace(root), tmp_path / "parts.txt", "many.csv")
    assert asked == [1, 3, -1, 5] and again.read_bytes() == whole.read_bytes()
    for ending in ("whole", "parts"):
        assert len(pd.read_csv(tmp_path / f"{ending}_probabilities.csv")) == 6
    assert not list(tmp_path.glob(".*.parts"))


@pytest.mark.slow
def test_workers_of_a_cluster_answer_like_one_process_and_go_on_where_it_was(root, new_posts, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(labelling, "PART_SIZE", 2)
    new_posts.to_csv(root / "many.csv", index=False)
    new_posts.assign(picture=[*new_posts.picture[:4], "no.jpg", "no.jpg"]).to_csv(root / "broken.csv", index=False)
    here = predict_file(WEIGHTS, Workspace(root), tmp_path / "here.txt", "many.csv")
    ray = {"cluster": Cluster(engine="ray", jobs=2)}
    there = predict_file(WEIGHTS, Workspace(root), tmp_path / "there.txt", "many.csv", **ray)
    assert there.read_bytes() == here.read_bytes()
    one, other = (pd.read_csv(tmp_path / f"{name}_probabilities.csv") for name in ("here", "there"))
    pd.testing.assert_frame_equal(one, other, atol=1e-6)
    messages = []
    for cluster in (Cluster(), ray["cluster"]):
        with pytest.raises(ClipsentError) as caught:
            predict_file(WEIGHTS, Workspace(root), tmp_path / "broken.txt", "broken.csv", cluster=cluster)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "no.jpg" in messages[0]
    assert len(list((tmp_path / ".broken.txt.parts").iterdir())) == 2
    with pytest.raises(ClipsentError, match="--jobs 99: the cluster has"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "x.txt", "many.csv", cluster=Cluster(engine="ray", jobs=99))


def trained_without(root: Path, folder: Path, **settings: object) -> Path:
    "A copy of the run that passes for one with other settings."
    copy = Path(shutil.copytree((root / WEIGHTS).parent, folder))
    state, config = read_weights(copy / "best.pt")
    write_weights(copy / "best.pt", state, config | settings)
    write_json(copy / "config.json", read_json(copy / "config.json") | settings)
    return copy


def test_a_post_without_a_half_is_refused_unless_the_model_has_met_such_posts(root, new_posts, classifier, tmp_path):
    new_posts.assign(picture=["", *new_posts.picture[1:]]).to_csv(root / "half.csv", index=False)
    with pytest.raises(ClipsentError, match="half.csv: guid .*: has no picture; .*--modality-dropout"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "half.txt", "half.csv")
    new_posts.drop(columns="picture").to_csv(root / "words.csv", index=False)
    with pytest.raises(ClipsentError, match="no column for the image"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "half.txt", "words.csv")
    assert not list(tmp_path.glob("*.txt"))
    dropped = trained_without(root, tmp_path / "dropped", modality_dropout=0.1)
    new_posts.assign(tweet=["", *new_posts.tweet[1:]]).to_csv(root / "pictures.csv", index=False)
    for table in ("pictures.csv", "half.csv", "words.csv"):
        predict_file(dropped, Workspace(root), tmp_path / "half.txt", table)
    found = pd.read_csv(tmp_path / "half_probabilities.csv")
    text, image = classifier.encode(
        classifier.read_memory(new_posts.tweet, [root / name for name in new_posts.picture])
    )
    expected = classifier.feature_probabilities((text, torch.zeros_like(image)))
    np.testing.assert_allclose(found.filter(like="p_"), expected, atol=1e-6)
    with pytest.raises(ClipsentError, match="post 0: has neither a text nor a picture"):
        Classifier.load(dropped).predict([None], [None])
    (root / "half_list.txt").write_text("guid,tag\nhalf,null\n")
    (root / "data/half.txt").write_text("only words")
    with pytest.raises(ClipsentError, match="half_list.txt: no prediction file was written, because of half .no image"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "list.txt", "half_list.txt")
    predict_file(dropped, Workspace(root), tmp_path / "list.txt", "half_list.txt")
    found = pd.read_csv(tmp_path / "list_probabilities.csv").filter(like="p_")
    alone = Classifier.load(dropped).predict(["only words"], [None]).filter(like="p_")
    np.testing.assert_allclose(found, alone, atol=1e-6)
    (root / "data/half.txt").unlink()
    posts = pd.read_csv(tmp_path / "dropped/train_posts.csv", dtype=str)
    stand_ins = trained_without(root, tmp_path / "stand_ins")
    posts.loc[0, "image_digest"] = labelling.OF_NOBODY[1]  # as `splits --allow-missing` leaves it
    posts.to_csv(stand_ins / "train_posts.csv", index=False)
    record_parts(stand_ins)
    assert Classifier.load(stand_ins).may_lack == {"image"} and classifier.may_lack == set()


def test_what_a_post_lacks_counts_alike_however_it_is_said(root, classifier, tmp_path):
    picture, white = next((root / "data").glob("*.jpg")), Image.new("RGB", (30, 20), "white")
    shutil.copytree(root / "data", tmp_path / "data")
    (tmp_path / "a.txt").write_bytes(b""), (tmp_path / "b.txt").write_bytes(b"so good")
    shutil.copy(picture, tmp_path / "a.jpg"), (tmp_path / "b.gif").write_bytes(NO_PICTURE)
    rows = [("a", "a.txt", "a.jpg"), ("b", "b.txt", "b.gif")]
    table = pd.DataFrame(rows, columns=["guid", "text_path", "image_path"])
    own = trained_without(root, tmp_path / "dropped", modality_dropout=0.1)
    model, features = Classifier.load(own), classifier.read_memory(["", "so good"], [picture, white])
    text, image = classifier.encode(features)
    zeros = (text * torch.tensor([[0.0], [1.0]]), image * torch.tensor([[1.0], [0.0]]))
    write_export(model, tmp_path / "onnx")
    answers = [
        one.predict(texts, images).filter(like="p_")
        for one in (model, OnnxClassifier.load(tmp_path / "onnx", threads=1))
        for texts in ([None, "so good"], ["", "so good"])
        for images in ([picture, None], [picture, white])
    ]
    answers.append(model.predict_posts(table, Workspace(tmp_path))[1].filter(like="p_"))
    for found in answers:
        np.testing.assert_allclose(found, model.feature_probabilities(zeros), atol=1e-5)
    seen = classifier.predict(["", "so good"], [picture, white]).filter(like="p_")  # without dropout nothing lacks
    np.testing.assert_allclose(seen, classifier.feature_probabilities((text, image)), atol=1e-5)
    assert np.abs(seen.to_numpy() - answers[0].to_numpy()).max() > 1e-3


@pytest.mark.parametrize("output", ["train.txt", "outputs/splits/train.csv", "data/new.txt", "picture.jpg"])
@pytest.mark.parametrize("place", [".", "..", "/"], ids=["inside", "relative", "absolute"])
def test_answers_replace_nothing_wherever_the_project_is_seen_from(root, classifier, monkeypatch, output, place):
    shutil.copy(next((root / "data").glob("*.jpg")), root / "picture.jpg")
    monkeypatch.chdir(root / place)
    project = {".": Path(), "..": Path(root.name), "/": root}[place]
    with pytest.raises(ClipsentError, match="would replace"):
        predict_file(WEIGHTS, Workspace(project), output, text="hi", image="picture.jpg")


def test_a_folder_in_an_old_encoding_is_labelled_with_a_warning_or_as_it_is_named(root, tmp_path, caplog):
    for guid, text in (("a", "хорошо очень"), ("b", "plain")):
        (tmp_path / f"{guid}.txt").write_bytes(text.encode("cp1251"))
        Image.new("RGB", (9, 9)).save(tmp_path / f"{guid}.jpg")
    predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path)
    assert "the encoding of 1 text is a guess: guid a (cp1252)" in caplog.text
    caplog.clear()
    predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path, encoding="cp1251")
    assert "guess" not in caplog.text
    shutil.copy(tmp_path / "a.txt", root / "data/guessed.txt")
    shutil.copy(tmp_path / "a.jpg", root / "data/guessed.jpg")
    (tmp_path / "list.txt").write_text("guid,tag\nguessed,null\n")
    predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path / "list.txt")
    assert "the encoding of 1 text is a guess: guid guessed (cp1252)" in caplog.text
    caplog.clear()
    predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path / "list.txt", encoding="cp1251")
    assert "guess" not in caplog.text.replace("guessed", "")
    for suffix in ("txt", "jpg"):
        (root / f"data/guessed.{suffix}").unlink()
    (tmp_path / "b.txt").unlink()
    with pytest.raises(ClipsentError, match="guid b: has no text"):
        predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path)
    (tmp_path / "list.txt").write_bytes("guid,tag\nя,null\n".encode("cp1251"))
    with pytest.raises(ClipsentError, match=r"because of я \(no text"):
        predict_file(WEIGHTS, Workspace(root), "outputs/old.txt", tmp_path / "list.txt", encoding="cp1251")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "a", "test_file": "new"}, "--test-file: says nothing of the post of --text"),
        ({"text": "a", "encoding": "cp1251"}, "--encoding: says nothing of the post of --text"),
        ({"text": "a", "columns": Columns(id_column="id")}, "--id-column: is a column of no table"),
        ({"columns": Columns(text_column="text")}, "--text-column: is a column of no table"),
        ({"test_file": "data", "columns": Columns(text_column="text")}, "--text-column: is a column of no table"),
        ({"cluster": Cluster(engine="ray")}, "--engine ray: answers tables and folders; name one by --test-file"),
        ({"test_file": "data", "cluster": Cluster(jobs=2)}, "--jobs 2: needs --engine ray"),
        ({"test_file": "a.csv", "columns": Columns(label_column="a")}, "--label-column: is not read where posts"),
        ({"test_file": "a.csv", "columns": Columns(split_column="a")}, "--split-column: is not read where posts"),
        ({"encoding": "klingon"}, "--encoding klingon: no such encoding"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(root, options, message):
    with pytest.raises(ClipsentError, match=message):
        predict_file(WEIGHTS, Workspace(root), "outputs/ignored.txt", **options)


def test_one_post_is_answered_in_a_line_and_nothing_is_written(root, new_posts, labelled, capsys):
    before = sorted(root.glob("outputs/*"))
    words = ["--text", new_posts.tweet[0], "--image", new_posts.picture[0], "--abstain-below", "1"]
    assert main(["predict", "--weights", str(WEIGHTS), *words, "--project-root", str(root), "--no-progress"]) == 0
    tag, confidence = labelled.decode().splitlines()[1].split(",")[1:6:4]
    line = capsys.readouterr().out
    assert line.startswith(f"{tag} {float(confidence):.2f} (") and "abstained, below a confidence of 1.00" in line
    assert sorted(root.glob("outputs/*")) == before


def kept_files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "outputs/cache/features").rglob("*") if path.is_file()}


def test_features_of_frozen_towers_are_kept_for_the_next_model(root, classifier, tmp_path, monkeypatch):
    frozen, val = trained_without(root, tmp_path / "frozen", trainable_blocks=0), root / "outputs/splits/train.csv"
    expected = classifier.predict_posts(val, Workspace(root))[1]
    found = Classifier.load(frozen).predict_posts(val, Workspace(root))[1]
    np.testing.assert_allclose(found.filter(like="p_"), expected.filter(like="p_"), atol=1e-5)
    monkeypatch.setattr("clipsent_nb.model.DualEncoderClassifier.features", None)  # no tower is run again
    again = Classifier.load(frozen).predict_posts(val, Workspace(root))[1]
    pd.testing.assert_frame_equal(again, found)
    monkeypatch.undo()
    before = kept_files(root)
    few = read_split(root / "outputs/splits/val.csv").head(2)
    Classifier.load(frozen).predict_posts(few, Workspace(root))
    assert kept_files(root) == before  # a few are not worth keeping


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty hub that takes uploads, and a fresh cache."
    hub = FakeHub("someone/mood", main=tmp_path / "on_the_hub")
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
        monkeypatch.setattr(huggingface_hub.constants, name, True)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
    yield hub
    hub.close()


def test_a_model_comes_back_from_the_hub_without_the_places_and_names_of_this_machine(root, classifier, hub, tmp_path):
    run, costs = (root / WEIGHTS).parent, {"modality": "picture", "family": "blur", "drop": 0.1, "relative_drop": 0.2}
    (root / "outputs/optimize/robustness").mkdir()
    write_json(
        root / "outputs/optimize/robustness/robustness_metrics.json",
        {
            "posts": 9,
            "leaked": False,
            "weights": "/elsewhere/optimize/clip/best.pt",
            "corruptions": {"defocus_blur": costs},
        },
    )
    assert push(run, "someone/mood", workspace=Workspace(root)).endswith("/someone/mood/commit/1")
    assert hub.settings[0]["visibility"] == "private" and hub.large  # the weights went as a large file
    files = [path for path in hub.folders["main"].rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"best.pt", "README.md", "train_posts.csv"} <= names and not {"last.pt", "report.html"} & names
    guids = pd.read_csv(run / "val_predictions.csv", dtype=str).guid
    for path in files:
        assert str(root).encode() not in path.read_bytes()
    assert not set(guids) & set(pd.read_csv(hub.folders["main"] / "val_predictions.csv", dtype=str).guid[100:])
    card = huggingface_hub.ModelCard.load(hub.folders["main"] / "README.md")
    assert card.data.library_name == "clipsent_nb" and card.data.eval_results
    assert 'Classifier.load("someone/mood")' in card.text and "defocus blur costs most" in card.text
    found, pictures = Classifier.load("someone/mood", Workspace(tmp_path)), sorted((root / "data").glob("*.jpg"))[:2]
    pd.testing.assert_frame_equal(found.predict(["a", "b"], pictures), classifier.predict(["a", "b"], pictures))
    assert found.confidence_at(0.5) == classifier.confidence_at(0.5)
    hub.close()
    assert Classifier.load("someone/mood", Workspace(tmp_path, offline=True)).labels == classifier.labels


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("POST /api/repos/create", status(401), "the hub refuses it .*no model was published; check the name"),
        ("PUT /large/", status(403), "the hub refuses it .*no model was published"),
        ("POST .*/commit/", status(500), "the hub does not take it .*; try again"),
    ],
)
def test_an_upload_that_the_hub_refuses_is_one_line(root, hub, monkeypatch, pattern, fault, message):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own tries
    hub.fail(pattern, fault)
    with pytest.raises(ClipsentError, match=message) as caught:
        push((root / WEIGHTS).parent, "someone/mood", workspace=Workspace(root))
    assert "\n" not in str(caught.value) and not (hub.folders["main"] / "best.pt").exists()


@pytest.mark.parametrize(
    ("run", "name", "options", "message"),
    [
        (WEIGHTS.parent, "some/one/mood", {}, "no name of a model on the hub"),
        (WEIGHTS.parent, "someone/mood", {"offline": True}, "--offline: an upload needs the network"),
        ("data", "someone/mood", {}, "data: holds no finished run"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(root, hub, run, name, options, message):
    with pytest.raises(ClipsentError, match=message):
        push(run, name, workspace=Workspace(root, **options))
    assert not hub.requests


def test_a_model_without_weights_is_not_pushed(root, hub, tmp_path):
    for lost, message in (
        ("best.pt", "best.pt"),
        ("encoder", "encoder"),
        ("val_predictions.csv", "val_predictions.csv"),
    ):
        folder = Path(shutil.copytree((root / WEIGHTS).parent, tmp_path / lost / "clip"))
        shutil.rmtree(folder / lost) if lost == "encoder" else (folder / lost).unlink()
        with pytest.raises(ClipsentError, match=message) as caught:
            push(folder, "someone/mood", workspace=Workspace(root))
        assert str(folder) in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["best.pt", "config.json", "encoder/config.json", "README.md"])
def test_files_of_a_model_are_not_replaced(root, name):
    file = (root / WEIGHTS).parent / name
    before = file.read_bytes()
    with pytest.raises(ClipsentError, match="would replace a"):
        predict_file(WEIGHTS.parent, Workspace(root), file)
    assert file.read_bytes() == before


def test_answers_do_not_share_a_table_of_probabilities(root, tmp_path):
    predict_file(WEIGHTS, Workspace(root), tmp_path / "res.csv")
    before = (tmp_path / "res_probabilities.csv").read_bytes()
    with pytest.raises(ClipsentError, match="res_probabilities.csv beside it belongs to res.csv"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "res.txt")
    predict_file(WEIGHTS, Workspace(root), tmp_path / "res.csv")
    assert (tmp_path / "res_probabilities.csv").read_bytes() == before and not (tmp_path / "res.txt").exists()


def test_two_files_of_a_kind_are_said_and_answers_do_not_go_among_them(root, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", True)
    post, new = read_split(root / "outputs/splits/val.csv").iloc[0], tmp_path / "new"
    new.mkdir()
    for name in ("a.jpg", "a.png"):
        shutil.copy(root / post.image_path, new / name)
    (new / "a.txt").write_text("so good")
    predict_file(WEIGHTS, Workspace(root), tmp_path / "a.txt", test_file=new)
    assert "two files of one kind for a post; used is a.jpg rather than a.png" in caplog.text
    with pytest.raises(ClipsentError, match="would replace an input file, or lie among them"):
        predict_file(WEIGHTS, Workspace(root), new / "answers.txt", test_file=new)


@pytest.mark.parametrize("guid", ["", "=1+1", "@a", "two\nlines"])
def test_ids_that_no_table_should_hold_are_named(root, tmp_path, guid):
    pd.DataFrame({"id": ["1", guid], "text": "a", "image": "b.jpg"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ClipsentError, match="t.csv, row 3: the id .* is empty, cannot be printed, or is a formula"):
        predict_file(WEIGHTS, Workspace(root), tmp_path / "a.txt", test_file=tmp_path / "t.csv")


def test_a_name_that_could_be_a_path_of_the_project_asks_no_hub(root, hub):
    for name in ("outputs/nothing", "nowhere/best.pt", "a/b/c"):
        with pytest.raises(ClipsentError, match="no such file"):
            Classifier.load(name, Workspace(root))
    assert not hub.requests
    with pytest.raises(ClipsentError, match="--weights someone/else: neither a folder here nor a model that the hub"):
        Classifier.load("someone/else", Workspace(root))


def test_digests_of_training_posts_can_stay_here_and_an_old_measurement_is_not_told(root, tmp_path):
    copy_public((root / WEIGHTS).parent, tmp_path / "model", digests=False)
    assert not (tmp_path / "model/train_posts.csv").exists()
    os.utime(root / WEIGHTS)
    assert find_robustness(root / WEIGHTS, Workspace(root)) == {}


def test_a_key_that_comes_late_in_json_lines_is_read(tmp_path):
    rows = [{"id": str(n), "text": "a day"} | ({"image": f"{n}.jpg"} if n >= 300 else {}) for n in range(310)]
    (tmp_path / "late.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parts = list(labelling.read_rows(tmp_path / "late.jsonl", Columns(), Workspace(tmp_path), "auto", ["text"]))
    table = pd.concat(parts, ignore_index=True)
    assert table.image.notna().tolist() == [n >= 300 for n in range(310)] and len(parts) == 2


def test_the_home_of_the_user_is_known_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    found = Workspace("~/project", data_root="~/posts")
    assert (found.project_root, found.posts_root) == (tmp_path / "project", tmp_path / "posts")


def test_an_encoder_that_an_ensemble_does_not_need_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", True)
    (tmp_path / "ensemble.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ClipsentError, match="ensemble.json"):
        Classifier.load(tmp_path, model_name="somebody/model")
    assert "--model-name somebody/model is not used" in caplog.text


def test_answers_of_another_model_are_not_replaced_in_silence(root, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="clipsent_nb")
    monkeypatch.setattr(log, "propagate", True)
    output = tmp_path / "answers.txt"
    for held, told in (("", False), ("guid,tag\n1,positive\n", True), (None, False)):
        if held is not None:
            output.write_text(held)
        caplog.clear()
        predict_file(WEIGHTS, Workspace(root), output=output)
        assert any("replaced; it held other answers" in message for message in caplog.messages) == told


def test_a_picture_that_is_not_there_is_said_before_a_model_is_loaded(root, monkeypatch):
    monkeypatch.setattr(Classifier, "load", None)
    with pytest.raises(
        ClipsentError, match="--image nope.jpg: no such picture; a relative path starts at --project-root"
    ):
        predict_file(WEIGHTS, Workspace(root), text="hi", image=Path("nope.jpg"))
