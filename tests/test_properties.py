"""Promises that hold for any settings, any text and any way to fail, tried on many."""

import json
import math
import os
import random
import tomllib
import typing
from pathlib import Path
from types import UnionType

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clipsent_nb.augment import rewrite_text
from clipsent_nb.cleaning import INVISIBLE, RULES, active_rules, clean_steps, clean_text, without_surrogates
from clipsent_nb.cli import bind_values, load, read_flags, settable
from clipsent_nb.config import TrainConfig, config_values
from clipsent_nb.copies import normalised_text
from clipsent_nb.corruptions import TEXT_CORRUPTIONS, corrupt_text
from clipsent_nb.data import assign_parts, fold_tables
from clipsent_nb.decoding import read_text
from clipsent_nb.errors import text_traits
from clipsent_nb.files import ClipsentError, Workspace, atomic_write, flag_of, write_together
from clipsent_nb.labels import LABELS
from clipsent_nb.posts import check_list, read_list
from clipsent_nb.steps import DECIDED, Plan

MANY = settings(max_examples=100, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=20, suppress_health_check=list(HealthCheck))

# --- settings: from a file of settings to flags to a run folder and back

NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\~"), min_size=1, max_size=20)
WORD = NAME.filter(lambda name: name not in (".", "..") and name.strip() == name)
PATHS = st.lists(WORD, min_size=1, max_size=3).map(lambda names: Path(*names))
NUMBERS = {
    "dropout": st.floats(0, 1, exclude_max=True),
    "warmup_ratio": st.floats(0, 1),
    **dict.fromkeys(("cb_beta", "label_smoothing", "ema_decay", "modality_dropout"), st.floats(0, 1, exclude_max=True)),
    "layer_decay": st.floats(0, 1, exclude_min=True),
    "max_grad_norm": st.floats(0, exclude_min=True),
    "lr": st.floats(0, 1e3, exclude_min=True),
    "head_lr": st.floats(0, 1e3, exclude_min=True),
    "epochs": st.integers(1, 10**6),
    "batch_size": st.integers(1, 10**6),
    "lora_rank": st.integers(1, 10**6),
    "weight_interpolation": st.floats(0, 1),
    "max_bad": st.integers(0, 100).map("{}%".format),
}


