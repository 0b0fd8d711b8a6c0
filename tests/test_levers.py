"""Every lever of a training can be interrupted, and does what its comment says, on a few posts."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from clipsent_nb import features, train
from clipsent_nb.batches import Execution, identities, run_many
from clipsent_nb.cli import parse
from clipsent_nb.config import PRESETS, TrainConfig, identity
from clipsent_nb.data import read_split
from clipsent_nb.encoders import image_features, load_encoder, load_processors, text_features
from clipsent_nb.features import Features
from clipsent_nb.files import ClipsentError, log, write_csv
from clipsent_nb.hub import encoder_identity
from clipsent_nb.labels import LABELS
from clipsent_nb.model import read_weights, tower_of
from clipsent_nb.objective import adjust_probabilities, score_answers
from clipsent_nb.runs import Run
from clipsent_nb.state import State, load_inputs, new_state
from clipsent_nb.train import adjustment, best_epoch_scores, fit, train_head
from clipsent_nb.trained import TrainedModel, calibrate

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_sample) -> Path:
    "A project with 24 posts to train on and 12 to validate on, eight and four of each class."
    root = fresh_sample(tmp_path_factory.mktemp("posts") / "sample")
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
    return {
        name: value
        for name, value in run.metrics.items()
        if name not in ("train_time_sec", "pairs_per_sec", "encoding_time_sec")
    }


LEVERS = {
    "one tower": {"image_tower": "frozen", "text_pooling": "mean", "image_pooling": "mean"},
    "one block of a tower": {"text_tower": 1, "image_tower": "frozen", "freeze_epochs": 1},
    "blocks computed twice": {"gradient_checkpointing": True, "trainable_blocks": 1},
    "regularisation": {
        "modality_dropout": 0.3,
        "label_smoothing": 0.1,
        "class_weights": "sqrt",
        "layer_decay": 0.5,
        "ema_decay": 0.7,
        "freeze_epochs": 1,
    },
    "head first": {"head_first": True, "head_lr": 1e-2, "weight_interpolation": 0.5, "ema_decay": 0.7},
    "lora": {"text_tower": "lora", "image_tower": "frozen", "lora_rank": 2},
}


@pytest.mark.parametrize(
    "lever",
    [
        name if name in ("regularisation", "head first", "lora") else pytest.param(name, marks=pytest.mark.slow)
        for name in LEVERS
    ],
)
def test_a_run_with_a_lever_ends_like_an_undisturbed_one_after_a_kill(config, tmp_path, lever):
    if lever == "lora":
        pytest.importorskip("peft")
    config = replace(config, epochs=2, save_minutes=0.0, **LEVERS[lever])
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

    begun = time.monotonic()
    assert 0 < fit(again, look).metrics["train_time_sec"] <= time.monotonic() - begun  # also what a state was saved in
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


def test_a_head_that_is_trained_first_counts_its_posts_and_stops_at_a_loss_that_is_not_finite(config):
    config = replace(config, head_first=True)
    inputs = load_inputs(config)
    state = new_state(config, inputs, torch.device("cpu"), torch.float32)
    features = Features(state.model, inputs.train, inputs.val, config, encoder_identity(inputs.encoder), torch.float32)
    features.freeze(True)
    criterion, targets = torch.nn.functional.cross_entropy, torch.from_numpy(inputs.train.labels)
    train_head(state, features, criterion, targets)
    assert state.posts == len(inputs.train)
    state.model.head.classifier[0].weight.data.fill_(float("nan"))
    with pytest.raises(ClipsentError, match=r"loss is nan in epoch 1, step \d+, the batch of guids"):
        train_head(state, features, criterion, targets)


def test_a_validation_split_of_one_group_is_scored_without_halves(config):
    val = load_inputs(config).val
    val = replace(val, posts=val.posts.assign(group="one"))
    probabilities = np.tile([0.2, 0.3, 0.5], (len(val), 1))
    found = best_epoch_scores(val, probabilities[None], 0) | adjustment(val, probabilities, val.labels)
    assert "best_val_f1_macro_interval" in found and "logit_adjustment" in found
    assert not [name for name in found if name.startswith(("cross_fitted", "adjusted"))]


def test_tuning_begins_where_the_head_stopped_gaining_and_scores_what_lies_between(config, monkeypatch):
    config = replace(config, epochs=2, head_first=True, head_lr=1e-2, weight_interpolation=0.25)
    steps, scored, finish_epoch = [], [], train.finish_epoch

    def copy(state: State) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in state.model.state_dict().items()}

    def finish(state: State, *arguments: object, **options: object) -> None:
        scored.append(copy(state))
        finish_epoch(state, *arguments, **options)

    monkeypatch.setattr(train, "finish_epoch", finish)
    run = fit(config, lambda state: steps.append(copy(state)))
    assert run.history.frozen.tolist() == [1, 0] and len(steps) == 3 and run.history.lr[0] == 1e-2
    for name in ("head.classifier.0.weight", "encoder.text_projection.weight"):
        torch.testing.assert_close(scored[1][name], 0.75 * scored[0][name] + 0.25 * steps[-1][name])


@pytest.mark.parametrize("wrong", ["top", 0, -1, 2.5, True])
def test_what_is_trained_of_a_tower_is_a_word_or_a_number_of_blocks(wrong):
    with pytest.raises(ClipsentError, match="--text-tower .*must be frozen, all, lora, or a number of top blocks"):
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


def test_a_flag_beside_a_preset_wins_even_with_the_value_of_the_default(root):
    words = f"--project-root {root} --preset balanced --lr 8e-6 --epochs 12 --no-use-cosine"
    config = parse("optimize", words.split()).keywords["config"]
    assert (config.lr, config.epochs, config.use_cosine) == (8e-6, 12, False)
    assert (config.image_tower, config.layer_decay) == ("frozen", 0.85)


def test_a_preset_is_logged_as_the_flags_that_make_the_same_run(root, caplog, monkeypatch):
    caplog.set_level("INFO", logger="clipsent_nb")
    monkeypatch.setattr(log, "propagate", True)  # a command in the same process has its own handler
    for name in PRESETS:
        caplog.clear()
        wanted = parse("optimize", ["--preset", name]).keywords["config"]
        flags = caplog.messages[0].removeprefix(f"--preset {name}: ").replace("the defaults", "")
        assert parse("optimize", flags.split()).keywords["config"] == wanted
    with pytest.raises(ClipsentError, match="--preset fast: unknown; there are spec, quick, balanced, best"):
        parse("optimize", ["--preset", "fast"])


def test_predictions_are_adjusted_if_and_only_if_the_run_asked_for_it(config, tmp_path):
    config = replace(config, epochs=1)
    plain, asked = fit(config), fit(replace(config, logit_adjustment=True, output_dir=tmp_path / "asked"))
    assert "logit_adjustment" not in plain.metrics and TrainedModel.load(plain.folder).adjustment is None
    inputs, loaded = load_inputs(config), TrainedModel.load(asked.folder)
    assert loaded.adjustment == asked.metrics["logit_adjustment"]
    loaded.adjustment = {"shares": [0.3, 0.1, 0.6], "tau": 1.0}
    raw = np.load(asked.folder / "val_epochs.npy")[asked.metrics["best_epoch"] - 1]
    expected = calibrate(raw, loaded.adjustment, loaded.temperature)
    assert abs(loaded.probabilities(inputs.val) - expected).max() < 1e-5
    assert adjust_probabilities(raw, **loaded.adjustment).argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()


def test_what_a_run_writes_down_is_what_it_answers(config, tmp_path, monkeypatch):
    "Predictions, scores and epochs of an adjusted and calibrated run agree."
    fitted = {"temperature": 2.0, "calibrated_val_nll": 0.5, "calibrated_val_ece": 0.1}
    monkeypatch.setattr(train, "fit_calibration", lambda *posts: fitted)
    run = fit(replace(config, epochs=2, logit_adjustment=True, output_dir=tmp_path / "shipped"))
    loaded = TrainedModel.load(run.folder)
    assert loaded.temperature == run.metrics["temperature"] == 2
    posts, table = loaded.predict_posts(config.resolve(config.val_csv), config)
    assert abs(table[[f"p_{label}" for label in LABELS]].to_numpy() - run.probabilities).max() < 1e-5
    answered = score_answers(run.labels, run.probabilities.argmax(axis=1))
    assert answered["f1_macro"] == run.metrics["best_val_f1_macro"]
    best = run.epoch_probabilities[run.metrics["best_epoch"] - 1]
    assert best.argmax(axis=1).tolist() == run.probabilities.argmax(axis=1).tolist()


def test_lora_without_peft_names_the_extra(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ClipsentError, match=r"--image-tower lora: needs peft.*clipsent_nb\[lora\]"):
        fit(replace(config, image_tower="lora"))


@pytest.fixture(scope="module")
def reader(root, tmp_path_factory) -> Path:
    "The folder of a small BERT with the tokenizer of the tiny CLIP."
    folder, (tokenizer, _) = tmp_path_factory.mktemp("reader"), load_processors(root / "tiny_clip")
    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small))
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


def joined(config, text: Path | str, image: Path | str) -> TrainConfig:
    "The settings with an encoder of two models in place of one."
    return replace(config, model_name=TrainConfig.model_name, text_encoder=str(text), image_encoder=str(image))


def test_two_models_are_joined_once_and_known_by_what_they_hold(config, root, tmp_path, reader):
    config = replace(joined(config, reader, "tiny_clip"), epochs=1)
    run = fit(config)
    [made] = (root / "outputs/cache/encoders").glob("[!.]*")
    written = (made / "config.json").stat().st_mtime_ns
    moved = shutil.copytree(reader, tmp_path / "elsewhere")
    assert fit(replace(config, text_encoder=str(moved))).found
    loaded = TrainedModel.load(run.folder)
    assert loaded.model.encoder.config.text_pooling == "mean"
    assert abs(loaded.probabilities(load_inputs(config).val) - run.probabilities).max() < 1e-5
    assert (made / "config.json").stat().st_mtime_ns == written
    with pytest.raises(ClipsentError, match="text_encoder"):
        fit(replace(config, text_encoder="tiny_clip"))


def test_weights_of_a_joined_encoder_without_it_are_refused(config, reader, tmp_path):
    run = fit(replace(joined(config, reader, "tiny_clip"), epochs=1, output_dir=tmp_path / "run"))
    shutil.copy(run.folder / "best.pt", tmp_path)
    with pytest.raises(ClipsentError, match="joined from two, and no folder `encoder` lies beside it"):
        TrainedModel.load(tmp_path / "best.pt")


def test_a_comparison_of_joined_encoders_knows_them_by_what_they_hold_and_asks_no_hub(config, reader, tmp_path):
    config = replace(joined(config, reader, "tiny_clip"), epochs=1, output_dir=tmp_path / "runs")
    moved = shutil.copytree(reader, tmp_path / "elsewhere")
    configs = [replace(config, output_dir=tmp_path / f"runs/{n}", seed=n) for n in (1, 2)]
    assert (run_many(configs, tmp_path / "runs", Execution()).state == "done").all()
    again = [replace(one, text_encoder=str(moved)) for one in configs]
    assert identities(again) == identities(configs) == [identity(one) for one in configs]
    other = replace(config, text_encoder="tiny_clip")
    assert identities([config, other])[1] == identity(other)


def test_one_encoder_beside_two_is_refused(config):
    with pytest.raises(ClipsentError, match="--model-name tiny_clip: is ignored beside --text-encoder"):
        replace(config, text_encoder="a", image_encoder="b")


@pytest.mark.parametrize("half", ["text_encoder", "image_encoder"])
def test_half_of_an_encoder_is_refused(half):
    with pytest.raises(ClipsentError, match=f"--{half.replace('_', '-')}: is half of an encoder"):
        TrainConfig(**{half: "someone/model"})


def test_a_model_of_the_other_modality_is_refused(config, root, reader):
    with pytest.raises(ClipsentError, match="--image-encoder .*no model for images"):
        fit(joined(config, "tiny_clip", reader))


def test_a_picture_model_without_one_width_is_refused(config, tmp_path, reader):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ClipsentError, match="--image-encoder .*resnet: a resnet model has no one width"):
        fit(joined(config, reader, tmp_path / "resnet"))


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_tower_pools_as_its_configuration_says(root, tower):
    encoder, inputs = load_encoder(root / "tiny_clip"), load_inputs(TrainConfig(root, model_name="tiny_clip"))
    batch, found = inputs.val.batch([0, 1]), {}
    for pooling in ("own", "mean", "first"):
        setattr(encoder.config, f"{tower}_pooling", pooling)
        with torch.no_grad():
            if tower == "text":
                found[pooling] = text_features(encoder, batch["input_ids"], batch["attention_mask"])
            else:
                found[pooling] = image_features(encoder, batch["pixel_values"])
    with torch.no_grad():
        if tower == "text":
            hidden = encoder.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            torch.testing.assert_close(found["first"], encoder.text_projection(hidden[:, 0]))
        else:
            hidden = encoder.vision_model(batch["pixel_values"]).last_hidden_state
            torch.testing.assert_close(found["mean"], encoder.visual_projection(hidden.mean(dim=1)))
    assert not torch.allclose(found["own"], found["mean"]) and not torch.allclose(found["mean"], found["first"])
