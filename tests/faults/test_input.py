"""Pictures, texts, lists, split files, weights and numbers that cannot be right: each is named, and nothing else is lost."""

import codecs
import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipsent_nb.cleaning import active_rules, clean_text
from clipsent_nb.cli import main
from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import LONGEST_TEXT, open_image, pair_posts
from clipsent_nb.encoders import load_processors
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.inputs import inputs_from_memory, load_posts
from clipsent_nb.labels import LABELS
from clipsent_nb.model import read_weights
from clipsent_nb.posts import read_list
from clipsent_nb.predict import Classifier
from clipsent_nb.runs import RUN_FORMAT, Run, warn_of_changes
from clipsent_nb.sample import make_sample, tiny_clip
from clipsent_nb.state import load_inputs, sample_config
from clipsent_nb.train import fit

torch.set_num_threads(1)
GUID = "1"  # of the post that is spoilt
COUNT = 36


def noise(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 255, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize(size)


def stored(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def posts(tmp_path) -> Path:
    "A small folder of good posts."
    (tmp_path / "data").mkdir()
    for number in range(COUNT):
        (tmp_path / f"data/{number}.jpg").write_bytes(stored(noise(number)))
        (tmp_path / f"data/{number}.txt").write_text(f"a text that only post number {number} has", encoding="utf-8")
    rows = "".join(f"{number},{LABELS[number % 3]}\n" for number in range(COUNT))
    (tmp_path / "train.txt").write_text(f"guid,tag\n{rows}", encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny"))


def problem_of(root: Path, guid: str = GUID) -> str:
    "What the audit says about a post, after splits that go on; every other post is in a split file."
    report = make_splits(Workspace(root, max_bad="20%"), val_ratio=0.2)
    entries = report.audit[report.audit.guid == guid]
    kept = pd.concat([read_split(root / f"outputs/splits/{name}.csv") for name in ("train", "val")]).guid
    out = (entries.done == "row left out").any()
    assert set(kept) | ({guid} if out else set()) == {str(number) for number in range(COUNT)}
    assert (guid in set(kept)) != out
    return "; ".join(entries.problem)


def huge_png() -> bytes:
    "A header that claims 20,000 by 20,000 pixels; behind it little is left."
    whole = stored(Image.new("L", (8, 8)), "PNG")
    header = b"IHDR" + (20_000).to_bytes(4) * 2 + whole[24:29]
    import zlib

    return whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:]


PICTURES = {
    "cut short": (stored(noise(0, (400, 400)))[:3000], "broken picture (image file is truncated"),
    "no bytes": (b"", "broken, or no JPEG, PNG, GIF"),
    "text called jpg": (b"<html>404</html>", "broken, or no JPEG, PNG, GIF"),
    "20,000 by 20,000 pixels": (huge_png(), "more than 100 million pixels; scale it down"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_used_is_named_and_costs_no_other_post(posts, encoder, name):
    content, what = PICTURES[name]
    (posts / f"data/{GUID}.jpg").write_bytes(content)
    assert what in problem_of(posts)
    table = pd.DataFrame(
        [{"guid": g, "text_path": f"data/{g}.txt", "image_path": f"data/{g}.jpg"} for g in ("0", GUID)]
    )
    processors = load_processors(encoder)
    with pytest.raises(
        ClipsentError, match=f"two: 1 of 2 posts cannot be used; the first, guid {GUID}: .*{GUID}.jpg: "
    ):
        load_posts(table, processors, {}, Workspace(posts), "two")
    assert load_posts(table, processors, {}, Workspace(posts, max_bad="50%")).guids == ["0"]


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored(Image.new("RGB", (30, 60), "teal"), exif=exif)


READABLE = {
    "animated": (stored(Image.new("P", (40, 40), 3), "GIF", save_all=True, append_images=[noise(2)]), (40, 40)),
    "CMYK": (stored(noise(1).convert("CMYK")), (40, 40)),
    "16 bits": (stored(Image.fromarray(np.full((40, 40), 40000, dtype=np.uint16)), "PNG"), (40, 40)),
    "palette": (stored(noise(1).quantize(8), "PNG"), (40, 40)),
    "rotated": (rotated(), (60, 30)),
    "one pixel": (stored(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1)),
}


@pytest.mark.parametrize("name", READABLE)
def test_an_unusual_picture_is_read(posts, encoder, name):
    content, size = READABLE[name]
    (posts / f"data/{GUID}.jpg").write_bytes(content)
    assert problem_of(posts) == ""
    image = open_image(posts / f"data/{GUID}.jpg")
    assert image.mode == "RGB" and image.size == size
    table = read_split(posts / "outputs/splits/train.csv").head(5)
    inputs = load_posts(table, load_processors(encoder), {}, Workspace(posts))
    assert torch.isfinite(inputs.batch(range(5))["pixel_values"]).all()


def test_a_missing_picture(posts):
    (posts / f"data/{GUID}.jpg").unlink()
    assert problem_of(posts) == "no image of this name"


def test_a_folder_with_the_name_of_a_picture(posts):
    (posts / f"data/{GUID}.jpg").unlink()
    (posts / f"data/{GUID}.jpg").mkdir()
    assert problem_of(posts) in ("Is a directory", "Permission denied")


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
@pytest.mark.parametrize("suffix", ["jpg", "txt"])
def test_a_file_that_may_not_be_read(posts, suffix, monkeypatch):
    import imagehash  # noqa: F401 - while the files of this environment may be read

    file = posts / f"data/{GUID}.{suffix}"
    file.chmod(0)
    if os.geteuid() == 0:  # root reads everything; the one call is made as nobody
        for folder in [posts, *posts.parents]:
            if not folder.stat().st_mode & 1:
                monkeypatch.chdir("/")
                folder.chmod(folder.stat().st_mode | 0o11)
        from clipsent_nb import copies

        paths = {"text_path": f"data/{GUID}.txt", "image_path": f"data/{GUID}.jpg"}
        pair = pd.DataFrame([{"guid": GUID, **paths, "encoding": ""}]).itertuples()
        os.seteuid(65534)
        try:
            found = copies.inspect_post(next(pair), Workspace(posts))
        finally:
            os.seteuid(0)
        assert found == ({}, [copies.Problem(GUID, f"data/{GUID}.{suffix}", "Permission denied")])
    else:
        assert problem_of(posts) == "Permission denied"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_out_of_the_folder_is_not_followed(posts, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    secret.write_bytes(stored(noise(99)))
    (posts / f"data/{GUID}.jpg").unlink()
    (posts / f"data/{GUID}.jpg").symlink_to(secret)
    assert problem_of(posts) == "leads out of the data root; copy the file there, or use --allow-outside"
    shutil.copytree(posts / "data", secret.parent / "all", symlinks=True)
    shutil.rmtree(posts / "data")
    (posts / "data").symlink_to(secret.parent / "all")  # the whole folder on another disk is fine
    (posts / f"data/{GUID}.jpg").unlink()
    (posts / f"data/{GUID}.jpg").write_bytes(stored(noise(1)))
    assert problem_of(posts) == ""


TEXTS = {
    "null bytes": (b"so\0happy", "holds null bytes, so it is no text"),
    "UTF-16 without a mark": ("so happy".encode("utf-16-le"), "holds null bytes, so it is no text"),
    "no encoding": (b"caf\xe9 \x81\xff\xfe", "not utf-8 or gb18030 or cp1252; save the file as UTF-8"),
    "half an emoji": ("so \ud83d happy".encode("utf-8", "surrogatepass"), "half of a character"),
    "17 MB": (b"word " * 2**22, "20 MiB, more than any post's text"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_cannot_be_read_is_named(posts, name):
    content, what = TEXTS[name]
    (posts / f"data/{GUID}.txt").write_bytes(content)
    assert what in problem_of(posts)


FINE_TEXTS = {
    "empty": (b"", "empty text"),
    "whitespace": (b" \r\n\t ", "empty text"),
    "1 MB": (b"so happy " * 120_000, "long text (1079999 characters)"),
    "UTF-16 with its mark": (codecs.BOM_UTF16_LE + "so happy 😍".encode("utf-16-le"), ""),
    "GB18030": ("天气真好".encode("gb18030"), ""),
    "emoji in halves": ("so happy \ud83d\ude0d".encode("utf-8", "surrogatepass"), ""),
    "right to left": ("שמח מאוד \u202e\u202d abc".encode(), ""),
    "zero width": ("so\u200b\u200d\ufeff hap\u2060py".encode(), ""),
    "markup": (b"<script>alert(1)</script><img src=x onerror=alert(1)>", ""),
    "formula": (b"=cmd|' /C calc'!A0", ""),
}


@pytest.mark.parametrize("name", FINE_TEXTS)
def test_an_unusual_text_is_read_and_becomes_tokens(posts, encoder, name):
    content, what = FINE_TEXTS[name]
    (posts / f"data/{GUID}.txt").write_bytes(content)
    assert problem_of(posts) == what
    table = pd.DataFrame([{"guid": GUID, "text_path": f"data/{GUID}.txt", "image_path": f"data/{GUID}.jpg"}])
    inputs = load_posts(table, load_processors(encoder), {}, Workspace(posts))
    assert 2 <= inputs.lengths[0] <= 77


def test_surrogates_from_a_program_are_refused_and_do_not_stop_cleaning():
    assert isinstance(clean_text("so \ud83d happy", active_rules({})), str)
    with pytest.raises(ClipsentError, match="text 1: holds half of a character"):
        list(pair_posts(["fine", "so \ud83d"], [noise(1)] * 2, 32))  # of every classifier, also an exported one


def test_only_the_start_of_a_very_long_text_is_read(encoder):
    class Listening:
        "A tokenizer that remembers the longest text that it was given."

        def __init__(self, tokenizer) -> None:
            self.tokenizer, self.longest = tokenizer, 0

        def __getattr__(self, name):
            return getattr(self.tokenizer, name)

        def __call__(self, texts, **options):
            self.longest = max(self.longest, *map(len, texts))
            return self.tokenizer(texts, **options)

    tokenizer, image_processor = load_processors(encoder)
    listening = Listening(tokenizer)
    inputs_from_memory(["word " * 10**6], [noise(1)], (listening, image_processor), {})
    assert 0 < listening.longest <= LONGEST_TEXT


LISTS = {
    "twice with one tag": ("1,neutral\n1,neutral", "1", "listed twice", "counted once"),
    "twice with two tags": ("1,neutral\n1,positive", "1", "listed with different tags", "row left out"),
    "unknown tag": ("1,joyful", "1", "unknown tag 'joyful'", "row left out"),
    "no tag": ("1,null", "1", "no label", "not used"),
    "path as a guid": (
        "../../etc/passwd,neutral",
        "../../etc/passwd",
        "guid '../../etc/passwd' has signs",
        "row left out",
    ),
    "formula as a guid": ("=1+1,neutral", "'=1+1", "guid '=1+1' has signs", "row left out"),
    "quotes in a guid": ('7"8,neutral', '7"8', "guid '7\"8' has signs", "row left out"),
    "comma in a guid": ('"7,8",neutral', "7,8", "guid '7,8' has signs", "row left out"),
    "newline in a guid": ('"7\n8",neutral', "", "'\"7' is not 'guid,tag'", "row left out"),
    "one cell": ("1 neutral", "", "'1 neutral' is not 'guid,tag'", "row left out"),
    "three cells": ("1,neutral,2015", "", "'1,neutral,2015' is not 'guid,tag'", "row left out"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_line_of_a_list_is_named_and_the_others_count(posts, name):
    lines, guid, problem, done = LISTS[name]
    kept = [line for line in (posts / "train.txt").read_text().splitlines() if not line.startswith("1,")]
    (posts / "train.txt").write_text("\n".join([*kept, lines, ""]))
    report = make_splits(Workspace(posts, max_bad="20%"), val_ratio=0.2)
    entries = report.audit[report.audit.guid == guid]
    assert entries.problem.str.startswith(problem).any() and (entries.done == done).any()
    assert report.classes["all"].sum() == COUNT - (done != "counted once")
    written = pd.read_csv(posts / "outputs/audit.csv", dtype=str, keep_default_na=False)
    assert written.equals(report.audit)


def test_windows_line_ends(posts):
    (posts / "train.txt").write_bytes((posts / "train.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_list(posts / "train.txt")[0]) == COUNT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "guid;tag\n1;neutral\n2;positive\n",
            r"train.txt:1: 'guid;tag' is not 'guid,tag', nor is any other line; one",
        ),
        ("guid\n1\n2\n", r"train.txt:2: '1' is not 'guid,tag', nor is any other line"),
        ("", "train.txt: empty; it should hold lines like 'guid,tag'"),
        ("guid,tag\n", "train.txt: no posts; it should hold lines like 'guid,tag'"),
        ("\n \n", "train.txt: empty"),
    ],
)
def test_a_list_without_a_usable_line_is_refused(posts, content, message, capsys):
    (posts / "train.txt").write_text(content)
    assert main(["splits", "--project-root", str(posts), "--no-progress"]) == 2
    assert pytest.approx(1) == len(capsys.readouterr().err.splitlines())
    with pytest.raises(ClipsentError, match=message):
        make_splits(Workspace(posts))
    assert not (posts / "outputs/splits").exists()


def test_too_much_that_is_bad_stops_before_anything_is_written(posts, capsys):
    for guid in "12":
        (posts / f"data/{guid}.jpg").write_bytes(b"")
    command = ["splits", "--project-root", str(posts), "--no-progress"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "2 of 36 posts cannot be used; the first, guid 1: data/1.jpg: broken, or no JPEG" in message
    assert "--max-bad 1% allows 0; nothing was started" in message and "--max-bad 6%" in message
    assert [path.name for path in (posts / "outputs").glob("[!.]*")] == ["audit.csv"]
    assert main([*command, "--max-bad", "6%"]) == 0
    assert main([*command, "--max-bad", "6%", "--strict"]) == 2
    assert "none may be left out" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1", "0.01", "-1%", "101%", "x%", "%", "", "nan%", "1e1%"])
def test_the_limit_is_a_percentage(posts, value):
    with pytest.raises(ClipsentError, match="--max-bad .*must be a percentage"):
        make_splits(Workspace(posts, max_bad=value))


def test_a_class_without_rows_is_said_and_cannot_be_trained(posts, encoder):
    lines = [line for line in (posts / "train.txt").read_text().splitlines() if "neutral" not in line]
    (posts / "train.txt").write_text("\n".join(lines))
    assert "no neutral post, so there are two classes" in str(make_splits(Workspace(posts), val_ratio=0.2))
    report = make_splits(Workspace(posts), val_ratio=0.2, labels=",".join(LABELS))
    assert "warning: no neutral post in train" in str(report)
    config = sample_config(posts, model_name=str(encoder))
    with pytest.raises(
        ClipsentError, match="train.csv: no usable post is neutral, and no class can be learned without"
    ):
        fit(config)
    assert not (posts / "outputs/optimize/clip/config.json").exists()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_split_without_validation_posts_is_refused(posts, rows):
    lines = (posts / "train.txt").read_text().splitlines()
    (posts / "train.txt").write_text("\n".join(lines[: rows + 1]))
    with pytest.raises(ClipsentError, match="--val-ratio 0.1: leaves no post to train or none to validate on"):
        make_splits(Workspace(posts))


@pytest.fixture
def split(posts, encoder) -> TrainConfig:
    "Settings for the small folder, split."
    make_splits(Workspace(posts), val_ratio=0.25)
    return sample_config(posts, model_name=str(encoder), epochs=2)


def test_a_picture_that_vanished_after_the_cache_was_built(split, caplog):
    load_inputs(split)
    train = read_split(split.project_root / split.train_csv)
    (split.project_root / train.image_path[0]).unlink()
    with pytest.raises(
        ClipsentError, match=f"train.csv: 1 of .*guid {train.guid[0]}: .*no such image, or not readable"
    ):
        fit(split)
    run = fit(replace(split, max_bad="5%"))
    assert run.config["left_out"] == [train.guid[0]] and run.metrics["train_posts"] == len(train) - 1
    audit = pd.read_csv(split.project_root / "outputs/audit.csv", dtype=str)
    assert audit[audit.guid == train.guid[0]].done.tolist() == ["row left out"]
    assert caplog.text.count("warning: ") == 1


def test_a_picture_that_changed_after_the_cache_was_built_is_read_anew(split):
    before = load_inputs(split).train
    train = read_split(split.project_root / split.train_csv)
    (split.project_root / train.image_path[0]).write_bytes(stored(noise(4321)))
    after = load_inputs(split).train
    assert before.fingerprint != after.fingerprint
    assert not torch.equal(*(inputs.batch([0])["pixel_values"] for inputs in (before, after)))


def test_two_posts_that_share_a_broken_picture_are_both_named(split, encoder):
    train = read_split(split.project_root / split.train_csv)
    for path in train.image_path[:2]:
        (split.project_root / path).write_bytes(b"both alike")
    with pytest.raises(ClipsentError, match="train.csv: 2 of "):
        load_posts(split.project_root / split.train_csv, load_processors(encoder), {}, split)


@pytest.mark.parametrize("path", ["../secret.txt", "data/../../secret.txt", "/etc/hostname"])
def test_a_path_of_a_split_file_cannot_climb_out(split, encoder, path):
    file = split.project_root / split.train_csv
    table = read_split(file)
    table.assign(text_path=[path, *table.text_path[1:]]).to_csv(file, index=False)
    with pytest.raises(ClipsentError, match="leads out of the data root"):
        load_posts(file, load_processors(encoder), {}, split)


def test_a_guid_of_a_split_file_names_no_other_folder(split):
    file = split.project_root / split.train_csv
    table = read_split(file)
    table.assign(guid=["../../x", *table.guid[1:]]).to_csv(file, index=False)
    with pytest.raises(ClipsentError, match="train.csv: guid '../../x' has signs that no file name needs"):
        read_split(file)


@pytest.mark.parametrize(
    "flag", [("--lr", "0"), ("--lr", "-1e-5"), ("--lr", "nan"), ("--batch-size", "0"), ("--epochs", "0")]
)
def test_impossible_numbers_name_their_flag(split, flag, capsys):
    assert main(["optimize", "--project-root", str(split.project_root), *flag]) == 2
    assert f"error: {flag[0]} " in capsys.readouterr().err


def test_a_batch_larger_than_the_data_is_one_batch(split):
    run = fit(replace(split, batch_size=10_000))
    assert len(run.history) == 2 and np.isfinite(run.history.train_loss).all()


def test_an_empty_validation_file_is_refused(split):
    file = split.project_root / split.val_csv
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ClipsentError, match="val.csv: no rows"):
        fit(split)


@pytest.mark.parametrize("learning_rate", [1e30])
def test_a_loss_that_is_no_number_any_more_names_posts_and_remedy(split, learning_rate):
    with pytest.raises(ClipsentError, match="the loss is nan in epoch 1, step .*the batch of guids .*; lower --lr"):
        fit(replace(split, lr=learning_rate, head_lr=learning_rate, warmup_ratio=0.0, max_grad_norm=1e30))
    assert not (split.project_root / split.output_dir / "metrics.json").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory, fresh_run) -> Run:
    return Run.load(fresh_run(tmp_path_factory.mktemp("trained") / "sample") / "outputs/optimize/clip")


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run.folder, tmp_path / "run"))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_weights_with_code_in_them_are_refused_and_do_not_run(copy, tmp_path):
    marker = tmp_path / "it ran"
    (copy / "best.pt").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ClipsentError, match="best.pt: .*nothing of it was loaded"):
        Classifier.load(copy)
    torch.save({"model_state": {}, "config": Payload(marker)}, copy / "best.pt")
    with pytest.raises(
        ClipsentError, match="best.pt: holds more than plain weights, perhaps code, so nothing of it was loaded"
    ):
        Classifier.load(copy)
    assert not marker.exists()


def test_weights_cut_short(copy):
    content = (copy / "best.pt").read_bytes()
    (copy / "best.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ClipsentError, match="best.pt: damaged, or no weights file; if a run wrote it, repeat the run"):
        Classifier.load(copy)


def test_weights_of_another_head_list_the_keys(copy):
    state, config = read_weights(copy / "best.pt")
    torch.save({"model_state": state, "config": {**config, "head_variant": "gated"}}, copy / "best.pt")
    with pytest.raises(
        ClipsentError, match=r"of another run than the config.json beside it \(head_variant gated, not ln"
    ):
        Classifier.load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(
        ClipsentError, match=r"does not fit the head gated and the encoder in .*encoder \(missing: head.join.weigh.bias"
    ):
        Classifier.load(copy)


def test_weights_of_another_encoder_list_the_keys(copy):
    shape = json.loads((copy / "encoder/config.json").read_text())
    shape["projection_dim"] *= 2
    (copy / "encoder/config.json").write_text(json.dumps(shape))
    described = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(described | {"encoder_files": {}}))  # as of an older version
    with pytest.raises(ClipsentError, match=r"does not fit .* \(of another shape: "):
        Classifier.load(copy)


def test_a_run_of_a_newer_version_is_not_guessed_at(copy):
    config = json.loads((copy / "config.json").read_text())
    config |= {"format": RUN_FORMAT + 1, "versions": {"clipsent_nb": "9.1"}}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ClipsentError,
        match="config.json: written by clipsent_nb 9.1, which this version .* cannot read; update clipsent_nb",
    ):
        Run.load(copy)


def test_what_a_run_of_version_0_1_0_does_not_tell_is_not_claimed(run, copy, caplog):
    config = {**json.loads((copy / "config.json").read_text()), "format": 1}
    del config["labels"]
    config["identity"] |= {"content of val_csv": "another digest of the same posts"}
    (copy / "config.json").write_text(json.dumps(config))
    old = Run.load(copy)
    warn_of_changes(old, Workspace(run.folder.parents[2]))
    assert old.classes == LABELS and old.content("val_csv") is None
    assert "whether its posts changed since run predicted them is not known: version 0.1.0 made it" in caplog.text
    caplog.clear()
    warn_of_changes(run, Workspace(run.folder.parents[2]))
    assert not caplog.text


def test_weights_of_a_newer_version_are_not_guessed_at(copy):
    state, config = read_weights(copy / "best.pt")
    torch.save({"model_state": state, "config": config, "format": 2}, copy / "best.pt")
    with pytest.raises(ClipsentError, match="best.pt: written by a newer version of clipsent_nb; update"):
        Classifier.load(copy)


def test_a_folder_of_a_newer_version_is_neither_continued_nor_replaced(run, copy):
    config = json.loads((copy / "config.json").read_text()) | {"format": RUN_FORMAT + 1}
    (copy / "config.json").write_text(json.dumps(config))
    settings = sample_config(run.folder.parents[2], epochs=1, output_dir=copy)
    with pytest.raises(ClipsentError, match="cannot read; update clipsent_nb"):
        fit(settings)
    assert (copy / "metrics.json").exists()
    assert fit(replace(settings, overwrite=True)).config["format"] == RUN_FORMAT


def test_a_sample_is_not_written_over_other_posts(posts):
    with pytest.raises(ClipsentError, match=r"holds other posts or files already \(.*\); choose an empty folder"):
        make_sample(posts)
