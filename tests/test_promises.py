"""What README and pages promise, where no test of a single module speaks of it."""

import ast
import hashlib
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipsent_nb import features, files, hub
from clipsent_nb.batches import BatchFolder, Execution
from clipsent_nb.config import TrainConfig
from clipsent_nb.features import compute_dtype
from clipsent_nb.files import ClipsentError, read_table, write_json
from clipsent_nb.runs import Run
from clipsent_nb.state import SAMPLE_SETTINGS, load_inputs, new_state, sample_config
from clipsent_nb.stats import cross_fit_epoch, seeds_interval
from clipsent_nb.train import fit, sample_run, training_bar, update
from clipsent_nb.trained import find_met_posts

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "clipsent_nb").glob("[!_]*.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, fresh_sample) -> Run:
    return sample_run(fresh_sample(tmp_path_factory.mktemp("promises") / "root"), epochs=3)


@pytest.fixture
def root(run) -> Path:
    return run.folder.parents[2]


# -- no luck


def test_intervals_of_a_run_count_the_copies_of_a_post_once(run, root):
    groups = read_table(root / "outputs/splits/val.csv").set_index("guid").group[run.predictions.guid]
    assert run.predictions.group.tolist() == groups.tolist() and groups.duplicated().any()
    found = seeds_interval(run.labels, run.probabilities.argmax(axis=1), groups=groups)
    assert run.metrics["best_val_f1_macro_interval"] == pytest.approx([found["low"], found["high"]])


def test_a_run_says_its_score_on_posts_that_did_not_choose_the_epoch(run):
    honest = cross_fit_epoch(run.labels, run.epoch_probabilities, groups=run.predictions.group)
    assert len(run.epoch_probabilities) == 3
    assert run.metrics["cross_fitted_val_f1_macro"] == pytest.approx(honest["honest"])
    assert f"on posts that did not choose the epoch: macro-F1 {honest['honest']:.4f}" in str(run)


def test_no_page_promises_anything_about_new_posts():
    for page in (ROOT / "nbs/reports").glob("*.ipynb"):
        text = page.read_text(encoding="utf-8").lower()
        assert "new posts" not in text and not re.search(r"expect (nearer|that|of)", text), page.name
    assert "on these posts, with these seeds" in (ROOT / "nbs/reports/grid.ipynb").read_text(encoding="utf-8")


# -- no staleness


def test_a_post_that_was_mended_is_used_again(run, root, tmp_path):
    config = sample_config(root, epochs=1, max_bad="5%", output_dir=tmp_path / "run")
    post = read_table(root / "outputs/splits/train.csv").iloc[0]
    picture, whole = root / post.image_path, (root / post.image_path).read_bytes()
    picture.write_bytes(whole[:200])
    try:
        assert fit(config).config["left_out"] == [post.guid]
    finally:
        picture.write_bytes(whole)
    with pytest.raises(ClipsentError, match="content of train_csv"):  # and not "already complete"
        fit(config)
    again = fit(replace(config, overwrite=True))
    assert again.config["left_out"] == [] and post.guid in set(again.train_posts.guid)


def test_the_encoder_is_hashed_once_by_a_process_and_whenever_it_changed(root, tmp_path, monkeypatch):
    folder, hashed = Path(shutil.copytree(root / "tiny_clip", tmp_path / "clip")), []

    def count(file, name):
        hashed.append(Path(file.name).name)
        return hashlib.file_digest(file, name)

    monkeypatch.setattr(hub, "hashlib", SimpleNamespace(file_digest=count))
    config = sample_config(root, epochs=1, model_name=str(folder), output_dir=tmp_path / "run")
    fit(config)
    assert fit(config).found
    assert sorted(hashed) == sorted(path.name for path in folder.iterdir())
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ClipsentError, match="other settings .model_name"):
        fit(config)


