"""Other labels than the default ones: what becomes a class, and that the names reach every file and no wrong one."""

import shutil

import numpy as np
import pandas as pd
import pytest

from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import read_text
from clipsent_nb.ensemble import ensemble
from clipsent_nb.files import ClipsentError, Workspace, digest, read_json, read_table
from clipsent_nb.inputs import load_posts
from clipsent_nb.labels import LABELS, choose_labels, find_labels, plain_name
from clipsent_nb.posts import files_by_guid, read_list
from clipsent_nb.predict import Classifier
from clipsent_nb.runs import Run
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import run_stage
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit
from clipsent_nb.trained import TrainedModel


def chosen(tags: str, each: int = 6, **options: str) -> tuple[str, ...]:
    return choose_labels(pd.Series(tags.split() * each).map(plain_name), **options)[0]


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        ("Positive NEGATIVE neutral null", LABELS),
        ("pos neg NEU", LABELS),
        ("-1 0 1", LABELS),
        ("-1.0 0.0 +1", LABELS),
        ("−1 0 1", LABELS),
        ("负面 中性 正面", LABELS),
        ("消极 中性 积极", LABELS),
        ("positive neg 积极 neu", LABELS),
        ("positive negative", ("negative", "positive")),
        ("0 1", ("0", "1")),
        ("5 1 4 2 3", ("1", "2", "3", "4", "5")),
        ("-2 -1 0 1 2", ("-2", "-1", "0", "1", "2")),
        ("positive negative mixed", ("mixed", "negative", "positive")),
        ("喜 怒 哀 乐", ("乐", "哀", "喜", "怒")),
        (" ".join(f"class{i:02}" for i in range(50)), tuple(f"class{i:02}" for i in range(50))),
    ],
)
def test_labels_come_from_the_tags(tags, labels):
    assert chosen(tags) == labels


def test_labels_can_be_given_in_an_order_and_tags_be_renamed():
    assert chosen("good bad ugly", wanted="bad, good,ugly") == ("bad", "good", "ugly")
    assert chosen("good bad", rename="good=positive,bad=negative") == ("negative", "positive")
    assert chosen("pos neg", wanted="positive,negative") == ("positive", "negative")


@pytest.mark.parametrize(
    ("tags", "options", "what"),
    [
        ("macro micro", {}, "'macro' cannot be the name of a class"),
        ("happy", {}, r"number of labels 1 \(happy\); there must be 2 to 50"),
        (" ".join(f"class{i}" for i in range(51)), {}, "number of labels 51"),
        ("positive 1", {}, r"tags are numbers \(1\) and words"),
        ("good bad", {"wanted": "good,good"}, "number of labels 2"),
        ("good bad", {"rename": "good"}, "--rename good: 'good' is not old=new"),
        ("good bad", {"rename": "good=a,good=b"}, "'good' has two new names"),
        ("positive positive positive. negative", {}, r"'positive.' \(6\) for 'positive' \(12\); .*positive.=positive"),
        ("very-good very_good bad very-good", {}, r"'very_good' \(6\) for 'very-good' \(12\)"),
        ("good bad", {"rename": "goood=good"}, "--rename goood=good: no post has the tag 'goood'"),
    ],
)
def test_tags_that_are_no_labels_are_refused(tags, options, what):
    with pytest.raises(ClipsentError, match=what):
        chosen(tags, **options)


def test_a_rare_tag_that_looks_like_a_common_one_is_refused_as_a_slip():
    tags = pd.Series(["happy", "angry"] * 9 + ["angrry"] * 4)
    with pytest.raises(ClipsentError, match=r"'angrry' \(4\) for 'angry' \(9\); .* --rename angrry=angry, or name all"):
        choose_labels(tags)
    with pytest.raises(ClipsentError, match="--rename angrry=angry,hapy=happy"):
        choose_labels(pd.Series([*tags, "hapy"]))
    assert choose_labels(tags, rename="angrry=angry")[0] == ("angry", "happy")
    assert choose_labels(pd.Series([*tags, "angrry"]))[0] == ("angrry", "angry", "happy")


@pytest.mark.parametrize(
    ("tag", "label"), [("postive", "positive"), ("Neutal", "neutral"), ("正面的", "正面"), ("negative.", "negative")]
)
def test_a_slip_among_the_default_labels_is_refused_and_can_be_renamed_or_left_out(tag, label):
    tags = pd.Series([label, "pos", "NEG", "neutral"] * 9 + [tag]).map(plain_name)
    with pytest.raises(
        ClipsentError, match=rf"\(1\) for '{label}' \(\d+\); nothing .* --rename .*={label}, or name all"
    ):
        choose_labels(tags)
    labels, renamed = choose_labels(tags, rename=f"{tag}={label}")
    assert labels == LABELS and renamed.iloc[-1] == renamed.iloc[0]
    labels, kept = choose_labels(tags, wanted="negative,neutral,positive")
    assert labels == LABELS and kept.iloc[-1] == plain_name(tag)
    assert choose_labels(pd.Series([*tags[:-1], "joyful"]))[0] == LABELS  # which means something else


