"""Every family of dual encoders that the loaders accept, and what they refuse."""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from encoders import FAMILIES, TEXTS, VISION, clip, text_sizes, write_encoder
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    FlavaConfig,
    PreTrainedModel,
    Siglip2Config,
)

from clipsent_nb.caches import tokenizer_fingerprint
from clipsent_nb.encoders import check_encoder, check_parts, load_encoder, load_processors, text_features
from clipsent_nb.files import ClipsentError
from clipsent_nb.hub import encoder_identity, fetch_encoder
from clipsent_nb.inputs import inputs_from_memory
from clipsent_nb.model import (
    DualEncoderClassifier,
    load_exact,
    read_weights,
    save_weights,
    set_trainable,
    tower_of,
    trainable_names,
)
from clipsent_nb.sample import tiny_clip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    "The folder of a small encoder of a family."
    return cache(lambda family: write_encoder(tmp_path_factory.mktemp("encoder") / family, family))


@pytest.fixture(params=["clip", "siglip2", "chinese_clip", "vit_bert"])
def folder(request, made) -> Path:
    return made(request.param)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.rand(2, 3, 32, 32)}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_fits_trains_three_steps_and_comes_back(made, tmp_path, family):
    if family == "siglip":
        pytest.importorskip("sentencepiece")
    folder = made(family)
    check_encoder(folder)
    processors, pictures = (
        load_processors(folder),
        [Image.new("RGB", (40, 50), color) for color in ("red", "lime", "blue")],
    )
    posts = inputs_from_memory(TEXTS, pictures, processors, {}).batch([0, 1, 2])
    labels = posts.pop("labels") + torch.tensor([1, 2, 3])
    model, losses = DualEncoderClassifier(load_encoder(folder)).eval(), []  # without dropout
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(3):
        losses.append(torch.nn.functional.cross_entropy(model(**posts), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]
    moved = {
        tower_of(name) for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"text", "image"} <= moved
    save_weights(tmp_path / "best.pt", model, {})
    twin = DualEncoderClassifier(load_encoder(folder, weights=False))
    load_exact(twin, read_weights(tmp_path / "best.pt")[0], "best.pt")
    twin.eval()
    with torch.no_grad():
        assert torch.equal(model(**posts), twin(**posts))


def test_families_read_texts_as_they_were_trained(made):
    long, limits = "happy 开心 " * 300, {"clip": 77, "siglip2": 64, "chinese_clip": 52, "vit_bert": 512, "altclip": 58}
    for family, limit in limits.items():
        assert len(load_processors(made(family))[0](long, truncation=True).input_ids) == limit
    tokenizer, image_processor = load_processors(made("siglip2"))
    assert tokenizer("SO Happy").input_ids == tokenizer("so happy").input_ids
    inputs = inputs_from_memory(["so happy"], [Image.new("RGB", (9, 9))], (tokenizer, image_processor), {})
    batch = inputs.batch([0])
    assert batch["input_ids"].shape == (1, 64) and batch["attention_mask"].all()


def test_the_rules_of_a_family_stay_with_a_run(made, tmp_path):
    tokenizer, _ = load_processors(made("siglip2"))
    folder = Path(shutil.copytree(made("siglip2"), tmp_path / "encoder"))
    tokenizer.save_pretrained(folder)
    again, _ = load_processors(folder)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_the_extra_of_a_tokenizer_is_named(made, tmp_path):
    folder = Path(shutil.copytree(made("siglip2"), tmp_path / "encoder"))
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}', encoding="utf-8")
    assert refused(folder).endswith(
        "its tokenizer needs sentencepiece and protobuf, and one of them is not installed; run `pip install clipsent_nb[siglip]`"
    )


def test_family_unfreezes_from_the_top(folder):
    model = DualEncoderClassifier(load_encoder(folder))
    names = [trainable_names(model, {"text": blocks, "image": blocks}) for blocks in (0, 1, 2)] + [
        trainable_names(model)
    ]
    assert names[0] == set()
    assert names[0] < names[1] < names[2] < names[3]
    assert not any("embedding" in name for name in names[2])
    assert {tower_of(name) for name in names[1]} == {"text", "image"}