def test_a_batch_reads_the_scores_of_a_finished_run_once(tmp_path):
    batch = BatchFolder(tmp_path, ["seed"], Execution())
    for number, leaked in enumerate([False, True, False]):
        folder, score = tmp_path / f"run{number}", 0.5 + number / 10
        scores = {"best_val_f1_macro": score, "best_val_f1_macro_interval": [score, score], "best_val_acc": score}
        write_json(folder / "metrics.json", scores | {"leaked": leaked, "val_posts": 9})
        batch.rows[folder.name] = {"state": "done"}
        ranking = batch.ranking()
        (folder / "metrics.json").unlink()  # whoever reads it again finds nothing
    assert [folder.name for _, folder in ranking] == ["run2", "run0", "run1"]  # what leaked stands last


# -- training says what it does


@pytest.fixture
def with_dropout(root, tmp_path) -> TrainConfig:
    "Settings of a run whose encoder has dropout of its own."
    folder = Path(shutil.copytree(root / "tiny_clip", tmp_path / "dropping"))
    path = folder / "config.json"
    path.write_text(re.sub(r'"attention_dropout": [0-9.]+', '"attention_dropout": 0.5', path.read_text()))
    return sample_config(root, model_name=str(folder), freeze_epochs=0, output_dir=tmp_path / "run")


def computed(config: TrainConfig, rows: list[int]) -> torch.Tensor:
    "Features of texts as a step of training computes them."
    inputs = load_inputs(config)
    state = new_state(config, inputs, torch.device("cpu"), torch.float32)
    of_run = features.Features(state.model, inputs.train, inputs.val, config, "any", torch.float32)
    of_run.freeze(False)
    return of_run.train(np.array(rows), 7)[0].detach()


def test_micro_batches_of_an_encoder_with_dropout_differ_and_the_flag_says_so(with_dropout):
    whole, again = (computed(with_dropout, [0, 1, 2, 3]) for _ in range(2))
    parts = computed(replace(with_dropout, micro_batch_size=2), [0, 1, 2, 3])
    assert torch.equal(whole, again) and not torch.allclose(whole, parts, atol=1e-3)
    runs = (ROOT / "clipsent_nb/config.py").read_text(encoding="utf-8")
    assert re.search(r"micro_batch_size: .*[Ee]ncoder dropout", runs)
    assert "unless the encoder itself has dropout" in (ROOT / "docs/howto/small-machine.md").read_text(encoding="utf-8")


def test_processes_that_share_a_batch_do_not_drop_the_same(with_dropout, monkeypatch):
    monkeypatch.setattr(features, "gather_features", lambda part, count: part)
    shares = []
    for number in range(2):
        state = SimpleNamespace(num_processes=2, process_index=number)
        monkeypatch.setattr(features, "process_state", lambda state=state: state)
        shares.append(computed(with_dropout, [5, 5]))  # each has the same post
    assert shares[0].shape == shares[1].shape and not torch.allclose(*shares, atol=1e-3)


def test_a_gpu_without_bfloat16_computes_in_float16_and_others_need_none(monkeypatch):
    for able, expected in ((False, torch.float16), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert compute_dtype("auto", torch.device("cuda")) == expected


def test_a_step_in_float16_cuts_the_true_gradient_and_is_left_out_where_it_overflowed():
    for gradient, moved in ((3.0, 0.5), (float("inf"), 0.0)):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(weight.sum() * gradient).backward()
        update(optimizer, schedule, 0.5, scaler)
        assert weight.item() == pytest.approx(-moved, abs=1e-5)
        assert scaler.get_scale() == (1024 if moved else 512)


def test_losses_speed_and_bar_count_every_post_once(root, tmp_path):
    seen = []
    config = sample_config(root, epochs=2, output_dir=tmp_path / "counted")
    metrics = fit(config, lambda state: seen.append((state.posts, state.total_posts))).metrics
    posts = metrics["train_posts"]
    assert max(of_epoch for of_epoch, _ in seen) == posts and seen[-1][1] == 2 * posts
    assert metrics["pairs_per_sec"] * metrics["train_time_sec"] == pytest.approx(2 * posts, rel=0.01)
    resumed = training_bar(config, SimpleNamespace(epoch=1, posts=5), posts)
    assert (resumed.n, resumed.total) == (posts + 5, 2 * posts)


# -- files


def test_a_file_takes_its_place_although_a_scanner_holds_it_for_a_moment(tmp_path, monkeypatch):
    refusals, new, old = [PermissionError, PermissionError], str(tmp_path / "new"), str(tmp_path / "old")
    Path(new).write_text("new")
    move = os.replace

    def replace_later(source, target):
        if refusals:
            raise refusals.pop()
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "os", SimpleNamespace(name="nt", replace=replace_later))
        patch.setattr(time, "sleep", lambda seconds: None)
        files.replace_file(new, old)
    assert Path(old).read_text() == "new"


