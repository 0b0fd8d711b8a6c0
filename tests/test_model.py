"""Every family of dual encoders that the loaders accept, and what they refuse."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderModel,
)

from clipsent_nb.files import ClipsentError
from clipsent_nb.model import (
    DualEncoderClassifier,
    fetch_encoder,
    load_encoder,
    load_exact,
    load_processors,
    read_weights,
    save_weights,
    set_trainable,
    tower_of,
    trainable_names,
)
from clipsent_nb.sample import tiny_clip

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}


def dual_encoder() -> VisionTextDualEncoderModel:
    vision, text = CLIPVisionModel(CLIPVisionConfig(**VISION)), BertModel(BertConfig(**TEXT))
    return VisionTextDualEncoderModel(vision_model=vision, text_model=text)


FAMILIES = {
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)),
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)),
    "chinese_clip": lambda: ChineseCLIPModel(
        ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    ),
    "dual_encoder": dual_encoder,
}


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path) -> Path:
    FAMILIES[request.param]().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.rand(2, 3, 32, 32)}


def test_family_trains_and_comes_back(folder, tmp_path):
    model = DualEncoderClassifier(load_encoder(folder))
    posts = batch()
    model(**posts).sum().backward()
    save_weights(tmp_path / "best.pt", model, {})
    twin = DualEncoderClassifier(load_encoder(folder, weights=False))
    load_exact(twin, read_weights(tmp_path / "best.pt")[0], "best.pt")
    model.eval(), twin.eval()
    with torch.no_grad():
        assert torch.equal(model(**posts), twin(**posts))


def test_family_unfreezes_from_the_top(folder):
    model = DualEncoderClassifier(load_encoder(folder))
    names = [trainable_names(model, blocks) for blocks in (0, 1, 2)] + [trainable_names(model)]
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
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ClipsentError, match="does not encode both"):
        load_encoder(tmp_path)


def test_missing_weights_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_clip(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ClipsentError, match="text_projection.weight"):
        load_encoder(tmp_path)


def test_missing_tokenizer_is_an_error(folder):
    with pytest.raises(ClipsentError, match="tokenizer or image processor"):
        load_processors(folder)


def test_offline_does_not_touch_the_network(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(name, local_files_only=False, **options):
        assert local_files_only, "the network was asked"
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ClipsentError, match="--offline is set.*hf download someone/clip"):
        fetch_encoder("someone/clip", offline=True)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"not a zip file"])
def test_damaged_weights_are_an_error(tmp_path, damage):
    save_weights(tmp_path / "best.pt", torch.nn.Linear(2, 2), {})
    (tmp_path / "best.pt").write_bytes(damage((tmp_path / "best.pt").read_bytes()))
    with pytest.raises(ClipsentError, match="best.pt"):
        read_weights(tmp_path / "best.pt")


def test_siglip_texts_do_not_depend_on_their_batch(tmp_path):
    from clipsent_nb.inputs import PairInputs
    from clipsent_nb.model import text_features

    tiny_clip(tmp_path)
    tokenizer, _ = load_processors(tmp_path)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(tmp_path)
    tokenizer, image_processor = load_processors(tmp_path)
    texts = ["so happy", "a much longer text than the other one"]
    inputs = PairInputs.from_memory(texts, [Image.new("RGB", (9, 9))] * 2, tokenizer, image_processor, {})
    encoder = load_encoder(tmp_path).eval()
    with torch.no_grad():
        alone, together = (inputs.batch(rows) for rows in ([0], [0, 1]))
        features = [text_features(encoder, batch["input_ids"], batch["attention_mask"]) for batch in (alone, together)]
    assert alone["input_ids"].shape == (1, 24) and alone["attention_mask"].all()
    torch.testing.assert_close(features[0][0], features[1][0])
