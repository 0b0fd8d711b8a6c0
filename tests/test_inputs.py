"Edge cases of cleaning, caches and batches that would only lengthen the notebook."

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import emoji
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsent_nb import inputs
from clipsent_nb.caches import (
    ImagePreprocessor,
    Ragged,
    RowStore,
    file_digests,
    pixel_rows,
    pixel_store,
    text_limit,
    tokenize,
)
from clipsent_nb.cleaning import (
    RULES,
    RULES_VERSION,
    SWITCHES,
    active_rules,
    clean_text,
    fold_repeats,
    remove_urls,
    replace_mentions,
    rule_counts,
    split_hashtags,
)
from clipsent_nb.files import ClipsentError, Workspace, digest, locked, log
from clipsent_nb.inputs import (
    augment_pixels,
    bucketed_batches,
    content_fingerprint,
    find_files,
    inputs_from_memory,
    load_posts,
    refresh_content,
)

ALL_RULES = [rule.name for rule in RULES]

FRAGMENTS = st.sampled_from(
    [
        "&amp;",
        "&#35;",
        "&lt",
        "&",
        "#",
        "＃",
        "@",
        "@a",
        "RT @b:",
        "rt",
        "http",
        "://",
        "t.co/x",
        "www.",
        "…",
        "...",
        "a",
    ]
    + [
        "A",
        "soooo",
        "ha",
        "!",
        "?",
        "😂",
        "👍🏽",
        "🇵",
        "🇹",
        "\u200d",
        "\ufe0f",
        "\u20e3",
        "1",
        "#1",
        "20",
        " ",
        "\t",
        "h…",
        "#话题#",
        "@李雷",
        "//@小明：",
        "回复",
        "[笑]",
        "〇",
        "，",
        "の",
    ]
    + [
        "\u200b",
        "\x00",
        "â€™",
        "Ã©",
        "don't",
        "the",
        "not",
        "_",
        "＆",
        ";",
        "天",
        "İ",
        "ﬁ",
        "ſ",
        "III",
        "©",
        "❤",
        "👩‍👧",
    ]
    + ["\ud83d", "\ude02", "é", "e\u0301", "\u0958", "^", "-", "/", "h", "t", "p", "s", ":", ".com/x", "\r\n", "\u3000"]
)
TEXTS = st.one_of(
    st.lists(FRAGMENTS, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=[]), max_size=30),
)
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@RELAXED
@given(TEXTS, st.sets(st.sampled_from(ALL_RULES)))
def test_cleaning_is_idempotent_and_bounded_for_every_choice_of_rules(text, rules):
    cleaned = clean_text(text, sorted(rules))
    assert clean_text(cleaned, sorted(rules)) == cleaned
    assert len(cleaned) <= 42 * len(text)
    cleaned.encode("utf-8")  # no surrogates: every tokenizer takes it


def test_no_emoji_has_a_longer_name_than_the_bound():
    rules = active_rules({})
    for characters in emoji.EMOJI_DATA:
        assert len(clean_text(characters, rules)) + 2 <= 42 * len(characters)


def test_rules_apply_in_the_order_of_the_table():
    text = "RT @a: #WeWonnnn &amp; more"
    assert clean_text(text, ALL_RULES) == clean_text(text, ALL_RULES[::-1])


@pytest.mark.parametrize("rest", ["http://t.co/x1", "http://t.co/…", "http://t.…", "http://…", "http:/…", "http:…"])
@pytest.mark.parametrize("gap", [" ", "\n", "! "])
def test_cut_links_vanish(rest, gap):
    assert remove_urls(f"fine day{gap}{rest}").strip() == f"fine day{gap}".strip()
    assert "http" not in clean_text(f"RT @a_b: fine day{gap}{rest}", active_rules({}))


@pytest.mark.parametrize("rest", ["h…", "ht…", "htt…", "http…", "https…", "htt...", "https", "http"])
def test_links_cut_before_the_colon_vanish(rest):
    assert remove_urls(f"fine day {rest}").strip() == "fine day"


MENTIONS = {
    "RT @a: RT @b_c: hello": "hello",
    "RT if you agree": "RT if you agree",
    'RT "@ann: hello': "hello",
    "@a @b, @c hello @d": "@user hello @user",
    "me@example.org": "me@example.org",
    "@user": "@user",
}


@pytest.mark.parametrize(("before", "after"), MENTIONS.items())
def test_mentions(before, after):
    assert replace_mentions(before) == after


