"""Groups that are no copies, ids that start again in a part, what a card may quote, and an ensemble read as a run."""

import io
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsent_nb.badcases import find_conflicts, score_posts
from clipsent_nb.card import describe_worst
from clipsent_nb.copies import copy_groups, find_copies
from clipsent_nb.data import make_splits, read_split, with_content
from clipsent_nb.decoding import open_image
from clipsent_nb.errors import describe_posts
from clipsent_nb.files import ClipsentError, Workspace, write_json
from clipsent_nb.push import find_robustness
from clipsent_nb.tables import Columns

WORDS = "coffee garden station parade wedding dentist concert hotel match pizza exam train".split()


@pytest.fixture
def posts(tmp_path) -> pd.DataFrame:
    "A table of posts of which none is like another."
    rows = []
    for number in range(24):
        picture = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        text = (
            f"{WORDS[number % 12]} {'abcdefghijklmnopqrstuvwx'[number] * 6} {WORDS[(number * 5 + number // 12) % 12]}"
        )
        rows.append([str(number), text, f"{number}.png", ["negative", "positive"][number % 2]])
    return pd.DataFrame(rows, columns=["id", "text", "image", "label"])


def split(folder: Path, table: pd.DataFrame, **options):
    table.to_csv(folder / "t.csv", index=False)
    return make_splits(Workspace(folder), table="t.csv", **options)


def test_the_posts_of_one_author_are_no_copies(tmp_path, posts):
    report = split(
        tmp_path,
        posts.assign(author=[f"a{number // 4}" for number in range(24)]),
        columns=Columns(group_column="author"),
    )
    assert report.duplicates.empty and report.conflicting.empty and report.posts.group.nunique() == 6
    train = read_split(report.folder / "train.csv")
    assert train.group.nunique() < len(train)
    probabilities = pd.DataFrame({"guid": train.guid, "p_negative": 0.7, "p_positive": 0.3, "confidence": 0.7})
    scored = score_posts(train, probabilities.assign(pred_label="negative"), "val", 0.5)
    assert scored.conflict.eq("").all() and not scored.kind.eq("conflict").any()
    described, _ = describe_posts(train.assign(wrong=False, pred_label=train.label), Workspace(tmp_path))
    assert described.copies.eq("no copies").all()


def test_copies_are_found_within_and_across_authors(tmp_path, posts):
    posts.loc[4, ["text", "label"]] = posts.loc[0, "text"], "positive"
    report = split(
        tmp_path,
        posts.assign(author=[f"a{number // 4}" for number in range(24)]),
        columns=Columns(group_column="author"),
    )
    assert report.conflicting.guids.tolist() == ["0 4"] and report.posts.group.nunique() == 5
    whole = report.posts.assign(group=copy_groups(report.posts))
    assert find_conflicts(whole).replace("", np.nan).dropna().to_dict() == {0: "4", 4: "0"}


def test_a_post_without_an_author_is_not_the_author_of_its_number(tmp_path, posts):
    authors = [""] * 12 + [str(number) for number in range(12)]
    report = split(tmp_path, posts.assign(author=authors), columns=Columns(group_column="author"))
    assert report.posts.group.nunique() == 24


def test_validation_posts_without_authors_are_no_copies_of_authors_with_their_numbers(tmp_path, posts):
    report = split(tmp_path, posts)
    columns, workspace = ["guid", "text_path", "image_path", "label"], Workspace(tmp_path)
    train, val = (read_split(report.folder / f"{name}.csv")[columns] for name in ("train", "val"))
    val.assign(group="").to_csv(tmp_path / "val.csv", index=False)
    train.assign(group=[*val.guid, *train.guid[len(val) :]]).to_csv(tmp_path / "train.csv", index=False)
    known, met = (with_content(read_split(tmp_path / f"{name}.csv"), workspace)[0] for name in ("train", "val"))
    assert not find_copies(met, known).any()


def test_ids_that_start_again_in_the_test_part_are_refused(tmp_path, posts):
    parts = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    again = posts.assign(split=parts, id=[str(n if n < 18 else n - 18) for n in range(24)])
    with pytest.raises(
        ClipsentError, match="t.csv:20: the id '0' stands in test and in another part, with another text"
    ):
        split(tmp_path, again)
    same = pd.concat([posts.assign(split=parts), posts.head(1).assign(split="test")])
    assert split(tmp_path, same).audit.problem.tolist() == ["in test and in another part"]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"leaked": False, "val_csv": None}, True),
        ({"leaked": False}, True),
        ({"leaked": True}, False),
        ({"leaked": None}, False),
        ({"leaked": False, "val_csv": "outputs/splits/other.csv"}, False),
    ],
)
def test_a_card_quotes_only_what_was_measured_on_posts_to_validate_on(tmp_path, what, told):
    weights = tmp_path / "outputs/optimize/clip/best.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    (tmp_path / "outputs/optimize/robustness").mkdir()
    measured = {"weights": str(weights), "corruptions": {"jpeg": {}}, "conditions": {}, "posts": 9} | what
    write_json(tmp_path / "outputs/optimize/robustness/robustness_metrics.json", measured)
    assert bool(find_robustness(weights, Workspace(tmp_path))) == told


@pytest.mark.parametrize("share", [None, float("nan")])
def test_a_card_of_a_model_that_has_no_score_to_lose_gives_no_share_of_it(share):
    damage = {"jpeg": {"modality": "image", "family": "camera", "drop": -0.033, "relative_drop": share}}
    [line] = describe_worst(damage)
    assert line == "Of 1 kind of damage, jpeg costs most: -0.033 of macro-F1 on average over its severities."


def test_a_picture_from_a_stream_that_cannot_go_back_is_read(tmp_path, posts):
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *where: int) -> int:
            raise io.UnsupportedOperation("seek")

    assert open_image(Stream((tmp_path / "0.png").read_bytes())).size == (32, 32)
    with urllib.request.urlopen((tmp_path / "1.png").as_uri()) as answer:
        assert open_image(answer).size == (32, 32)


def test_a_class_of_few_posts_to_validate_on_is_named(tmp_path, posts):
    assert "few posts" not in str(split(tmp_path, posts, val_ratio=0.5))
    posts.loc[18:, "label"] = "angry"
    assert "warning: few posts in val, 3 angry" in str(split(tmp_path, posts, val_ratio=0.5))