def moves_file(call: ast.Call) -> bool:
    "os.replace, shutil.move and the like, and Path.replace, which takes one argument; that of pandas has a mapping."
    text = ast.unparse(call.func)
    given = [type(one) for one in call.args]
    mapped = set(given) & {ast.Dict, ast.DictComp}
    of_path = re.search(r"\.(replace|rename)$", text) and len(given) == 1 and not mapped and not call.keywords
    return text in ("os.replace", "os.rename", "shutil.move") or bool(of_path and not text.startswith("tags."))


def test_files_take_their_place_by_one_function_and_mapped_ones_are_only_appended():
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        moves = [ast.unparse(call) for call in calls if moves_file(call)]
        assert len(moves) == (path.stem == "files"), (path.stem, moves)
    assert "replace_file" not in (ROOT / "clipsent_nb/caches.py").read_text(encoding="utf-8")


def test_a_long_name_in_chinese_can_be_written_as_the_disk_counts_bytes(tmp_path):
    with files.atomic_write(tmp_path / ("数" * 80 + ".csv")) as file:
        file.write("")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("place", "process", "days", "stays"),
    [
        (files.HOST, 999999999, 0, False),  # killed, and nobody else's
        (files.HOST, os.getpid(), 0, True),
        ("0123456789ab", 999999999, 6, True),  # another container's processes cannot be seen
        ("0123456789ab", 999999999, 8, False),
        ("vm", 999999999, 8, False),  # of version 0.1.0
    ],
    ids=["killed", "alive", "elsewhere", "elsewhere and old", "old version"],
)
def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path, place, process, days, stays):
    path = tmp_path / f".a.csv.{place}-{process}-x.tmp"
    path.write_text("")
    os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    files.sweep(tmp_path)
    assert path.is_file() == stays


# -- one way for each thing


def test_tables_of_posts_have_one_reader():
    own_numbers = {"runs", "grid", "errors", "robustness"}  # read back figures that they wrote themselves
    foreign = {"tables"}  # reads what other programs wrote
    for path in MODULES:
        if "read_csv(" in path.read_text(encoding="utf-8"):
            assert path.stem in {"files", *own_numbers, *foreign}, path.stem


def test_a_search_uses_no_private_name_of_optuna():
    assert not re.search(r"\b(study|trial)\._", (ROOT / "clipsent_nb/grid.py").read_text(encoding="utf-8"))


def test_posts_that_a_model_has_met_are_known_where_its_folder_lists_them(run, tmp_path):
    inputs = load_inputs(TrainConfig(**{**SAMPLE_SETTINGS, "project_root": run.folder.parents[2]}))
    met = find_met_posts(run.folder, inputs.train.posts)
    assert met == inputs.train.guids and find_met_posts(run.folder, inputs.val.posts) == []
    assert find_met_posts(tmp_path, inputs.train.posts) is find_met_posts(None, inputs.train.posts) is None
    listed = (run.folder / "train_posts.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "train_posts.csv").write_bytes(b"".join(listed[:-1]))
    shutil.copy(run.folder / "metrics.json", tmp_path)
    with pytest.raises(ClipsentError, match=r"train_posts.csv: damaged \(lists \d+ of the \d+ training posts\)"):
        find_met_posts(tmp_path, inputs.val.posts)