HASHTAGS = {
    "#домМечты": "дом Мечты",
    "#LikeAGirl": "Like A Girl",
    "#StopNow2015": "Stop Now 2015",
    "#S2000": "S2000",
    "#50DollarsNot50Shades": "50 Dollars Not 50 Shades",
    "##double": "double",
    "&#8217;": "&#8217;",
    "C# and #1": "C# and #1",
    "#": "#",
}


@pytest.mark.parametrize(("before", "after"), HASHTAGS.items())
def test_hashtags(before, after):
    assert split_hashtags(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [("NOOOOO", "NOO"), ("XXXL", "XXL"), ("MillLessBrook", "MillLessBrook"), ("2000000", "2000000"), ("- - - -", "--")],
)
def test_repeats(before, after):
    assert fold_repeats(before) == after


def test_repeated_signs_do_not_take_quadratic_time():
    start = time.perf_counter()
    clean_text("@a " * 3000 + "!?" * 3000 + "&amp;" * 3000 + "x" * 3000, active_rules({}))
    assert time.perf_counter() - start < 5


def test_switches_are_those_of_the_table():
    assert active_rules(SWITCHES) == active_rules({})
    assert active_rules(dict.fromkeys(SWITCHES, False) | {"hashtags": "keep"}) == ()
    with pytest.raises(ClipsentError, match="fold_repeats"):
        active_rules({"fold_repeats": "yes"})


def test_rules_that_give_another_text_have_another_version():
    by_tables = ("fix_mojibake", "replace_emoji", "remove_stopwords")  # of other libraries, whose versions count too
    rules = [name for name in ALL_RULES if name not in by_tables]
    texts = [
        *HASHTAGS,
        *MENTIONS,
        "RT @a: &lt;3 soooo #1 htt…",
        "\u200ba\u3000 b ...... www.x.org/y #10List ＃iPhone #MyDay #DVDs ÄÖÜ天气",
        "//@小明:哈哈哈哈 #西湖 十景#秋天，@Tom_张 [微笑][微笑][微笑] 二〇〇〇年t.cn/A6xY看",
    ]
    known = {2: "fca8d8fb6a71f922b7984ae9e8dfa04c"}
    assert digest("\n".join(clean_text(text, rules) for text in texts).encode()) == known[RULES_VERSION]


def test_rule_counts_of_nothing():
    assert rule_counts([], ALL_RULES).changed.sum() == 0


def test_importing_is_light():
    code = "import sys, clipsent_nb.inputs; print([m for m in ('kornia', 'transformers', 'sklearn', 'ftfy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Shrinks:
    "A stand-in for an image processor: resizes to 8 x 8."

    do_rescale = do_normalize = True
    rescale_factor, image_mean, image_std = 1 / 255, [0.5] * 3, [0.25] * 3

    def __call__(self, images, **options):
        pixels = np.asarray(images.resize((8, 8))).transpose(2, 0, 1)
        return {"pixel_values": [pixels]}

    def to_dict(self):
        return {"size": 8}


class Tokens:
    "A stand-in for a tokenizer: one token per character."

    model_max_length, pad_token_id, truncation_side = 12, 0, "right"
    model_input_names = ("input_ids", "attention_mask")
    special_tokens_map = init_kwargs = {}

    def __call__(self, texts, max_length, **options):
        return {
            "input_ids": [[1, *(ord(letter) % 90 + 3 for letter in text)][: max_length - 1] + [2] for text in texts]
        }

    def get_vocab(self):
        return {"a": 1}


def save_pictures(folder: Path, count: int) -> list[Path]:
    "Write pictures of noise."
    random = np.random.default_rng(count)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def store_pictures(folder: Path, paths: list[Path], pause: float = 0.0) -> tuple[RowStore, np.ndarray]:
    "Build a store in blocks of four; a slow preprocessor lets processes meet."
    preprocessor = ImagePreprocessor(Shrinks())
    fast = preprocessor.pixels
    preprocessor.pixels = lambda image: (time.sleep(pause), fast(image))[1]
    store = pixel_store(folder, preprocessor)
    keys = file_digests(paths, Path(folder) / "digests.json")
    rows, broken = pixel_rows(store, preprocessor, paths, keys, workers=1, block=4)
    assert not broken
    return store, rows


def check_store(folder: Path, paths: list[Path]) -> RowStore:
    "Assert that the store holds exactly these pictures."
    store, rows = store_pictures(folder, paths)
    for path, row in zip(paths, rows, strict=True):
        assert np.array_equal(store.table.values[row], ImagePreprocessor(Shrinks()).pixels(Image.open(path)))
    assert store.file.stat().st_size == len(store.keys) * store.item_bytes
    assert len(set(store.keys)) == len(store.keys)
    return store