def values_of(name: str, kind: object) -> st.SearchStrategy:
    "Values that a field of the configuration may have."
    if isinstance(kind, UnionType) or typing.get_origin(kind) is typing.Union:
        return st.one_of(st.none() if part is type(None) else values_of(name, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return st.tuples(*[st.floats(0.1, 10)] * len(typing.get_args(kind)))
    if name in ("text_tower", "image_tower"):
        return st.sampled_from(["all", "frozen"]) | st.integers(1, 99)
    kinds = {bool: st.booleans(), int: st.integers(0, 10**9), float: st.floats(0, 1e6), str: WORD, Path: PATHS}
    return NUMBERS.get(name, kinds[kind])


KINDS = typing.get_type_hints(TrainConfig)


def made_to_fit(values: dict[str, object]) -> dict[str, object]:
    "The values, where one that only makes sense beside another gives way."
    both = values["text_encoder"] is not None and values["image_encoder"] is not None
    values |= {"model_name": TrainConfig.model_name} if both else {"text_encoder": None, "image_encoder": None}
    return values | ({} if values["head_first"] else {"weight_interpolation": 1.0})


SETTINGS = st.fixed_dictionaries({name: values_of(name, kind) for name, kind in KINDS.items()}).map(made_to_fit)
ALONE = ("ablate_text", "ablate_image", "modality_dropout")
CONFIGS = SETTINGS.filter(lambda values: sum(bool(values[name]) for name in ALONE) <= 1).map(
    lambda values: TrainConfig(**values)
)


def as_toml(values: dict[str, object]) -> str:
    "A table of values; TOML has no null, and what is null is left out."

    def written(value: object) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        if isinstance(value, float) and not math.isfinite(value):
            return repr(value)
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    return "".join(f"{name} = {written(value)}\n" for name, value in values.items() if value is not None)


def words_of(values: dict[str, object]) -> list[str]:
    "The flags of a command line with these values."
    words = []
    for name, value in values.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


@SOME
@given(CONFIGS)
def test_settings_survive_a_file_of_settings_a_command_line_and_a_run_folder(config):
    stored = json.dumps(config_values(config))
    assert TrainConfig(**json.loads(stored)) == config  # also what a report is given
    read = tomllib.loads(as_toml(json.loads(stored)))
    assert read == {name: value for name, value in json.loads(stored).items() if value is not None}
    command = load("optimize")  # without the refusal of flags that do nothing beside the others
    assert bind_values(command, read_flags(words_of(read), settable(command)))["config"] == config
    texts = {name: value if isinstance(value, list) else str(value) for name, value in read.items()}
    assert TrainConfig(**texts) == config  # as papermill or YAML may give them


@SOME
@given(CONFIGS)
def test_the_table_of_shared_settings_reaches_every_step_that_trains(config):
    values = config_values(config)
    shared = {name: value for name, value in values.items() if name not in DECIDED and value is not None}
    root = Workspace(config.project_root)
    for name in ("baseline", "grid", "heads"):
        [call] = Plan(name, {"train": shared, "batch": {}, name: {}}, root).calls
        assert {key: config_values(call["config"])[key] for key in shared} == shared, name
        assert call["config"].project_root == config.project_root


JUNK = st.sampled_from(["", "x", "-1", "nan", "inf", "1.5", "[1]", "yes please"]) | st.sampled_from(
    [-1, 0, 1.5, math.nan, math.inf, True, None, [], [1], {}, b"x", 10**400]
)


@MANY
@given(st.sampled_from(sorted(KINDS)), JUNK)
def test_a_setting_is_usable_or_refused_by_the_name_of_its_flag(name, value):
    try:
        config = TrainConfig(**{name: value})
    except ClipsentError as error:
        assert str(error).split(" ")[0].rstrip(":") == flag_of(name)
        assert len(str(error)) < 2000
    else:
        assert TrainConfig(**config_values(config)) == config


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf])
def test_numbers_that_are_none_are_refused(value):
    for name in ("lr", "head_lr", "weight_decay", "dropout", "warmup_ratio"):
        with pytest.raises(ClipsentError, match=f"--{name.replace('_', '-')}"):
            TrainConfig(**{name: value})


# --- files: old or new, never half

ANY_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 200
)
FAILURES = [
    ValueError,
    OSError,
    MemoryError,
    StopIteration,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    BaseException,
]
CONTENTS = st.text(st.characters(exclude_categories=["Cs"])) | st.binary()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def opened(path: Path, content: str | bytes):
    return atomic_write(path, "wb" if isinstance(content, bytes) else "w")


@MANY
@given(ANY_NAME, st.none() | st.binary(max_size=50), CONTENTS, st.sampled_from(FAILURES), st.floats(0, 1))
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path_factory, name, old, new, failure, share):
    folder = tmp_path_factory.mktemp("atomic")
    if old is not None:
        (folder / name).write_bytes(old)
    before = contents(folder)
    with pytest.raises(failure):
        with opened(folder / name, new) as file:
            file.write(new[: int(share * len(new))])
            raise failure("in the block")
    assert contents(folder) == before
    with opened(folder / name, new) as file:
        file.write(new)
        assert {key: value for key, value in contents(folder).items() if key in before} == before
    assert contents(folder) == {name: as_bytes(new)}


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch, step, failure):
    (tmp_path / "a.csv").write_text("old")

    def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(type(failure)):
        with atomic_write(tmp_path / "a.csv") as file:
            file.write("new")
    assert contents(tmp_path) == {"a.csv": b"old"}


@pytest.mark.parametrize("name", ["n" * 200, "天" * 70, "😍" * 50, "a\udc80b", " ", "-rf", "new\nline", "%s{}"])
def test_any_name_that_the_disk_takes_can_be_written(tmp_path, name):
    try:
        (tmp_path / name).write_bytes(b"old")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this disk does not take the name")
    with atomic_write(tmp_path / name) as file:
        file.write("new")
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [os.fsencode(name)]
    assert (tmp_path / name).read_bytes() == b"new"