def relabel(root, names, posts=1000) -> None:
    "Give the first posts of a sample other labels, by what is in their names."
    lines = (root / "train.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(",") for line in lines[1 : 1 + posts]]
    tags = [names[int(digest(f"{guid}{tag}".encode()), 16) % len(names)] for guid, tag in pairs]
    rows = [f"{guid},{tag}" for (guid, _), tag in zip(pairs, tags, strict=True)]
    (root / "train.txt").write_text("\n".join(["guid,tag", *rows]), encoding="utf-8")


QUICK = {"epochs": 1, "trainable_blocks": 0, "batch_size": 32}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A run on three classes of which none has a default name, in an order that was given."
    root = tmp_path_factory.mktemp("labels") / "project"
    make_sample(root)
    relabel(root, ["喜", "怒", "plain f/m"], posts=60)
    (root / "test_without_label.txt").unlink()
    report = make_splits(Workspace(root), val_ratio=0.2, labels="喜,plain f/m,怒")
    assert list(report.classes)[:3] == ["喜", "plain f/m", "怒"]
    return root, fit(sample_config(root, **QUICK))


def test_a_run_has_its_labels_in_every_file(project):
    root, run = project
    labels = ("喜", "plain f/m", "怒")
    assert find_labels(root / "outputs/splits/val.csv") == labels == run.classes
    assert read_json(run.folder / "config.json")["labels"] == list(labels)
    assert [name for name in run.predictions if name.startswith("p_")] == [f"p_{label}" for label in labels]
    assert set(run.predictions.true_label) <= set(labels) and run.labels.max() == 2
    truth = read_split(root / "outputs/splits/val.csv").set_index("guid").label
    assert (run.predictions.true_label == truth[run.predictions.guid].to_numpy()).all()
    assert all(f"best_val_f1_{label}" in run.metrics and f"val_f1_{label}" in run.history for label in labels)
    page = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "is 喜 or plain_f/m or 怒" in page
    posts = Classifier.load(run.folder).predict(["so", "so"], [np.zeros((8, 8, 3), np.uint8)] * 2)
    assert list(posts.filter(like="p_")) == [f"p_{label}" for label in labels]


def test_an_ensemble_has_the_labels_of_its_members(project):
    root, run = project
    ensemble("outputs/optimize/clip", workspace=Workspace(root))  # and a bag of words
    assert Run.load(root / "outputs/optimize/ensemble").predictions.pred_label.isin(run.classes).all()


def test_weights_never_meet_labels_that_they_do_not_know(project, tmp_path):
    root, run = project
    trained = TrainedModel.load(run.folder, Workspace(root))
    shutil.copytree(root / "outputs/splits", tmp_path / "splits")
    table = read_table(tmp_path / "splits/val.csv")
    table.assign(label="joy").to_csv(tmp_path / "splits/val.csv", index=False)
    (tmp_path / "splits/classes.csv").write_text("label\njoy\nsorrow\n")
    with pytest.raises(ClipsentError, match="unknown label 'joy'; use 喜, plain f/m, 怒"):
        load_posts(tmp_path / "splits/val.csv", trained.processors, trained.config, Workspace(root))


def test_another_order_of_the_labels_is_another_run(project, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(project[0], root)
    (root / "outputs/splits/classes.csv").write_text("label\n怒\n喜\nplain f/m\n", encoding="utf-8")
    with pytest.raises(ClipsentError, match=r"holds a finished run with other settings \(labels"):
        fit(sample_config(root, **QUICK))


def test_runs_without_labels_have_the_default_ones(tmp_path):
    assert Run(tmp_path, {}, {}).classes == LABELS and "labels" not in TrainConfig.__dataclass_fields__


SETTINGS = """
[train]
model_name = "tiny_clip"
epochs = 1
lr = 5e-4
precision = "fp32"
[batch]
jobs = 1
[splits]
val_ratio = 0.2
[grid]
batch_sizes = "32"
lrs = "2e-4,1e-3"
weight_decays = "0.01"
dropouts = "0.15"
[heads]
seeds = "42"
[preprocess]
rules = "none,improved"
seeds = "42"
[mine]
folds = 2
[robustness]
corruptions = "noise,blur"
"""


def in_one_table(root) -> str:
    "Put the posts of a sample into one table, a few of them without one half; returns the settings for it."
    lists = [read_list(root / name)[0] for name in ("train.txt", "test_without_label.txt")]
    rows = pd.concat(lists, ignore_index=True).drop_duplicates("guid")
    files = files_by_guid(root / "data")
    rows["text"] = [read_text(root / "data" / files[guid]["text"][0])[0] for guid in rows.guid]
    rows["image"] = ["data/" + files[guid]["image"][0] for guid in rows.guid]
    rows.loc[rows.index[:6], "text"], rows.loc[rows.index[6:12], "image"] = "", ""
    rows.drop(columns="line").to_json(root / "posts.jsonl", orient="records", lines=True)
    for name in ("train.txt", "test_without_label.txt"):
        (root / name).unlink()
    settings = SETTINGS.replace("val_ratio", 'table = "posts.jsonl"\nallow_missing = true\nval_ratio')
    return settings + '[predict]\ntest_file = "outputs/splits/test.csv"\n'


@pytest.mark.slow
@pytest.mark.parametrize("names", [["yes", "no"], [str(number) for number in range(1, 8)]], ids=["two", "seven"])
def test_the_stage_takes_any_number_of_classes_and_posts_in_a_table(tmp_path, names):
    make_sample(tmp_path)
    relabel(tmp_path, names)
    (tmp_path / "settings.toml").write_text(in_one_table(tmp_path) if len(names) == 2 else SETTINGS)
    run_stage(tmp_path / "settings.toml", Workspace(tmp_path))
    labelled = read_table(tmp_path / "outputs/test_with_label_clip_aug.txt")
    assert set(labelled.tag) <= set(names) and len(labelled) > 50
    assert (tmp_path / "outputs/reports/index.html").is_file()
