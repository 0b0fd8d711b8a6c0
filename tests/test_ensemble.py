"""An ensemble answers wherever it lies, refuses what does not belong together, and keeps the leak guards of its members."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from runfolders import put_predictions, record_parts

from clipsent_nb import trained
from clipsent_nb.cli import main
from clipsent_nb.data import read_split
from clipsent_nb.ensemble import WEIGHING, cross_fit_ensemble, ensemble
from clipsent_nb.explain import explain
from clipsent_nb.export import export
from clipsent_nb.files import ClipsentError, Workspace, atomic_write, log, write_json
from clipsent_nb.members import Ensemble, need_single
from clipsent_nb.model import read_weights, write_weights
from clipsent_nb.predict import Classifier, EnsembleClassifier
from clipsent_nb.runs import Run

torch.set_num_threads(1)
OPTIMIZE = Path("outputs/optimize")


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_run) -> Path:
    "A project with a short run, one that passes for another seed, one that met validation posts, and an ensemble."
    root = fresh_run(tmp_path_factory.mktemp("ensemble") / "sample")
    altered(root, "other", seed=1)
    half, val = root / altered(root, "half"), read_split(root / "outputs/splits/val.csv")
    known = pd.read_csv(half / "train_posts.csv", dtype=str)
    pd.concat([known, val.iloc[::2].reindex(columns=known.columns)]).to_csv(half / "train_posts.csv", index=False)
    record_parts(half)
    ensemble(both("clip", "other"), workspace=Workspace(root))
    return root


def both(*names: str) -> str:
    return ",".join(f"outputs/optimize/{name}" for name in names)


def test_an_ensemble_of_other_classes_knows_them(root):
    names = ["awful", "plain", "lovely"]
    places = []
    for name in ("clip", "other"):
        places.append(altered(root, f"renamed_{name}", labels=names))
        folder = root / places[-1]
        table = pd.read_csv(folder / "val_predictions.csv", dtype=str)
        renamed = dict(zip(("negative", "neutral", "positive"), names, strict=True))
        table = table.replace(renamed).rename(columns={f"p_{old}": f"p_{new}" for old, new in renamed.items()})
        put_predictions(folder, table)
    made = ensemble(",".join(places), words=False, output_dir=OPTIMIZE / "renamed", workspace=Workspace(root))
    found = Run.load(made.folder)
    assert found.classes == tuple(names) and set(found.predictions.pred_label) <= set(names)
    for name in ("renamed", "renamed_clip", "renamed_other"):
        shutil.rmtree(root / OPTIMIZE / name)


def test_an_ensemble_is_loaded_by_its_name_and_takes_a_post_twice(root):
    found = EnsembleClassifier.load(str(root / OPTIMIZE / "ensemble"))
    posts = read_split(root / "outputs/splits/val.csv").head(2).iloc[[0, 1, 0]]
    table = found.predict_posts(posts, Workspace(root))[1]
    assert table.guid.tolist() == posts.guid.tolist() and table.confidence[0] == table.confidence[2]


def test_columns_of_a_user_stay_as_they_are(root):
    posts = read_split(root / "outputs/splits/val.csv").assign(row="mine", index="own", p_negative="x")
    shipped = Classifier.load(root / OPTIMIZE / "ensemble").predict_posts(posts, Workspace(root))
    assert set(shipped[0].row) == {"mine"} and shipped[1].guid.tolist() == posts.guid.tolist()
    assert shipped[1].p_negative.dtype == float


def test_what_is_alike_in_members_is_run_once(root, monkeypatch):
    found, posts = Classifier.load(root / OPTIMIZE / "ensemble"), read_split(root / "outputs/splits/val.csv").head(3)
    texts, pictures = list("abc"), [root / path for path in posts.image_path]
    single = [one.memory_probabilities(texts, pictures) for one in found.members]
    encode, calls = trained.encode, []
    monkeypatch.setattr(trained, "encode", lambda *given, **how: calls.append(1) or encode(*given, **how))
    np.testing.assert_allclose(found.memory_probabilities(texts, pictures), found.combine(single), atol=1e-6)
    assert len(found.members) == 3 and len(calls) == 1  # the two runs have equal towers
    with torch.no_grad():
        next(found.members[1].model.encoder.vision_model.parameters()).mul_(2)
    del found.members[1].tower_digests
    found.memory_probabilities(texts, pictures)
    assert len(calls) == 3  # the text tower is still shared


def altered(root: Path, name: str, **values: object) -> str:
    "A copy of a run with other values among its settings."
    folder = shutil.copytree(root / OPTIMIZE / "clip", root / OPTIMIZE / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | values)
    state, settings = read_weights(folder / "best.pt")
    write_weights(folder / "best.pt", state, settings | values)
    return f"outputs/optimize/{name}"


def test_a_moved_ensemble_answers_as_it_was_measured_without_the_runs_it_was_made_of(root, tmp_path):
    moved = Path(shutil.copytree(root / OPTIMIZE / "ensemble", tmp_path / "elsewhere"))
    aside = (root / OPTIMIZE / "other").rename(root / OPTIMIZE / "aside")
    posts, table = Classifier.load(moved).predict_posts(root / "outputs/splits/val.csv", Workspace(root))
    written = Run.load(moved)
    np.testing.assert_allclose(table.filter(like="p_"), written.predictions.filter(like="p_"), atol=1e-5)
    parts = [Run.load(root / OPTIMIZE / name).train_posts.guid for name in ("clip", "aside")]
    assert set(written.train_posts.guid) == set().union(*parts) and not written.metrics["leaked"]
    aside.rename(root / OPTIMIZE / "other")


def test_weights_of_a_member_stay_when_its_run_is_trained_again(root):
    member = next((root / OPTIMIZE / "ensemble/members").glob("1_*/best.pt"))
    before = member.read_bytes()
    with atomic_write(root / OPTIMIZE / "other/best.pt", "wb") as file:  # as all files of a run are written
        file.write(b"other weights")
    assert member.read_bytes() == before
    shutil.copy(member, root / OPTIMIZE / "other/best.pt")


def test_a_leak_of_one_member_is_a_leak_of_all(root):
    made = ensemble(both("clip", "half"), output_dir=OPTIMIZE / "leaky", workspace=Workspace(root))
    assert made.metrics["leaked"] and "LEAKED" in str(made)
    assert made.metrics["unseen_val_posts"] < made.metrics["val_posts"]
    shutil.rmtree(made.folder)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (both("clip"), {"words": False, "output_dir": "new"}, "an ensemble needs two members"),
        (both("clip", "clip"), {"words": False, "output_dir": "new"}, "an ensemble needs two members"),
        (both("clip", "ensemble"), {"output_dir": "new"}, "ensemble: is an ensemble or a soup"),
        (both("clip", "nowhere"), {"output_dir": "new"}, "nowhere: holds no finished run"),
        (both("clip", "other"), {}, "holds an ensemble; replace it with --overwrite"),
        (both("clip", "other"), {"output_dir": OPTIMIZE / "clip"}, "exists and holds no ensemble"),
        (both("clip", "other"), {"output_dir": "new", "method": "soup"}, "other: began with other weights than clip"),
        (both("clip", "other"), {"method": "mean"}, "--method mean"),
    ],
)
def test_what_cannot_be_one_model_is_named_and_nothing_is_written(root, given, options, message):
    with pytest.raises(ClipsentError, match=message):
        ensemble(given, workspace=Workspace(root), **options)
    assert not (root / "new").exists() and (root / OPTIMIZE / "ensemble/metrics.json").is_file()


def test_an_ensemble_that_cannot_take_its_place_leaves_the_old_one_and_no_parts(root, monkeypatch):
    place, move = root / OPTIMIZE / "ensemble", os.replace
    killed = place.parent / ".ensemble.parts/new/members"
    killed.mkdir(parents=True)

    def refuse(file: Path, target: Path) -> None:
        if Path(file).name == "new":
            raise OSError(28, "No space left on device", str(target))
        move(file, target)

    before = (place / "ensemble.json").read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        ensemble(both("clip", "other"), method="greedy", overwrite=True, workspace=Workspace(root))
    assert (place / "ensemble.json").read_bytes() == before and not killed.parents[1].exists()


def test_a_run_on_other_posts_is_named(root):
    folder = root / altered(root, "fewer")
    table = pd.read_csv(folder / "val_predictions.csv", dtype=str)
    put_predictions(folder, table.iloc[1:])
    with pytest.raises(ClipsentError, match="fewer: validated on other posts"):
        ensemble(both("clip", "fewer"), output_dir="new", workspace=Workspace(root))
    shutil.rmtree(folder)


def test_a_soup_of_a_run_and_its_copy_is_the_run(root):
    altered(root, "twin")
    made = ensemble(both("clip", "twin"), "soup", output_dir=OPTIMIZE / "soup", workspace=Workspace(root))
    run = Run.load(root / OPTIMIZE / "clip")
    found = Classifier.load(made.folder).predict_posts(root / "outputs/splits/val.csv", Workspace(root))[1]
    assert found.pred_label.tolist() == run.predictions.pred_label.tolist()
    assert made.metrics["cross_fitted_val_f1_macro"] == pytest.approx(made.metrics["best_val_f1_macro"])
    notes = made.folder / "notes.md"
    notes.write_text("mine")
    ensemble(both("clip", "twin"), "soup", output_dir=OPTIMIZE / "soup", overwrite=True, workspace=Workspace(root))
    assert notes.read_text() == "mine"
    split = root / "outputs/splits/val.csv"
    before = split.read_bytes()
    split.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
    with pytest.raises(ClipsentError, match=r"val.csv: guid .* cannot be read any more"):
        ensemble(both("clip", "twin"), "soup", output_dir=OPTIMIZE / "less", workspace=Workspace(root))
    split.write_bytes(before)
    assert not (root / OPTIMIZE / "less").exists()
    for name in ("twin", "soup"):
        shutil.rmtree(root / OPTIMIZE / name)


def test_what_needs_one_network_names_a_member(root):
    folder = OPTIMIZE / "ensemble"
    with pytest.raises(ClipsentError, match="cannot take apart; take .*members/0_clip"):
        explain(Classifier.load(root / folder), "a day", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ClipsentError, match="an export cannot take apart"):
        export(folder, Workspace(root))
    words = ["robustness", "--weights", str(folder), "--project-root", str(root), "--no-report", "--no-progress"]
    assert main(words) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--weights", "outputs/optimize/ensemble", "--coverage", "0.8"],
        ["mine", "--source", "val", "--weights", "outputs/optimize/ensemble", "--no-report"],
        ["errors", "--run", "outputs/optimize/ensemble", "--no-report"],
    ],
)
def test_later_commands_take_an_ensemble_like_a_run(root, words):
    assert main([*words, "--project-root", str(root), "--no-progress"]) == 0


def test_weights_of_a_half_never_see_the_other():
    "With labels that are noise, cross-fitted answers gain nothing from a choice among many members."
    random = np.random.default_rng(0)
    y_true, members = random.integers(0, 3, 300), random.dirichlet([1, 1, 1], (15, 1, 300))
    weights = WEIGHING["greedy"](members[:, 0], y_true)
    reported = np.tensordot(weights, members[:, 0], 1).argmax(axis=1)
    honest = cross_fit_ensemble(list(members), y_true, np.arange(300), WEIGHING["greedy"])
    assert (reported == y_true).mean() > 0.38 and abs((honest == y_true).mean() - 1 / 3) < 0.06


def test_labels_that_changed_since_are_said(root, caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", True)
    split = root / "outputs/splits/val.csv"
    before = split.read_bytes()
    split.write_bytes(before.replace(b",neutral", b",positive", 2))
    ensemble(both("clip", "other"), words=False, output_dir=OPTIMIZE / "old", workspace=Workspace(root))
    split.write_bytes(before)
    assert "label, text or picture of some posts changed" in caplog.text
    shutil.rmtree(root / OPTIMIZE / "old")


def test_a_model_that_does_best_alone_is_no_ensemble(root):
    folder = root / altered(root, "perfect")
    table = pd.read_csv(folder / "val_predictions.csv", dtype=str)
    for name in ("negative", "neutral", "positive"):
        table[f"p_{name}"] = (table.true_label == name).astype(float)
    put_predictions(folder, table)
    with pytest.raises(ClipsentError, match="--method greedy: perfect alone does best, so there is no ensemble"):
        ensemble(both("perfect", "clip"), "greedy", words=False, output_dir="alone", workspace=Workspace(root))
    assert not (root / "alone").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no list of members"),
        ([], r"its weights \[\] are no shares of 1"),
        ([{"weight": 1}], "no list of members"),
        ([{"folder": "a"}], r"its weights \[None\] are no shares"),
        ([{"folder": "a", "weight": "1"}], "are no shares"),
        ([{"folder": "a", "weight": 0.7}, {"folder": "b", "weight": 0.6}], "are no shares"),
    ],
)
def test_a_damaged_list_of_members_is_named(tmp_path, members, message):
    write_json(tmp_path / "ensemble.json", {"labels": ["a", "b"], "temperature": 1, "members": members})
    with pytest.raises(ClipsentError, match=f"ensemble.json: damaged .*{message}"):
        EnsembleClassifier.load(tmp_path)


def test_an_ensemble_of_words_alone_is_named_where_towers_are_needed():
    words = SimpleNamespace(folder="words", labels=("a", "b"))
    with pytest.raises(ClipsentError, match="an ensemble, which an export cannot take apart$"):
        need_single(Ensemble((words,), np.ones(1), ("a", "b"), folder="here"), "an export")