# --- texts: whatever somebody writes

TROUBLE = st.sampled_from(
    [
        "\ud83d",
        "\ude02",
        "\udc80",
        "\x00",
        "\x1b[31m",
        "\u200b",
        "\u200d",
        "\u200e",
        "\u200f",
        "\u202e",
        "\u2066",
        "\u2069",
    ]
    + [
        "\ufeff",
        "\ufe0f",
        "\u0301" * 9,
        "\u0627\u0644",
        "שלום",
        "\u2028",
        "\x85",
        "\U000e0041",
        "\uffff",
        "ｆｕｌｌ",
        "ﷺ",
        "ǅ",
    ]
    + [
        "#",
        "@a",
        "http://t.co/\u202e",
        "&#0;",
        "&#xd83d;",
        "&#x110000;",
        "&amp;" * 3,
        "😍",
        "👩‍👩‍👧",
        "aaa",
        "\r",
        "\n",
        " ",
    ]
)
ANY_TEXT = st.lists(TROUBLE | st.text(st.characters(exclude_categories=[]), max_size=4), max_size=14).map("".join)
DEFAULT = active_rules({})


@MANY
@given(ANY_TEXT)
def test_each_rule_alone_and_all_together_end_and_say_what_they_changed(text):
    for rules in ([rule.name] for rule in RULES):
        cleaned, changed = clean_steps(text, rules)
        assert (cleaned != without_surrogates(text)) <= bool(changed) and changed <= set(rules)
    cleaned, changed = clean_steps(text, DEFAULT)
    assert clean_steps(cleaned, DEFAULT) == (cleaned, set())
    assert not INVISIBLE.search(cleaned) and cleaned == cleaned.strip() and "  " not in cleaned


@MANY
@given(ANY_TEXT, st.integers(1, 400))
def test_repeating_a_text_makes_the_cleaned_one_no_longer_than_the_bound(text, times):
    assume(len(text) * times <= 8000)
    assert len(clean_text(text * times, DEFAULT)) <= 42 * len(text) * times


@MANY
@given(ANY_TEXT)
def test_whatever_reads_a_text_takes_any(text):
    traits = text_traits(text)
    assert min(value for value in traits.values() if isinstance(value, int)) >= 0 and traits["script"]
    assert normalised_text(text) == normalised_text(text).lower() or text != text.lower()


@SOME
@given(ANY_TEXT, st.integers(0, 99))
def test_corruptions_and_rewordings_take_any_text_that_a_file_can_hold(text, seed):
    text = without_surrogates(text)
    for name in TEXT_CORRUPTIONS:
        corrupt_text(text, "1", name, 5, seed).encode("utf-8")
    for changed in rewrite_text(text, 3, random.Random(seed)):
        changed.encode("utf-8")


@MANY
@given(ANY_TEXT, st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]))
def test_a_text_is_read_as_it_was_written_or_refused(tmp_path_factory, text, encoding):
    text, path = without_surrogates(text), tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(text.encode(encoding))
    try:
        found, told = read_text(path)
    except ClipsentError as error:
        assert "text.txt" in str(error)
    else:
        plain = text.removeprefix("\ufeff").strip()
        assert found == plain or not told.startswith(encoding[:5]), (found, told)


# --- splits: what the tests of the data notebook leave open

ROWS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(LABELS)), min_size=1, max_size=80)


@MANY
@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=120), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_class_shares_are_within_two_rows_for_unequal_parts(labels, weights):
    shares = np.array(weights) / sum(weights)
    parts = assign_parts(labels, [str(number) for number in range(len(labels))], shares, 0)
    for label in LABELS:
        found = np.bincount(parts[np.array(labels) == label], minlength=len(shares))
        assert np.abs(found - shares * labels.count(label)).max() < (1 if len(shares) == 2 else 2) + 1e-9


