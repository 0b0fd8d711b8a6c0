"""Random and mutated files as texts, pictures and lists: every one of them is read, or refused with a reason."""

import io
import os
import random
import signal
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin, features

from clipsent_nb.cleaning import active_rules, clean_text
from clipsent_nb.copies import CONTENT, inspect_post
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import open_image, read_text
from clipsent_nb.errors import picture_size
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.labels import LABELS
from clipsent_nb.posts import check_list, files_by_guid, find_pairs, read_list

resource = pytest.importorskip("resource", reason="this system does not tell how much memory a process has had")

SECONDS = 10  # an input of some kilobytes that takes longer hangs
MEGABYTES = 700  # what a decoder may take on top of what the process had

TEXTS = [
    "What a lovely day in Leeds 😍 #HappyDays http://t.co/abc &amp; more\nsecond line",
    "今天天气真好，大家都很高兴！ @朋友 #周末",
    "RT @name: sooo‮ gloomy​‍ \x00\x07 =1+1",
    "",
]
LISTS = [
    "guid,tag\n1,positive\n2,negative\n3,neutral\n",
    "guid\ttag\r\n1\tpositive\r\n2\tnull\r\n",
    '1, Positive\n"2","negative"\n\n 3 ,neutral\n3,positive\n3,positive',
    "guid,tag\n" + "".join(f"{number},{LABELS[number % 3]}\n" for number in range(60)),
]
INTERESTING = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b'"', b"\r", b","]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claimed_png(width: int, height: int, kind: int = 2) -> bytes:
    "A PNG of a few bytes whose header claims a size."
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def valid_pictures() -> list[bytes]:
    "Pictures in the formats and modes that posts come in."
    colours = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    picture = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "a note" * 20, zip=True)
    note.add_itxt("title", "ein Bild", "de", zip=True)
    deep = Image.fromarray(colours[:, :, 0].astype(np.uint16) * 257)
    sheer = picture.convert("RGBA")
    sheer.putalpha(Image.fromarray(colours[:, :, 1]))
    ways = [
        (picture, "JPEG", {"exif": exif, "quality": 90}),
        (picture, "JPEG", {"progressive": True, "icc_profile": b"\0" * 200}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "JPEG", {"dpi": (72, 72)}),
        (picture, "PNG", {"pnginfo": note, "exif": exif}),
        (sheer, "PNG", {}),
        (picture.quantize(16), "PNG", {"transparency": 3}),
        (picture.convert("1"), "PNG", {}),
        (deep, "PNG", {"icc_profile": b"\0" * 200}),
        (picture, "PNG", {"save_all": True, "append_images": [picture.transpose(1)]}),
        (picture.quantize(16), "GIF", {"save_all": True, "append_images": [picture.quantize(8)]}),
        (picture, "BMP", {}),
        (picture, "TIFF", {}),
        (picture, "WEBP", {"lossless": True}),
        (sheer, "DDS", {}),
        *[(picture, "AVIF", {})] * features.check("avif"),
    ]
    made = []
    for image, kind, options in ways:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made.append(buffer.getvalue())
    return made


def valid_texts() -> list[bytes]:
    return [text.encode(code, "replace") for text in TEXTS for code in ("utf-8", "utf-8-sig", "gb18030", "utf-16")]


def valid_lists() -> list[bytes]:
    return [text.encode(code) for text in LISTS for code in ("utf-8", "utf-8-sig", "gb18030", "utf-16")]


def mutated(content: bytes, chance: random.Random) -> bytes:
    "A file after one to six accidents."
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.choice((1, 1, 2, 4, 16, 200)))
        accident = chance.randrange(7)
        if accident == 0 and data[start:]:
            data[start] ^= 1 << chance.randrange(8)
        elif accident == 1:
            data[start:stop] = chance.randbytes(stop - start)
        elif accident == 2:
            del data[start:stop]
        elif accident == 3:
            data[start:start] = data[start:stop] * chance.choice((1, 2, 50))
        elif accident == 4:
            del data[start:]
        elif accident == 5:
            data[start : start + 4] = chance.choice(INTERESTING)
        else:
            data[start:start] = chance.randbytes(chance.randrange(1, 40))
    return bytes(data)