@pytest.fixture
def spawn():
    return multiprocessing.get_context("spawn")


def test_processes_that_build_at_once_make_one_store(tmp_path, spawn):
    paths = save_pictures(tmp_path, 24)
    parts = [paths[:16], paths[8:]]
    workers = [spawn.Process(target=store_pictures, args=(tmp_path / "store", part, 0.05)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(check_store(tmp_path / "store", paths).keys) == 24


def test_who_waits_for_a_lock_says_so_once(tmp_path, caplog):
    caplog.set_level("INFO", log.name)

    def wait() -> None:
        with locked(tmp_path, patience=0.1):
            pass

    with locked(tmp_path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    assert caplog.text.count("waiting for another process") == 1


def test_a_killed_process_loses_only_what_it_had_not_committed(tmp_path, spawn):
    paths = save_pictures(tmp_path, 40)
    worker = spawn.Process(target=store_pictures, args=(tmp_path / "store", paths, 0.05))
    worker.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "store").glob("*/index.txt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    kept = pixel_store(tmp_path / "store", ImagePreprocessor(Shrinks())).keys
    assert 4 <= len(kept) < 40 and len(kept) % 4 == 0
    assert check_store(tmp_path / "store", paths).keys[: len(kept)] == kept


def test_a_store_that_somebody_else_extends_is_seen(tmp_path):
    paths = save_pictures(tmp_path, 6)
    mine, _ = store_pictures(tmp_path / "store", paths[:2])
    _, rows = store_pictures(tmp_path / "store", paths)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5] and len(mine.keys) == 2
    keys = file_digests(paths[::-1], tmp_path / "digests.json")
    rows, _ = pixel_rows(mine, ImagePreprocessor(Shrinks()), paths[::-1], keys)
    assert rows.tolist() == [5, 4, 3, 2, 1, 0]


def test_lost_index_or_pixels_are_rebuilt(tmp_path):
    paths = save_pictures(tmp_path, 5)
    store = check_store(tmp_path / "store", paths)
    (store.folder / "index.txt").unlink()
    store = check_store(tmp_path / "store", paths)
    store.file.unlink()
    check_store(tmp_path / "store", paths)


def test_only_broken_pictures_leave_an_empty_store(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    preprocessor = ImagePreprocessor(Shrinks())
    store = pixel_store(tmp_path / "store", preprocessor)
    [key] = file_digests([tmp_path / "a.png"], tmp_path / "digests.json")
    rows, broken = pixel_rows(store, preprocessor, [tmp_path / "a.png"], [key])
    assert rows.tolist() == [-1] and broken[key].where == tmp_path / "a.png"
    assert store.table.values.shape == (0, 3, 8, 8)
    assert pixel_rows(store, preprocessor, [], [])[0].tolist() == []


def test_a_post_without_both_files_is_counted_once(tmp_path):
    posts = make_pairs(tmp_path)
    for path in (tmp_path / "1.txt", tmp_path / "1.png"):
        path.unlink()
    readable, problems = find_files(posts, Workspace(tmp_path))
    assert readable.guid.tolist() == ["0", "2"] and [problem.guid for problem in problems] == ["1", "1"]
    load_posts(posts, (Tokens(), Shrinks()), {}, Workspace(tmp_path, max_bad="34%"))
    with pytest.raises(ClipsentError, match="1 of 3 posts"):
        load_posts(posts, (Tokens(), Shrinks()), {}, Workspace(tmp_path, max_bad="33%"))


def test_a_digest_is_remembered_until_the_file_changes(tmp_path):
    [path] = save_pictures(tmp_path, 1)
    os.utime(path, ns=(10**18, 10**18))
    time.sleep(2.2)  # a file that changed a moment ago is not remembered
    memory = tmp_path / "digests.json"
    assert file_digests([path], memory) == [digest(path.read_bytes())] and memory.is_file()
    memory.write_text(memory.read_text().replace(digest(path.read_bytes()), "0" * 32))
    assert file_digests([path], memory) == ["0" * 32]  # not read again
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    os.utime(path, ns=(10**18, 10**18))
    assert file_digests([path], memory) == [digest(content[:-1] + b"!")]


def test_pictures_of_a_table_without_digests_are_looked_at_once(tmp_path, monkeypatch):
    posts, workspace = make_pairs(tmp_path), Workspace(tmp_path)
    first = refresh_content(posts, workspace)
    assert (first.image_hash != "").all()
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "with_content", lambda *_: pytest.fail("looked at again"))
        pd.testing.assert_frame_equal(refresh_content(posts, workspace), first)
    picture = tmp_path / posts.image_path[0]
    picture.write_bytes((tmp_path / posts.image_path[1]).read_bytes())
    again = refresh_content(posts, workspace)
    assert again.image_hash[0] == first.image_hash[1] and again.image_digest[0] != first.image_digest[0]


@RELAXED
@given(st.lists(st.integers(1, 77), max_size=200), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 99)))
def test_each_row_is_in_exactly_one_batch(lengths, batch_size, seed):
    batches = bucketed_batches(np.array(lengths, dtype=np.int64), batch_size, seed, pool=3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_empty_tables():
    table = tokenize([], Tokens(), 12)
    assert len(table) == 0 and table.lengths.tolist() == []
    ids, real = Ragged(np.empty(0, np.int32), np.array([0, 0])).padded(np.array([0]), fill=5)
    assert ids.tolist() == [[5]] and real.tolist() == [[False]]


def test_a_tokenizer_without_a_limit_needs_one():
    unlimited = Tokens()
    unlimited.model_max_length = int(1e30)
    with pytest.raises(ClipsentError, match="max_length"):
        text_limit(unlimited)
    assert text_limit(unlimited, 64) == 64


def make_pairs(folder: Path) -> pd.DataFrame:
    "Three posts on disk."
    save_pictures(folder, 3)
    for number, text in enumerate(["so good", "", "a text that is much longer than its limit"]):
        (folder / f"{number}.txt").write_text(text)
    names = ["0", "1", "2"]
    paths = {"text_path": [f"{n}.txt" for n in names], "image_path": [f"{n}.png" for n in names]}
    return pd.DataFrame({"guid": names, **paths, "label": ["positive", None, "neutral"]})


def test_batches_of_a_split(tmp_path):
    pairs = make_pairs(tmp_path)
    built = load_posts(pairs, (Tokens(), Shrinks()), {}, Workspace(tmp_path))
    assert built.lengths.tolist() == [9, 2, 12] and built.labels.tolist() == [2, -1, 1]
    batch = built.batch([1, 0])
    assert batch["input_ids"].shape == (2, 9) and batch["attention_mask"].sum(1).tolist() == [2, 9]
    assert batch["input_ids"].dtype == torch.int64 and batch["pixel_values"].dtype == torch.float32


def test_absolute_paths_outside_need_leave(tmp_path):
    pairs = make_pairs(tmp_path)
    for column in ("text_path", "image_path"):
        pairs[column] = [str(tmp_path / path) for path in pairs[column]]
    outside = Workspace(tmp_path / "project", max_bad="50%")
    with pytest.raises(ClipsentError, match="3 of 3 posts"):
        load_posts(pairs, (Tokens(), Shrinks()), {}, outside)
    assert len(load_posts(pairs, (Tokens(), Shrinks()), {}, replace(outside, allow_outside=True))) == 3


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    padless = Tokens()
    padless.pad_token_id = None
    with pytest.raises(ClipsentError, match="padding token"):
        inputs_from_memory(["a"], [Image.new("RGB", (9, 9))], (padless, Shrinks()), {})


def test_from_memory_counts_and_names(tmp_path):
    with pytest.raises(ClipsentError, match="2 texts and 1 picture"):
        inputs_from_memory(["a", "b"], [Image.new("RGB", (9, 9))], (Tokens(), Shrinks()), {})
    with pytest.raises(ClipsentError, match=r"absent\.png"):
        inputs_from_memory(["a"], [tmp_path / "absent.png"], (Tokens(), Shrinks()), {})
    assert len(inputs_from_memory([], [], (Tokens(), Shrinks()), {})) == 0


def test_augmenting_one_picture_and_odd_sizes():
    pixels = torch.rand(1, 3, 17, 23)
    assert augment_pixels(pixels, 1).shape == pixels.shape
    assert augment_pixels(torch.zeros(2, 3, 8, 8), 1).abs().max() < 0.2


def test_the_encoding_of_a_text_is_part_of_what_posts_hold_unless_it_is_utf_8():
    posts = pd.DataFrame({"guid": ["1", "2"], "label": "neutral", "text_digest": "a", "image_digest": "b"})
    plain = content_fingerprint(posts)
    for same in ("utf-8", "", ["utf-8", ""]):
        assert content_fingerprint(posts.assign(encoding=same)) == plain  # as runs of older versions have it
    others = {content_fingerprint(posts.assign(encoding=["utf-8", name])) for name in ("big5", "gb18030")}
    assert len(others | {plain}) == 3