def test_ablated_tower_is_not_trained(folder):
    model = DualEncoderClassifier(load_encoder(folder), ablate_text=True)
    assert {tower_of(name) for name in trainable_names(model)} == {"image"}
    set_trainable(model, encoder=True)
    model(**batch()).sum().backward()
    assert all(p.grad is None for name, p in model.encoder.named_parameters() if tower_of(name) == "text")


def test_single_tower_is_refused(tmp_path):
    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ClipsentError, match="does not encode both"):
        load_encoder(tmp_path)


def test_missing_weights_are_an_error(tmp_path):
    tiny_clip(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ClipsentError, match="text_projection.weight"):
        load_encoder(tmp_path)


def test_missing_processors_are_an_error(made, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(made("clip") / name, tmp_path)
    with pytest.raises(ClipsentError, match="tokenizer or image processor cannot be loaded"):
        load_processors(tmp_path)


def test_offline_does_not_touch_the_network(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(name, local_files_only=False, **options):
        assert local_files_only, "the network was asked"
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ClipsentError, match="--offline is set.*hf download someone/clip"):
        fetch_encoder("someone/clip", offline=True)


def test_a_folder_of_modelscope_loads(tmp_path, tiny):
    folder = Path(shutil.copytree(tiny, tmp_path / "clip-vit-base-patch32"))
    (folder / "configuration.json").write_text('{"framework": "pytorch", "task": "multi-modal-embedding"}')
    for name in (".msc", ".mdl", ".mv"):
        (folder / name).write_bytes(b"\x80\x04N.")
    assert fetch_encoder(folder) == folder
    check_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        ClipsentError, match="has no config.json; it is for ModelScope's own pipelines; .*nothing was load"
    ):
        fetch_encoder(folder)
    with pytest.raises(ClipsentError, match="configuration.json: is a file; give the folder of an encoder"):
        fetch_encoder(folder / "configuration.json")


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"not a zip file"])
def test_damaged_weights_are_an_error(tmp_path, damage):
    save_weights(tmp_path / "best.pt", DualEncoderClassifier(load_encoder(tiny_clip(tmp_path / "tiny"))), {})
    (tmp_path / "best.pt").write_bytes(damage((tmp_path / "best.pt").read_bytes()))
    with pytest.raises(ClipsentError, match="best.pt"):
        read_weights(tmp_path / "best.pt")


def test_texts_do_not_depend_on_their_batch(folder):
    inputs = inputs_from_memory(TEXTS, [Image.new("RGB", (9, 9))] * 3, load_processors(folder), {})
    encoder = load_encoder(folder)
    with torch.no_grad():
        alone, together = (inputs.batch(rows) for rows in ([0], [0, 1, 2]))
        features = [text_features(encoder, batch["input_ids"], batch["attention_mask"]) for batch in (alone, together)]
    torch.testing.assert_close(features[0][0], features[1][0])


# Parts that do not fit each other


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("encoder") / "tiny")


def whole(folder: Path, tiny: Path, build: Callable[[dict], PreTrainedModel], **text: int) -> Path:
    """An encoder with the tokenizer and the image processor of the tiny CLIP."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(0)
    build(text_sizes(tokenizer, **text), {**VISION, "image_size": 64}).save_pretrained(folder)
    for part in (tokenizer, AutoImageProcessor.from_pretrained(tiny)):
        part.save_pretrained(folder)
    return folder


def change(path: Path, **values: object) -> None:
    """Set values in a JSON file; None deletes."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    content = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(folder: Path) -> str:
    with pytest.raises(ClipsentError) as caught:
        check_encoder(folder)
    message = str(caught.value)
    assert message.startswith(f"--model-name {folder}: ") and "\n" not in message
    return message


def test_the_probe_leaves_the_mode_as_it_was(tiny):
    encoder = load_encoder(tiny).train()
    check_parts(encoder, *load_processors(tiny), tiny)
    assert encoder.training