def with_sums(content: bytes) -> bytes:
    "A PNG with the checksums that its damaged chunks should have, so that a decoder looks into them."
    place, found = 8, [content[:8]]
    while place + 8 <= len(content):
        length = min(int.from_bytes(content[place : place + 4], "big"), len(content) - place - 8)
        found.append(png_chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return b"".join(found)


def made_up(valid: list[bytes], chance: random.Random) -> bytes:
    "Bytes for a file: noise, noise after a true beginning, or a valid file with accidents."
    way, source = chance.randrange(10), chance.choice(valid)
    if way == 0:
        return chance.randbytes(chance.choice((0, 1, 2, 16, 300, 3000)))
    if way == 1:
        return source[: chance.choice((2, 4, 8, 16, 40))] + chance.randbytes(chance.randrange(400))
    damaged = mutated(source, chance)
    return with_sums(damaged) if damaged.startswith(b"\x89PNG\r\n\x1a\n") and chance.random() < 0.7 else damaged


@contextmanager
def watched(what: str) -> Iterator[None]:
    "Fail with the name of the input if reading it raises anything but our error, or does not come to an end."

    def late(*_: object) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except ClipsentError as error:
        assert str(error), what
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_one_text(path: Path) -> None:
    text, _ = read_text(path)
    clean_text(text[:500], active_rules({})).encode("utf-8")


def read_one_picture(path: Path) -> None:
    image = open_image(path)
    assert image.mode == "RGB" and min(image.size) > 0
    assert min(picture_size(path)) > 0


def read_one_list(path: Path, files: dict) -> None:
    rows, _ = read_list(path)
    kept, odd = check_list(rows, path.name)
    assert kept.guid.is_unique and kept.label.isin(LABELS).all()
    told = {problem.file for problem in odd}
    assert set(rows.line) == set(kept.line) | {line for line in rows.line if f"{path.name}:{line}" in told}
    pairs, missing = find_pairs(kept, files)
    assert set(kept.guid) == set(pairs.guid) | {problem.guid for problem in missing if problem.what.startswith("no ")}


def try_inputs(folder: Path, count: int, seed: int) -> Counter:
    "Read so many made-up files in every way that their kind is read in."
    chance = random.Random(seed)
    valid = {"text": valid_texts(), "picture": valid_pictures(), "list": valid_lists()}
    data = folder / "data"
    data.mkdir()
    for name in ("1.txt", "1.jpg", "2.txt", "3.jpg"):
        (data / name).write_bytes(b"")
    files, tried = files_by_guid(data), Counter()
    post = SimpleNamespace(guid="1", text_path="data/1.txt", image_path="data/1.jpg", encoding="")
    for number in range(count):
        kind = chance.choice(("text", "picture", "picture", "list"))
        own = [content for name in valid for content in valid[name]] if chance.random() < 0.05 else valid[kind]
        content = made_up(own, chance)
        what = f"seed {seed}, input {number}, {kind}, {content[:40]!r}"
        tried[kind] += 1
        if kind == "list":
            (folder / "train.txt").write_bytes(content)
            with watched(what):
                read_one_list(folder / "train.txt", files)
            continue
        path = data / ("1.txt" if kind == "text" else "1.jpg")
        path.write_bytes(content)
        with watched(what):
            (read_one_text if kind == "text" else read_one_picture)(path)
        with watched(what):
            found, problems = inspect_post(post, Workspace(folder))
            assert set(found) == {*CONTENT, "start"} or not found and problems
    return tried


def try_folder(folder: Path, seed: int) -> None:
    "Splits of a folder with valid, damaged and missing files: each row of the lists is in a split or in the audit."
    chance = random.Random(seed)
    texts, pictures, lists = valid_texts(), valid_pictures(), valid_lists()
    guids = [str(number) for number in range(12)]
    (folder / "data").mkdir(parents=True)
    for guid in guids:
        for suffix, valid in ((".txt", texts), (chance.choice((".jpg", ".png", ".JPEG")), pictures)):
            content = chance.choice(valid) if chance.random() < 0.6 else made_up(valid, chance)
            if chance.random() < 0.95:
                (folder / "data" / (guid + suffix)).write_bytes(content)
    rows = "".join(f"{guid},{chance.choice([*LABELS, 'null'])}\n" for guid in guids[:9])
    (folder / "train.txt").write_bytes(mutated(rows.encode(), chance) if chance.random() < 0.5 else rows.encode())
    (folder / "test_without_label.txt").write_bytes(made_up(lists, chance))
    with watched(f"folder {seed}"):
        report = make_splits(Workspace(folder, max_bad="100%"), val_ratio=0.3, seed=seed)
        splits = [read_split(path) for path in report.folder.glob("*.csv") if len(path.read_text().splitlines()) > 1]
        used = {guid for split in splits for guid in split.guid}
        assert len(used) >= 2 and used <= set(guids)
        assert set(guids) <= used | set(report.audit.guid) | {guid for guid in guids if not naming_file(folder, guid)}


def naming_file(folder: Path, guid: str) -> bool:
    "Whether a guid has a file; without one it need not be told of unless a list holds it."
    return bool(list((folder / "data").glob(f"{guid}.*")))


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(autouse=True)
def quiet():
    "Pillow and numpy warn of odd files; a warning is no failure."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_three_hundred_damaged_files_are_read_or_refused(tmp_path):
    assert try_inputs(tmp_path, 300, seed=1).total() == 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_damaged_files_are_read_or_refused(tmp_path, seed):
    before = peak_megabytes()
    tried = try_inputs(tmp_path, 3000, seed=1000 + seed)
    assert tried.total() == 3000 and min(tried.values()) > 500
    assert peak_megabytes() - before < MEGABYTES


def test_a_damaged_folder_is_split_or_refused(tmp_path):
    for seed in range(6):
        try_folder(tmp_path / str(seed), seed)


@pytest.mark.slow
def test_a_hundred_damaged_folders_are_split_or_refused(tmp_path):
    for seed in range(100, 200):
        try_folder(tmp_path / str(seed), seed)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (0, 5), (9, 9)])
