"""Interruption, repetition and refusal of training runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipsent_nb.config import PRESETS, TrainConfig
from clipsent_nb.data import read_split
from clipsent_nb.encoders import load_encoder
from clipsent_nb.features import refuse_small_disk, set_mode
from clipsent_nb.files import ClipsentError, locked, read_json
from clipsent_nb.grid import optimize
from clipsent_nb.model import DualEncoderClassifier, read_weights
from clipsent_nb.runs import Run
from clipsent_nb.state import State, load_inputs
from clipsent_nb.train import fit, time_encoding
from clipsent_nb.trained import TrainedModel

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_sample) -> Path:
    return fresh_sample(tmp_path_factory.mktemp("posts") / "sample")


@pytest.fixture
def config(root, tmp_path) -> TrainConfig:
    settings = {"epochs": 2, "freeze_epochs": 1, "batch_size": 16, "lr": 1e-3, "use_cosine": True, "warmup_ratio": 0.1}
    return TrainConfig(project_root=root, model_name="tiny_clip", output_dir=tmp_path / "run", **settings)


def scores(run: Run) -> dict[str, object]:
    return {
        name: value
        for name, value in run.metrics.items()
        if name not in ("train_time_sec", "pairs_per_sec", "encoding_time_sec")
    }


class Killed(BaseException):
    "Stands for a process that ends between two steps."


def kill_at(epoch: int, step: int):
    "What `fit` calls after each step: ends after `step` steps of an epoch."

    def on_step(state: State) -> None:
        if (state.epoch, state.step) == (epoch, step):
            raise Killed

    return on_step


def test_one_seed_one_history(config, tmp_path):
    first, second = (fit(replace(config, output_dir=tmp_path / name)) for name in "ab")
    other = fit(replace(config, output_dir=tmp_path / "c", seed=7))
    assert (first.folder / "history.csv").read_bytes() == (second.folder / "history.csv").read_bytes()
    assert (first.folder / "history.csv").read_bytes() != (other.folder / "history.csv").read_bytes()
    assert scores(first) == scores(second)


@pytest.mark.parametrize("image_aug, kills", [(False, [(0, 5), (1, 9)]), (True, [(1, 1), (2, 15)])])
def test_interrupted_run_ends_like_an_undisturbed_one(config, tmp_path, image_aug, kills):
    config = replace(config, epochs=3, image_aug=image_aug, save_minutes=0.0)
    undisturbed = fit(replace(config, output_dir=tmp_path / "undisturbed"))
    for epoch, step in kills:
        own = replace(config, output_dir=tmp_path / f"killed_{epoch}_{step}")
        with pytest.raises(Killed):
            fit(own, kill_at(epoch, step))
        assert (own.output_dir / "last.pt").is_file()
        assert not (own.output_dir / "metrics.json").exists()
        continued = fit(own)
        assert scores(continued) == scores(undisturbed), (epoch, step)
        assert (continued.folder / "history.csv").read_bytes() == (undisturbed.folder / "history.csv").read_bytes()
        assert not (continued.folder / "last.pt").exists()


def test_an_interrupted_run_goes_on_after_the_last_step_that_was_saved(config):
    config, seen = replace(config, epochs=1, save_minutes=0.0), []
    with pytest.raises(Killed):
        fit(config, kill_at(0, 5))
    fit(config, lambda state: seen.append((state.epoch, state.step, state.posts)))
    assert seen[0] == (0, 5, 5 * config.batch_size)


def test_killed_process_continues(config, tmp_path):
    config = replace(config, epochs=5, save_minutes=0.0)
    flags = [sys.executable, "-m", "clipsent_nb.cli", "optimize", "--project-root", config.project_root]
    flags += ["--model-name", "tiny_clip", "--epochs", "5", "--freeze-epochs", "1", "--early-stop", "3"]
    flags += ["--batch-size", "16", "--lr", "1e-3", "--use-cosine", "--warmup-ratio", "0.1", "--save-minutes", "0"]
    flags += ["--output-dir", config.output_dir]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, flags)), env=environment, stderr=subprocess.DEVNULL)
    while not (config.output_dir / "history.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    assert not (config.output_dir / "metrics.json").exists()
    continued = fit(config)
    undisturbed = fit(replace(config, output_dir=tmp_path / "undisturbed"))
    assert scores(continued) == scores(undisturbed)


def test_complete_run_is_not_repeated(config):
    first = fit(config)
    before = (first.folder / "metrics.json").stat().st_mtime_ns
    fit(replace(config, num_workers=1))
    assert (first.folder / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(ClipsentError, match="lr 0.001 there, 0.002 here"):
        fit(replace(config, lr=2e-3))
    assert fit(replace(config, lr=2e-3, overwrite=True)).config["lr"] == 2e-3


def test_a_head_alone_is_trained_by_one_thread_and_towers_by_as_many_as_before(config):
    seen = []
    torch.set_num_threads(2)
    try:
        fit(config, lambda state: seen.append((state.epoch, torch.get_num_threads())))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {(0, 1), (1, 2)}  # freeze_epochs is 1


def test_a_run_replaces_no_files_of_something_else(config, root, tmp_path):
    shutil.copytree(root / "tiny_clip", tmp_path / "tiny_clip")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/README.md").write_text("mine")
    for folder, what in (
        (tmp_path / "tiny_clip", "tiny_clip: holds no run, but config.json, which a run would replace; choose another"),
        (tmp_path / "notes", "notes: holds no run, but README.md, which a run would replace"),
        (root / "data", "data: lies among the posts; choose another folder"),
        (root / "data/of_mine/run", "run: lies among the posts"),
    ):
        before = sorted(folder.rglob("*"))
        for overwrite in (False, True):
            with pytest.raises(ClipsentError, match=what):
                fit(replace(config, output_dir=folder, overwrite=overwrite))
        assert sorted(folder.rglob("*")) == before
    assert (tmp_path / "notes/README.md").read_text() == "mine"


@pytest.mark.parametrize("ends", ["start", "clear"])
def test_a_run_that_was_killed_while_its_folder_was_made_or_cleared_begins_again(config, monkeypatch, ends):
    def end(*_, **options):
        raise Killed

    if ends == "clear":
        fit(config)
        monkeypatch.setattr("shutil.rmtree", end)
    else:
        monkeypatch.setattr("clipsent_nb.runs.write_csv", end)
    with pytest.raises(Killed):
        fit(replace(config, overwrite=True, lr=2e-3))
    monkeypatch.undo()
    assert fit(replace(config, lr=2e-3)).config["lr"] == 2e-3


def test_other_settings_do_not_continue_an_interrupted_run(config):
    with pytest.raises(Killed):
        fit(config, kill_at(1, 3))
    with pytest.raises(ClipsentError, match="interrupted run with other settings"):
        fit(replace(config, dropout=0.3))
    assert fit(config).metrics["epochs"] == 2


def test_features_are_encoded_once_for_all_runs(config, tmp_path):
    config = replace(config, epochs=2, trainable_blocks=0)
    first = fit(config)
    indexes = list((config.project_root / "outputs/cache/features").glob("*/index.txt"))
    before = {path: path.stat().st_mtime_ns for path in indexes}
    again = fit(replace(config, output_dir=tmp_path / "again"))
    fit(replace(config, head_variant="mlp", output_dir=tmp_path / "mlp"))
    assert before == {path: path.stat().st_mtime_ns for path in indexes} and len(before) >= 2
    pd.testing.assert_frame_equal(first.history, again.history, rtol=0, atol=0)
    for path in indexes:
        store = path.with_name("rows.bin")
        store.write_bytes(store.read_bytes()[:1000])
    mended = fit(replace(config, output_dir=tmp_path / "mended"))
    pd.testing.assert_frame_equal(first.history, mended.history, rtol=0, atol=0)


def test_a_corrected_label_encodes_nothing_and_folds_share_features(config, root, tmp_path):
    config = replace(config, epochs=1, trainable_blocks=0)
    fit(config)
    indexes = list((config.project_root / "outputs/cache/features").glob("*/index.txt"))
    rows = {path: len(path.read_text().splitlines()) for path in indexes}
    train_csv, val_csv = (pd.read_csv(root / f"outputs/splits/{name}.csv", dtype=str) for name in ("train", "val"))
    train_csv.loc[0, "label"] = "neutral" if train_csv.label[0] != "neutral" else "positive"
    val_csv.to_csv(tmp_path / "train.csv", index=False)
    train_csv.to_csv(tmp_path / "val.csv", index=False)
    fit(
        replace(config, train_csv=tmp_path / "train.csv", val_csv=tmp_path / "val.csv", output_dir=tmp_path / "swapped")
    )
    assert rows == {path: len(path.read_text().splitlines()) for path in indexes}


def test_of_an_augmented_split_the_altered_halves_are_encoded_alone(config, root, tmp_path):
    config = replace(config, epochs=1, trainable_blocks=0)
    fit(config)
    stores = {path: path.read_text().splitlines() for path in (root / "outputs/cache/features").glob("*/index.txt")}
    train = read_split(root / "outputs/splits/train.csv")
    copies = train.head(3).assign(guid=[f"{guid}_ta1" for guid in train.guid.head(3)])
    for row in copies.index:
        path = tmp_path / f"{row}.txt"
        path.write_text(f"altered words, number {row}", encoding="utf-8")
        copies.loc[row, ["text_path", "text_digest", "text_hash"]] = str(path), "", ""
    pd.concat([train, copies]).to_csv(tmp_path / "train_aug.csv", index=False)
    fit(replace(config, train_csv=tmp_path / "train_aug.csv", allow_outside=True, output_dir=tmp_path / "augmented"))
    found = {path: path.read_text().splitlines() for path in (root / "outputs/cache/features").glob("*/index.txt")}
    assert sorted(len(found[path]) - len(rows) for path, rows in stores.items()) == [0, 3]


def test_an_interrupted_frozen_run_keeps_no_copy_of_the_encoder(config):
    config = replace(config, epochs=3, freeze_epochs=1)
    saved = []

    def on_step(state: State) -> None:
        if state.step == 1 and state.epoch:
            saved.append(set(torch.load(config.output_dir / "last.pt", weights_only=True)["model"]))

    fit(config, on_step)
    assert all(name.startswith("head.") for name in saved[0]) and saved[0]
    assert any(name.startswith("encoder.") for name in saved[1])


def test_second_process_is_refused(config):
    with locked(config.output_dir), pytest.raises(ClipsentError, match="another process"):
        fit(config)


def test_loss_that_is_not_finite_names_the_posts(config):
    def on_step(state: State) -> None:
        if state.step == 3:
            state.model.head.classifier[0].weight.data.fill_(float("nan"))

    with pytest.raises(ClipsentError, match=r"loss is nan in epoch 1, step 4, the batch of guids \d+") as caught:
        fit(config, on_step)
    guids = pd.read_csv(config.project_root / "outputs/splits/train.csv", dtype=str).guid
    assert sum(f" {guid}," in str(caught.value) for guid in guids) >= 14


def test_leak_is_marked(config, root, tmp_path):
    train_csv, val_csv = (pd.read_csv(root / f"outputs/splits/{name}.csv", dtype=str) for name in ("train", "val"))
    pd.concat([train_csv, val_csv.head(5)]).to_csv(tmp_path / "train.csv", index=False)
    run = fit(replace(config, epochs=1, train_csv=tmp_path / "train.csv"))
    assert run.metrics["leaked"] is True and "LEAKED" in str(run)


def test_ablated_modality_changes_nothing(config, root, tmp_path):
    val = pd.read_csv(root / "outputs/splits/val.csv", dtype=str)
    val["image_path"] = val.image_path.sample(frac=1, random_state=0).to_numpy()
    val.to_csv(tmp_path / "val.csv", index=False)
    config = replace(config, epochs=1, ablate_image=True)
    straight = fit(config)
    shuffled = fit(replace(config, val_csv=tmp_path / "val.csv", output_dir=tmp_path / "other"))
    assert np.array_equal(straight.epoch_probabilities, shuffled.epoch_probabilities)


def test_history_has_the_promised_columns(config):
    run = fit(replace(config, epochs=1))
    promised = ["epoch", "train_loss", "val_acc", "val_f1_macro", "val_precision_macro", "val_recall_macro"]
    assert run.history.columns[:6].tolist() == promised
    assert json.loads((run.folder / "config.json").read_text())["head_variant"] == "ln"
    promised = ["guid", "true_label", "pred_label", "confidence", "p_negative", "p_neutral", "p_positive", "group"]
    assert run.predictions.columns.tolist() == promised


def test_history_has_the_rate_of_the_encoder_where_it_is_trained(config):
    config = replace(config, epochs=2, lr=1e-3, head_lr=5e-3, use_cosine=False, warmup_ratio=0.0)
    assert fit(config).history.lr.tolist() == [5e-3, 1e-3]
    assert fit(replace(config, epochs=1, freeze_epochs=0, overwrite=True)).history.lr.tolist() == [1e-3]


def test_dropout_is_on_in_trained_blocks_alone(config, root):
    model = DualEncoderClassifier(load_encoder(root / "tiny_clip"))
    set_mode(model, replace(config, trainable_blocks=1), False)
    for tower in (model.encoder.text_model, model.encoder.vision_model):
        *below, top = tower.encoder.layers
        assert below and top.training and not any(part.training for part in (*below, tower.embeddings))


def test_early_stop_counts_epochs_without_a_better_score(config, caplog):
    caplog.set_level("INFO", logger="clipsent_nb")
    run = fit(replace(config, epochs=12, early_stop=1))
    assert run.metrics["epochs"] == run.metrics["best_epoch"] + 1 < 12
    assert f"stopped after epoch {run.metrics['epochs']}: no better score for 1 epoch\n" in caplog.text


def test_a_run_to_its_last_epoch_did_not_stop(config, caplog):
    caplog.set_level("INFO", logger="clipsent_nb")
    fit(config)
    assert "epoch 2/2" in caplog.text and "stopped" not in caplog.text


def test_the_time_of_encoding_is_known_and_no_part_of_the_estimate(config, monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("clipsent_nb.train.time", clock)
    bar, state = SimpleNamespace(disable=False, start_t=1.0, last_print_t=2.0), SimpleNamespace(encoding_seconds=3.0)
    with time_encoding(bar, state):
        clock.now += 60
    assert (bar.start_t, bar.last_print_t, state.encoding_seconds) == (61.0, 62.0, 63.0)
    monkeypatch.undo()
    metrics = fit(replace(config, trainable_blocks=0)).metrics
    assert 0 < metrics["encoding_time_sec"] < metrics["train_time_sec"]


@pytest.mark.parametrize("loss, head_variant", [("ce", "base"), ("focal", "gated"), ("cb", "base"), ("combo", "gated")])
def test_every_loss_and_precision_trains(config, loss, head_variant):
    run = fit(replace(config, epochs=1, loss=loss, head_variant=head_variant, precision="bf16"))
    assert run.config["computed_in"] == "bfloat16"
    assert 0 < run.history.train_loss[0] < 5


def test_changed_post_does_not_continue(config, tmp_path, fresh_sample):
    copy = fresh_sample(tmp_path / "posts")
    config = replace(config, project_root=copy, output_dir=Path("run"))
    with pytest.raises(Killed):
        fit(config, kill_at(1, 3))
    text = copy / pd.read_csv(copy / "outputs/splits/train.csv").text_path[0]
    text.write_text("something else altogether")
    with pytest.raises(ClipsentError, match="interrupted run with other settings .content of train_csv"):
        fit(config)
    assert fit(replace(config, overwrite=True)).metrics["epochs"] == 2


def test_moved_model_is_the_same_run(config, root, tmp_path):
    import shutil

    fit(replace(config, epochs=1))
    shutil.copytree(root / "tiny_clip", tmp_path / "moved")
    again = fit(replace(config, epochs=1, model_name=str(tmp_path / "moved")))
    assert again.found and "already complete" in str(again)
    (again.folder / "best.pt").write_bytes((again.folder / "best.pt").read_bytes()[:1000])
    with pytest.raises(ClipsentError, match="best.pt: missing or damaged"):
        fit(replace(config, epochs=1))


def test_overwrite_keeps_the_old_run_until_the_new_one_can_start(config, root):
    fit(replace(config, epochs=1))
    before = (config.output_dir / "best.pt").read_bytes()
    picture = root / pd.read_csv(root / "outputs/splits/train.csv").image_path[0]
    content = picture.read_bytes()
    picture.write_bytes(content[:500])
    for wrong in (
        {"model_name": "nowhere", "offline": True},
        {"lr": 1e-4, "strict": True},
    ):
        with pytest.raises(ClipsentError):
            fit(replace(config, epochs=1, overwrite=True, **wrong))
    picture.write_bytes(content)
    assert (config.output_dir / "best.pt").read_bytes() == before
    assert (config.output_dir / "metrics.json").exists()


@pytest.mark.parametrize("saved", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_kill_between_best_weights_and_state(config, tmp_path, monkeypatch, saved):
    config = replace(config, epochs=3)
    undisturbed = fit(replace(config, output_dir=tmp_path / "undisturbed"))
    original, ends = os.replace, []

    def killed(source, target):
        last = Path(target).name == "last.pt"
        ends.extend([target] * last)
        if last and len(ends) == 3 and not saved:
            raise Killed
        original(source, target)
        if last and len(ends) == 3:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        fit(config)
    continued = fit(config)
    assert scores(continued) == scores(undisturbed)
    weights = [read_weights(run.folder / "best.pt")[0] for run in (continued, undisturbed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert not list(continued.folder.glob("best.*.pt")) and not list(continued.folder.glob(".*.tmp"))


def test_no_trainable_block_means_frozen(config, tmp_path):
    frozen = fit(replace(config, freeze_epochs=3))
    blocks = fit(replace(config, freeze_epochs=0, trainable_blocks=0, output_dir=tmp_path / "blocks"))
    assert frozen.history.equals(blocks.history) and blocks.history.frozen.all()


def answers(run: Run) -> pd.DataFrame:
    return run.predictions[["p_negative", "p_neutral", "p_positive"]]


@pytest.mark.parametrize("image_aug", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cached_activations_equal_the_uncached_path(config, tmp_path, image_aug):
    config = replace(config, trainable_blocks=1, epochs=2, precision="fp32", image_aug=image_aug)
    runs = {}
    for cached in (True, False):
        settings = {"cache_activations": cached, "output_dir": tmp_path / f"{cached}"}
        runs[cached] = fit(replace(config, **settings))
    kept = list((config.project_root / "outputs/cache/activations").glob("*/index.txt"))
    assert len(kept) >= 2
    pd.testing.assert_frame_equal(answers(runs[True]), answers(runs[False]), atol=1e-4, rtol=0)
    first = {
        name: tensor for name, tensor in read_weights(runs[True].folder / "best.pt")[0].items() if "layers.0." in name
    }
    start = fit(replace(config, trainable_blocks=0, output_dir=tmp_path / "start"))
    untouched = read_weights(start.folder / "best.pt")[0]
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in first.items())


def test_activations_of_a_run_in_bf16_take_half_the_room_and_answer_alike(config, tmp_path):
    config, folder = replace(config, trainable_blocks=1, epochs=2), config.project_root / "outputs/cache/activations"
    sizes, runs, seen = {}, {}, set()
    for precision, cached in (("fp32", True), ("bf16", True), ("bf16", False)):
        settings = {
            "precision": precision,
            "cache_activations": cached,
            "output_dir": tmp_path / f"{precision}{cached}",
        }
        runs[precision, cached] = answers(fit(replace(config, **settings)))
        files = set(folder.glob("*/rows.bin"))
        sizes[precision, cached] = sum(path.stat().st_size for path in files - seen)
        seen |= files
    assert sizes["fp32", True] == 2 * sizes["bf16", True] > 0 == sizes["bf16", False]
    pd.testing.assert_frame_equal(runs["bf16", True], runs["bf16", False], atol=0.02, rtol=0)


def test_activations_are_computed_once_and_only_where_there_is_room(config, tmp_path, monkeypatch, caplog):
    config = replace(config, trainable_blocks=1, epochs=2, freeze_epochs=0, seed=11)
    fit(replace(config, output_dir=tmp_path / "first"))
    folder = config.project_root / "outputs/cache/activations"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/index.txt")}
    fit(replace(config, output_dir=tmp_path / "second"))
    assert before and before == {path: path.stat().st_mtime_ns for path in folder.glob("*/index.txt")}
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    for size, fits in ((400, True), (600, False), (1500, False)):  # half of the room is left to others
        with nullcontext() if fits else pytest.raises(OSError, match="no more than half"):
            refuse_small_disk(tmp_path, size)
    shutil.rmtree(folder)
    fit(replace(config, output_dir=tmp_path / "third"))
    assert not list(folder.glob("*/index.txt"))
    assert "computed in every epoch" in caplog.text


@pytest.mark.parametrize("image_aug", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_micro_batches_change_no_number(config, tmp_path, image_aug):
    config = replace(config, epochs=2, freeze_epochs=0, precision="fp32", image_aug=image_aug)
    whole = fit(config)
    parts = fit(replace(config, micro_batch_size=5, output_dir=tmp_path / "parts"))
    pd.testing.assert_frame_equal(answers(whole), answers(parts), atol=1e-4, rtol=0)


def scarce(state: State) -> None:
    "From the first step on, memory suffices for six posts at a time."

    def refuse(module, arguments, options):
        if torch.is_grad_enabled() and len(options["pixel_values"]) > 6:
            raise torch.OutOfMemoryError("tried to allocate 20.00 MiB")

    if (state.epoch, state.step) == (0, 1):
        state.model.encoder.vision_model.register_forward_pre_hook(refuse, with_kwargs=True)


def test_memory_that_runs_out_is_named_or_halves_the_micro_batch(config, tmp_path, caplog):
    config = replace(config, epochs=2, freeze_epochs=0, precision="fp32")
    whole = fit(replace(config, output_dir=tmp_path / "whole"))
    with pytest.raises(ClipsentError, match="out of memory with 16 posts at a time .*--micro-batch-size 8"):
        fit(config, scarce)
    run = fit(replace(config, auto_batch=True, resume=False), scarce)
    assert "going on with 4" in caplog.text
    pd.testing.assert_frame_equal(answers(whole), answers(run), atol=1e-4, rtol=0)


def test_memory_that_runs_out_in_the_optimizer_is_named(config, monkeypatch):
    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("tried to allocate 600.00 MiB")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ClipsentError, match="out of memory for the optimizer's moments"),
    ):
        patch.setattr(torch, "zeros_like", refuse)
        fit(replace(config, auto_batch=True))


def test_the_encoder_warms_up_when_it_is_unfrozen(config):
    config = replace(config, epochs=4, freeze_epochs=2, warmup_ratio=0.2, use_cosine=False)
    rates = []
    fit(config, lambda state: rates.append([group["lr"] for group in state.optimizer.param_groups]))
    steps = len(rates) // 4
    encoder, head = ([row[i] for row in rates] for i in (0, -1))
    assert head[steps - 1] == max(head) and encoder[2 * steps] < 0.5 * max(encoder) == 0.5 * encoder[-1]


def test_frozen_run_writes_the_encoder_once(config):
    config, times = replace(config, trainable_blocks=0, epochs=5, early_stop=0), set()

    def on_step(state: State) -> None:
        times.update(path.name for path in config.output_dir.glob("best*.pt"))

    run = fit(config, on_step)
    assert not times and (run.folder / "best.pt").is_file()
    again = TrainedModel.load(run.folder).probabilities(load_inputs(config).val)
    assert abs(again - answers(run).to_numpy()).max() < (1e-5 if run.config["computed_in"] == "float32" else 0.02)


def test_the_same_file_for_training_and_validation_is_a_leak(config):
    run = fit(replace(config, epochs=1, val_csv=config.train_csv))
    assert run.metrics["leaked"] and run.metrics["unseen_val_posts"] == 0


def test_renamed_copies_are_a_leak(config, root, tmp_path):
    names = ["guid", "text_path", "image_path", "label"]
    train_csv, val_csv = (
        pd.read_csv(root / f"outputs/splits/{name}.csv", dtype=str)[names] for name in ("train", "val")
    )
    pd.concat([train_csv, val_csv.assign(guid=val_csv.guid + "_x")]).to_csv(tmp_path / "train.csv", index=False)
    val_csv.to_csv(tmp_path / "val.csv", index=False)
    run = fit(replace(config, epochs=1, train_csv=tmp_path / "train.csv", val_csv=tmp_path / "val.csv"))
    assert run.metrics["leaked"] and run.metrics["unseen_val_posts"] == 0


def test_a_changed_text_is_another_run(config, tmp_path, fresh_sample):
    copy = fresh_sample(tmp_path / "posts")
    config = replace(config, project_root=copy, output_dir=Path("run"), epochs=1)
    fit(config)
    assert fit(config).found
    text = copy / pd.read_csv(copy / "outputs/splits/train.csv").text_path[0]
    text.write_text("something else altogether")
    with pytest.raises(ClipsentError, match="content of train_csv"):
        fit(config)
    assert not fit(replace(config, overwrite=True)).found


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(config, tmp_path):
    flags = ["optimize", "--project-root", str(config.project_root), "--model-name", "tiny_clip", "--epochs", "3"]
    flags += ["--batch-size", "16", "--lr", "1e-3", "--use-cosine", "--warmup-ratio", "0.1", "--precision", "fp32"]
    settings = {"precision": "fp32", "early_stop": 3, "epochs": 3}
    for extra in ({}, {"image_aug": True}, {"trainable_blocks": 1}):
        one = fit(replace(config, **settings, **extra, output_dir=tmp_path / f"one{len(extra)}{list(extra)}"))
        more = [
            f"--{name.replace('_', '-')}" + (f"={value}" if value is not True else "") for name, value in extra.items()
        ]
        folder = tmp_path / f"two{list(extra)}"
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
        ]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "clipsent_nb.cli", *flags, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--output-dir", str(folder)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("run folder") == 1
        assert (folder / "report.html").is_file()
        two = Run.load(folder)
        assert two.predictions.guid.tolist() == one.predictions.guid.tolist()
        pd.testing.assert_frame_equal(answers(one), answers(two), atol=1e-3, rtol=0)
        assert abs(one.metrics["best_val_f1_macro"] - two.metrics["best_val_f1_macro"]) < 0.02


@pytest.mark.slow
def test_compiled_encoder_gives_the_same_answers(config, tmp_path):
    config = replace(config, epochs=2, freeze_epochs=0, precision="fp32", lr=1e-4)
    plain = fit(config)
    compiled = fit(replace(config, compile=True, output_dir=tmp_path / "compiled"))
    pd.testing.assert_frame_equal(answers(plain), answers(compiled), atol=1e-3, rtol=0)


def test_what_was_set_wins_over_a_preset_even_if_it_is_the_default(config):
    own = {name: getattr(config, name) for name in ("project_root", "output_dir", "model_name")}
    optimize(TrainConfig(**own, epochs=1, batch_size=TrainConfig.batch_size), report=False, preset="quick")
    found = read_json(config.output_dir / "config.json")
    quick = PRESETS["quick"].settings
    assert quick["batch_size"] != found["batch_size"] == TrainConfig.batch_size and found["lr"] == quick["lr"]