@MANY
@given(ROWS, st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 99))
def test_a_part_is_off_its_share_by_no_more_than_the_largest_group(rows, weights, seed):
    groups, labels = [str(group) for group, _ in rows], [label for _, label in rows]
    shares = np.array(weights) / sum(weights)
    found = np.bincount(assign_parts(labels, groups, shares, seed), minlength=len(shares))
    assert np.abs(found - shares * len(rows)).max() <= 1 + max(map(groups.count, groups))


@SOME
@given(ROWS, st.integers(2, 5), st.integers(0, 99))
def test_each_row_validates_in_one_fold_and_trains_with_its_group_in_the_others(tmp_path_factory, rows, folds, seed):
    folder, names = tmp_path_factory.mktemp("folds"), [f"{number:03}" for number in range(len(rows))]
    paths = {"text_path": "data/a.txt", "image_path": "data/a.jpg"}
    table = pd.DataFrame({"guid": names, "label": [label for _, label in rows], "group": [str(g) for g, _ in rows]})
    assume(folds <= table.group.nunique())  # more are refused
    write_together(fold_tables(table.assign(**paths), folder, folds, seed))
    validated = []
    for fold in range(folds):
        val, train = (pd.read_csv(folder / f"fold_{fold}/{part}.csv", dtype=str) for part in ("val", "train"))
        assert sorted([*val.guid, *train.guid]) == names and set(val.group).isdisjoint(train.group)
        validated += val.guid.tolist()
    assert sorted(validated) == names


# --- lists: every line is used, named or the whole file refused

TAGS = st.sampled_from([*LABELS, "Positive", " neutral ", "", "null", "NaN", "joy", '"negative"', "=1", "positive,"])
GUIDS = st.integers(1, 9).map(str) | st.sampled_from(
    ["guid", "", " 7 ", "../1", "a/b", "=1+1", '"8"', "-1", "天", "a b"]
)
LINES = st.tuples(GUIDS, st.sampled_from([",", ",", ",", "\t", ";", ""]), TAGS).map("".join)
ANY_LINE = st.one_of(LINES, LINES, LINES, st.just(""), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(st.lists(ANY_LINE, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_each_row_of_a_list_is_used_or_named_or_the_list_is_refused(tmp_path_factory, lines, end, header, labelled):
    path = tmp_path_factory.getbasetemp() / "rows.txt"
    text = end.join(["guid,tag"] * header + lines)
    path.write_bytes(text.encode())
    try:
        rows, strange = read_list(path)
    except ClipsentError as error:
        assert "rows.txt" in str(error)
        return
    kept, odd = check_list(rows, "rows.txt", LABELS if labelled else ())
    assert kept.guid.is_unique and (not labelled or kept.label.isin(LABELS).all())
    told = [int(problem.file.removeprefix("rows.txt:")) for problem in strange + odd]
    assert sorted([*kept.line, *told]) == sorted(set(kept.line) | set(told))  # once each
    written = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    filled = [number for number, line in enumerate(written, 1) if line.strip("\ufeff").strip()]
    own = filled[1:] if written[filled[0] - 1].strip("\ufeff ").lower().startswith(("guid", "id")) else filled
    assert set(own) <= {*kept.line, *told} <= set(filled)
    for row in kept.itertuples():
        assert row.guid in written[row.line - 1]


@MANY
@given(st.lists(st.tuples(st.sampled_from("123456"), st.sampled_from([*LABELS, "", "joy"])), max_size=20))
def test_a_guid_is_used_only_if_its_rows_agree(rows):
    table = pd.DataFrame([(*row, number) for number, row in enumerate(rows, 1)], columns=["guid", "label", "line"])
    kept, _ = check_list(table.astype({"guid": str, "label": str}), "train.txt")
    tags = {guid: {tag for own, tag in rows if own == guid} for guid, _ in rows}
    agreed = {guid: tag for guid, (tag, *others) in tags.items() if not others and tag in LABELS}
    assert dict(zip(kept.guid, kept.label, strict=True)) == agreed