def test_a_picture_that_is_not_as_large_as_it_claims_is_refused(tmp_path, size):
    (tmp_path / "a.png").write_bytes(claimed_png(*size))
    before = peak_megabytes()
    with pytest.raises(ClipsentError, match="a.png"):
        open_image(tmp_path / "a.png")
    assert peak_megabytes() - before < 100


def test_a_small_file_that_unpacks_to_hundreds_of_megabytes_is_refused(tmp_path):
    Image.new("1", (13_300, 13_300)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 50_000
    before = peak_megabytes()
    with pytest.raises(ClipsentError, match="a.png.*million pixels"):
        open_image(tmp_path / "a.png")
    assert peak_megabytes() - before < 100


def test_a_picture_in_postscript_is_refused_and_no_interpreter_is_started(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg", "EPS")
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(ClipsentError, match="a.jpg"):
        open_image(tmp_path / "a.jpg")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["AVIF", "DDS"])
def test_a_damaged_picture_of_a_rare_format_is_our_error(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow knows no AVIF")
    Image.new("RGBA", (20, 20), "teal").save(tmp_path / "whole.jpg", kind)
    whole = (tmp_path / "whole.jpg").read_bytes()
    for start in range(0, min(len(whole), 400), 2):
        (tmp_path / "a.jpg").write_bytes(whole[:start] + b"\xff\xff" + whole[start + 2 :])
        with watched(f"{kind} damaged at {start}"):
            read_one_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("line", [b"1," + b"a" * 200_000, b'"' + b"1," * 100_000, b"1" * 200_000 + b",positive"])
def test_a_line_without_an_end_is_our_error(tmp_path, line):
    (tmp_path / "train.txt").write_bytes(line + b"\n2,positive\n")
    with watched("long line"):
        read_one_list(tmp_path / "train.txt", {})
