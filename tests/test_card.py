"""The model card says what the run's files say, and nothing in it breaks out of the page."""

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from clipsent_nb.card import find_licence, model_card

CONFIG = {
    "encoder": "openai/clip-vit-base-patch32@abc",
    "model_name": "/home/me/secret/clip",
    "head_variant": "ln",
    "loss": "ce",
    "lr": 1e-5,
    "batch_size": 8,
    "seed": 1,
    "versions": {"clipsent_nb": "0.1.0", "torch": "2.13.0"},
    "data_fingerprint": {"train": "aa", "val": "bb"},
}
NAMES = "f1_macro acc ece f1_negative f1_neutral f1_positive".split()
METRICS = {f"best_val_{name}": 0.5 for name in NAMES} | {
    "best_val_f1_macro_interval": [0.4, 0.6],
    "train_posts": 8,
    "val_posts": 2,
    "best_epoch": 1,
    "epochs": 2,
}
PREDICTIONS = pd.DataFrame(
    {"true_label": ["neutral", "positive"]} | {f"p_{x}": [0.1, 0.2] for x in ("negative", "neutral", "positive")}
)


def test_the_hub_reads_the_licence_the_encoder_and_the_scores():
    data = ModelCard(model_card("me/model", CONFIG, METRICS, PREDICTIONS, "mit")).data
    assert (data.license, data.base_model, data.library_name) == ("mit", "openai/clip-vit-base-patch32", "clipsent_nb")
    assert [(one.metric_name, one.metric_value) for one in data.eval_results] == [("macro-F1", 0.5), ("accuracy", 0.5)]


def test_a_leak_is_the_first_caveat_and_the_paragraph_for_a_paper_says_it_too():
    page = model_card("m", CONFIG, METRICS | {"leaked": True}, PREDICTIONS)
    assert "copies among the training posts" in page and "no near-duplicate" not in page
    assert "near-duplicates of validation posts, so that the scores below are too high" in page
    assert "no near-duplicate of a validation post was found" in model_card("m", CONFIG, METRICS, PREDICTIONS)


def test_a_class_without_validation_posts_has_no_row():
    page = model_card("m", CONFIG, METRICS | {"best_val_f1_negative": None}, PREDICTIONS)
    assert "F1 of negative" not in page and "F1 of neutral" in page


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"trainable_blocks": 0}, True),
        ({"text_tower": "frozen", "image_tower": "frozen"}, True),
        ({"trainable_blocks": 0, "text_tower": "all"}, False),
        ({"text_tower": "frozen"}, False),
    ],
)
def test_the_paragraph_says_what_was_trained(settings, frozen):
    assert ("with the encoder frozen" in model_card("m", CONFIG | settings, METRICS, PREDICTIONS)) == frozen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"image_tower": "frozen", "text_tower": "all"},
            "the text tower fine-tuned and the image tower frozen (loss ce",
        ),
        ({"image_tower": 2, "text_tower": "lora"}, "LoRA and the image tower trained in its top 2 blocks"),
        ({"freeze_epochs": 2, "epochs": 2}, "with the encoder frozen"),
        ({"class_weights": "sqrt", "label_smoothing": 0.1}, "seed 1, class_weights sqrt, label_smoothing 0.1), on 8"),
        ({"dropout": 0.15, "combo_weights": [1.0, 1.0, 1.0], "tracker": "wandb", "max_bad": "5"}, "seed 1), on 8"),
        (
            {"text_encoder": "/home/me/bert", "image_encoder": "a/dino"},
            "the text tower of bert and the image tower of dino",
        ),
    ],
)
def test_the_paragraph_names_what_departs_from_the_defaults(settings, words):
    identity = {name: None for name in settings if name not in ("tracker", "max_bad")}
    page = model_card("m", CONFIG | settings | {"identity": identity}, METRICS, PREDICTIONS)
    assert words in page and "/home/me" not in page


def test_no_path_of_this_machine_is_told():
    page = model_card("m", CONFIG | {"encoder": "folder aabb"}, METRICS, PREDICTIONS)
    assert "/home/me" not in page and "(clip)" in page


@pytest.mark.parametrize("name", ["<script>", "a|b\n---\nlicense: mit", "[x](javascript:y)"])
def test_names_cannot_break_out_of_the_page(name):
    table = PREDICTIONS.rename(columns={"p_neutral": f"p_{name}"}).replace("neutral", name)
    metrics = METRICS | {f"best_val_f1_{name}": 0.5}
    page = model_card(name, CONFIG | {"encoder": "x", "model_name": name}, metrics, table)
    assert "<" not in page and "](" not in page and ModelCard(page).data.license == "unknown"


def test_a_damaged_page_of_an_encoder_names_no_licence(tmp_path):
    for content in (b"\xff\xfe\x00", b"---\nlicense: {\n---\n", b""):
        (tmp_path / "README.md").write_bytes(content)
        assert find_licence(tmp_path) == "unknown"