def test_a_folder_is_loaded_once_until_it_changes(tmp_path, tiny, monkeypatch):
    folder, loaded = Path(shutil.copytree(tiny, tmp_path / "tiny")), []
    monkeypatch.setattr("clipsent_nb.encoders.check_parts", lambda *parts: loaded.append(parts[-1]))
    before = encoder_identity(folder)
    for _ in range(3):
        check_encoder(folder)
    assert len(loaded) == 1 and encoder_identity(folder) == before
    change(folder / "preprocessor_config.json", do_resize=False)
    check_encoder(folder)
    assert len(loaded) == 2 and encoder_identity(folder) != before


def without_files(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def of_a_larger_model(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(99)])
    tokenizer.save_pretrained(folder)


def of_another_language(folder: Path) -> None:
    without_files(folder)
    count = AutoConfig.from_pretrained(folder).text_config.vocab_size
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x1200 + number) for number in range(count - 5))]
    BertTokenizer(vocab={name: number for number, name in enumerate(names)}).save_pretrained(folder)


def of_two_tokens(folder: Path) -> None:
    change(folder / "tokenizer_config.json", model_max_length=2)


def without_padding(folder: Path) -> None:
    change(folder / "tokenizer_config.json", pad_token=None, tokenizer_class="PreTrainedTokenizerFast")
    change(folder / "tokenizer.json", padding=None)


