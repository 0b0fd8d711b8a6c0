"""Every lever of a training can be interrupted, and does what its comment says, on a few posts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipsent_nb import features
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.features import TrainedModel
from clipsent_nb.files import ClipsentError, Workspace, write_csv
from clipsent_nb.model import load_encoder, read_weights, tower_of
from clipsent_nb.runs import Run, TrainConfig
from clipsent_nb.sample import make_sample
from clipsent_nb.train import State, fit, load_inputs

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    "A project with 24 posts to train on and 12 to validate on, eight and four of each class."
    root = make_sample(tmp_path_factory.mktemp("posts") / "sample")
    make_splits(Workspace(root), val_ratio=0.2)
    for name, count in (("train", 8), ("val", 4)):
        path = root / f"outputs/splits/{name}.csv"
        write_csv(read_split(path).groupby("label").head(count), path)
    return root


@pytest.fixture
def config(root, tmp_path) -> TrainConfig:
    settings = {"epochs": 3, "freeze_epochs": 0, "lr": 1e-3, "precision": "fp32", "early_stop": 0}
    return TrainConfig(project_root=root, model_name="tiny_clip", output_dir=tmp_path / "run", **settings)


class Killed(BaseException):
    "Stands for a process that ends between two steps."


def kill(state: State) -> None:
    "What `fit` calls after each step: ends in the middle of the second epoch."
    if (state.epoch, state.step) == (1, 2):
        raise Killed


def scores(run: Run) -> dict[str, object]:
    return {name: value for name, value in run.metrics.items() if name not in ("train_time_sec", "pairs_per_sec")}


LEVERS = {
    "one tower": {"image_tower": "frozen"},
    "one block of a tower": {"text_tower": 1, "image_tower": "frozen", "freeze_epochs": 1},
    "regularisation": {"modality_dropout": 0.3, "label_smoothing": 0.1, "class_weights": "sqrt", "layer_decay": 0.5},
    "average": {"ema_decay": 0.7, "freeze_epochs": 1},
    "checkpoints": {"gradient_checkpointing": True, "trainable_blocks": 1},
    "pooling": {"text_pooling": "mean", "image_pooling": "mean", "freeze_epochs": 1},
}


@pytest.mark.parametrize("lever", LEVERS)
def test_a_run_with_a_lever_ends_like_an_undisturbed_one_after_a_kill(config, tmp_path, lever):
    config = replace(config, save_minutes=0.0, **LEVERS[lever])
    undisturbed = fit(replace(config, output_dir=tmp_path / "undisturbed"))
    with pytest.raises(Killed):
        fit(config, kill)
    continued = fit(config)
    assert scores(continued) == scores(undisturbed)
    assert (continued.folder / "history.csv").read_bytes() == (undisturbed.folder / "history.csv").read_bytes()
    ours, theirs = (read_weights(run.folder / "best.pt")[0] for run in (continued, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    loaded = TrainedModel.load(continued.folder)
    inputs = load_inputs(config)
    assert abs(loaded.probabilities(inputs.val) - continued.probabilities).max() < 1e-5


def test_training_one_tower_runs_and_saves_that_tower_alone(config, tmp_path, monkeypatch):
    config = replace(config, image_tower="frozen", epochs=1)
    first = fit(config)

    def refuse(*arguments):
        raise AssertionError("a picture was read")

    monkeypatch.setattr(features, "image_batch", refuse)
    again = replace(config, save_minutes=0.0, epochs=2, output_dir=tmp_path / "again")
    saved = set()

    def look(state: State) -> None:
        if state.epoch:
            saved.update(torch.load(again.output_dir / "last.pt", weights_only=True)["model"])

    fit(again, look)
    towers = {tower_of(name.removeprefix("encoder.")) for name in saved if name.startswith("encoder.")}
    assert towers == {"text", "neither"}
    pretrained = load_encoder(config.project_root / "tiny_clip").state_dict()
    trained = read_weights(first.folder / "best.pt")[0]
    changed = [name for name, value in pretrained.items() if not torch.equal(value, trained[f"encoder.{name}"])]
    assert {tower_of(name) for name in changed} == {"text"}


def test_the_average_is_scored_and_saved_and_the_weights_go_on(config):
    config = replace(config, epochs=1, ema_decay=0.8)
    by_hand, last = {}, {}

    def look(state: State) -> None:
        for name, value in state.model.state_dict().items():
            by_hand[name] = 0.8 * by_hand[name] + 0.2 * value if name in by_hand else value.clone()
            last[name] = value.clone()

    saved = read_weights(fit(config, look).folder / "best.pt")[0]
    for name in ("head.classifier.0.weight", "encoder.text_model.encoder.layers.0.self_attn.q_proj.weight"):
        torch.testing.assert_close(saved[name], by_hand[name])
        assert not torch.equal(saved[name], last[name])


def test_blocks_that_are_computed_twice_change_no_number(config, tmp_path):
    config = replace(config, epochs=1, trainable_blocks=1, cache_activations=False)
    runs = [fit(replace(config, gradient_checkpointing=on, output_dir=tmp_path / f"{on}")) for on in (True, False)]
    ours, theirs = (read_weights(run.folder / "best.pt")[0] for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert fit(replace(config, gradient_checkpointing=True, output_dir=tmp_path / "False")).found


def test_a_model_without_pictures_answers_with_zeros_in_their_place(config):
    inputs, model = load_inputs(config), TrainedModel.load(fit(replace(config, epochs=1)).folder).model
    batch = inputs.val.batch([0, 1, 2])
    text, _ = model.features(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(
        model(batch["input_ids"], batch["attention_mask"]),
        model.head(text, torch.zeros(3, model.head.image_layer[0].in_features)),
    )


@pytest.mark.parametrize("wrong", ["top", 0, -1, 2.5, True])
def test_what_is_trained_of_a_tower_is_a_word_or_a_number_of_blocks(wrong):
    with pytest.raises(ClipsentError, match="--text-tower .*must be frozen, all, or a number of top blocks"):
        TrainConfig(text_tower=wrong)


def test_a_folder_of_an_older_version_is_the_same_run(config):
    run = fit(replace(config, epochs=1))
    path = run.folder / "config.json"
    stored = json.loads(path.read_text())
    for name in ("text_tower", "image_tower"):
        del stored[name], stored["identity"][name]
    path.write_text(json.dumps(stored))
    assert fit(replace(config, epochs=1)).found
    with pytest.raises(ClipsentError, match="text_tower None there, frozen here"):
        fit(replace(config, epochs=1, text_tower="frozen"))