@pytest.mark.parametrize(
    "damage, what",
    [
        (without_files, "its tokenizer knows 2 tokens, its encoder"),
        (without_vocabulary, "its tokenizer knows 2 tokens, its encoder"),
        (of_a_larger_model, "its tokenizer knows"),
        (of_another_language, "gives different texts the same ids"),
        (of_two_tokens, "its tokenizer, which cuts at 2 tokens, gives different texts the same ids"),
        (without_padding, "its tokenizer has no padding token"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_tokenizer_that_is_not_the_encoders_is_refused(tmp_path, tiny, damage, what):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    damage(folder)
    assert what in refused(folder)
    with pytest.raises(ClipsentError):
        load_processors(folder)


def with_another_end_mark(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    change(folder / "config.json", text_config=text | {"eos_token_id": 300})


def with_end_mark_below_a_word(folder: Path) -> None:
    """A CLIP of the first generation pools the largest id, whatever it stands for."""
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    change(folder / "config.json", text_config=text | {"eos_token_id": 2})
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw = json.dumps(content)
    vocabulary = content["model"]["vocab"]
    end, word = vocabulary["<|endoftext|>"], vocabulary["happy</w>"]
    vocabulary["<|endoftext|>"], vocabulary["happy</w>"] = word, end
    content = json.loads(raw.replace(f'"id": {end},', f'"id": {word},').replace(f", {end}]", f", {word}]"))
    content["model"]["vocab"] = vocabulary
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def with_text_projection_of_zeros(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["text_projection.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def without_end_mark(folder: Path) -> None:
    """Pooled is then the first word, or the first padding token where there is one."""
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # CLIP's own adds it anew
    change(folder / "tokenizer.json", post_processor=None)


@pytest.mark.parametrize(
    "damage",
    [with_another_end_mark, with_end_mark_below_a_word, without_end_mark],
    ids=lambda value: value.__name__,
)
def test_a_tokenizer_whose_end_mark_is_not_pooled_is_refused(tmp_path, tiny, damage):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    damage(folder)
    assert re.search(
        r"its encoder pools the token \d+, but its tokenizer ends texts with \d+; not used", refused(folder)
    )


def test_texts_that_the_encoder_cannot_tell_apart_are_refused(tmp_path, tiny):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    with_text_projection_of_zeros(folder)
    load_processors(folder), load_encoder(folder)  # each is fine alone
    assert "from texts it makes the same features for different ones" in refused(folder)


def with_padding_of_the_largest_id(folder: Path) -> None:
    """A CLIP of the first generation pools the largest id, whatever it stands for."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    whole(folder, folder, partial(clip, "CLIP"), eos_token_id=2, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)


def test_texts_that_change_beside_longer_ones_are_refused(tmp_path, tiny):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    with_padding_of_the_largest_id(folder)
    load_processors(folder), load_encoder(folder)  # each is fine alone
    assert "from texts it makes other features for a text beside a longer one" in refused(folder)


def len_of(folder: Path) -> int:
    return len(AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize(
    "settings, what",
    [
        ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}, "3x224x224.*(64\\*64)"),
        ({"do_center_crop": False}, "does not bring pictures to one size"),
        ({"do_resize": False, "do_center_crop": False}, "does not bring pictures to one size"),
        ({"rescale_factor": 0.0}, "from pictures it makes the same features for different ones"),
        ({"image_std": [0.0, 0.0, 0.0]}, "from pictures it makes features that are no finite numbers"),
    ],
)
def test_an_image_processor_that_is_not_the_encoders_is_refused(tmp_path, tiny, settings, what):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    change(folder / "preprocessor_config.json", **settings)
    message = refused(folder)
    assert re.search(what, message) and "preprocessor_config.json" in message


def test_grey_pictures_are_refused(tmp_path, tiny):
    def build(text: dict, vision: dict) -> PreTrainedModel:
        return clip("CLIP", text, vision | {"num_channels": 1})

    assert "3x64x64, which its image tower does not take" in refused(whole(tmp_path / "encoder", tiny, build))


@pytest.mark.parametrize(
    "config, what",
    [
        (Siglip2Config(), "a NaFlex encoder, whose pictures vary in size; not used; take one size"),
        (FlavaConfig(), "FLAVA, which makes a vector of every word and none of the text; not used; take CLIP"),
    ],
    ids=["naflex", "flava"],
)
def test_families_that_do_not_fit_are_refused(tmp_path, config, what):
    config.save_pretrained(tmp_path)
    assert what in refused(tmp_path)


def test_positions_that_begin_after_the_padding_token_are_counted(made):
    folder = made("altclip")
    tokenizer, _ = load_processors(folder)
    assert tokenizer.model_max_length == 58
    tokens = tokenizer("long " * 99, truncation=True, return_tensors="pt")
    load_encoder(folder).get_text_features(**tokens)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "name",
    ["visual_projection.weight", "text_model.final_layer_norm.bias", "text_model.embeddings.token_embedding.weight"],
)
def test_weights_that_are_no_numbers_are_named(tmp_path, tiny, name, value):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = float(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ClipsentError, match=f"not every number is finite in its {name}; not used"):
        load_encoder(folder)


def test_weights_that_overflowed_in_half_precision_are_named(tmp_path, tiny):
    folder = Path(shutil.copytree(tiny, tmp_path / "encoder"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["text_projection.weight"] *= 1e7
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    with pytest.raises(ClipsentError, match="not every number is finite in its text_projection.weight"):
        load_encoder(folder)


# Labels


def test_a_head_has_a_logit_per_label_and_the_file_names_them(tmp_path, tiny):
    labels = ("angry", "glad", "sad", "calm")
    model = DualEncoderClassifier(load_encoder(tiny), labels=labels)
    save_weights(tmp_path / "best.pt", model, {"head_variant": "ln"})
    state, config = read_weights(tmp_path / "best.pt")
    assert config == {"head_variant": "ln", "labels": list(labels)}
    load_exact(DualEncoderClassifier(load_encoder(tiny), labels=config["labels"]), state, "best.pt", "", labels)
    with pytest.raises(ClipsentError, match="best.pt: trained for the labels angry, glad, sad, calm, not negative, "):
        load_exact(DualEncoderClassifier(load_encoder(tiny)), state, "best.pt", labels=config["labels"])


def test_a_file_without_labels_has_the_default_ones(tmp_path, tiny):
    model = DualEncoderClassifier(load_encoder(tiny))
    torch.save({"model_state": model.state_dict(), "config": {"head_variant": "ln"}}, tmp_path / "best.pt")
    state, config = read_weights(tmp_path / "best.pt")
    assert config["labels"] == ["negative", "neutral", "positive"]
    load_exact(model, state, "best.pt", labels=config["labels"])
    turned = DualEncoderClassifier(load_encoder(tiny), labels=config["labels"][::-1])
    with pytest.raises(ClipsentError, match="trained for the labels negative, neutral, positive, not positive"):
        load_exact(turned, state, "best.pt", labels=config["labels"])
