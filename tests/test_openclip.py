"""Encoders of open_clip: the same features and pixels as its own, where it is installed; one line where it is not."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from encoders import TEXTS, export_difference
from PIL import Image
from safetensors.torch import save_file

from clipsent_nb.encoders import check_encoder, image_features, load_encoder, load_processors, text_features
from clipsent_nb.files import ClipsentError
from clipsent_nb.inputs import inputs_from_memory
from clipsent_nb.model import DualEncoderClassifier, add_lora, tower_of, trainable_names
from clipsent_nb.openclip import import_open_clip, read_open_clip_config

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "shortest", "interpolation": "bicubic"}


def timm(name: str, size: int, pool: str) -> dict:
    return {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": None}


TOWERS = {  # as DFN, as MobileCLIP2's text tower, EVA02, PE-Core, MobileCLIP2
    "plain": {"vision_cfg": VISION, "quick_gelu": True},
    "no_causal_mask": {"vision_cfg": VISION, "text_cfg": TEXT | {"no_causal_mask": True}, "custom_text": True},
    "eva": {"vision_cfg": timm("eva02_tiny_patch14_224", 224, "token"), "custom_text": True},
    "pe": {"vision_cfg": timm("vit_pe_core_tiny_patch16_384", 384, "map"), "embed_dim": 192, "custom_text": True},
    "mobile": {"vision_cfg": timm("fastvit_mci0", 256, "avg"), "custom_text": True},
}
SLOW = {"eva", "pe", "mobile"}


def write_config(folder: Path, tower: str, **pixels: str) -> dict:
    model = {"embed_dim": 16, "text_cfg": TEXT, **TOWERS[tower]}
    content = {"model_cfg": model, "preprocess_cfg": PIXELS | pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return {name: value for name, value in model.items() if name != "custom_text"}


@pytest.fixture(scope="module")
def open_clip():
    try:
        return import_open_clip()
    except ClipsentError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("tower", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TOWERS])
def test_an_encoder_of_open_clip_reads_and_sees_as_its_own(open_clip, tmp_path, tower):
    model = write_config(tmp_path, tower)
    torch.manual_seed(0)
    own = (open_clip.CustomTextCLIP if "custom_text" in TOWERS[tower] else open_clip.CLIP)(**model).eval()
    state = {name: tensor.contiguous().clone() for name, tensor in own.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    check_encoder(tmp_path)
    encoder, processors = load_encoder(tmp_path), load_processors(tmp_path)
    pictures, size = [Image.effect_noise((93, 61), 80).convert("RGB") for _ in TEXTS], model["vision_cfg"]["image_size"]
    see = open_clip.image_transform(size, is_train=False, mean=tuple(PIXELS["mean"]), std=tuple(PIXELS["std"]))
    batch = inputs_from_memory(TEXTS, pictures, processors, {}).batch([0, 1, 2])
    pixels = torch.stack([see(picture) for picture in pictures])
    torch.testing.assert_close(batch["pixel_values"], pixels)
    with torch.no_grad():
        texts = text_features(encoder, batch["input_ids"], batch["attention_mask"])
        torch.testing.assert_close(texts, own.encode_text(open_clip.SimpleTokenizer()(TEXTS)))
        torch.testing.assert_close(image_features(encoder, pixels), own.encode_image(pixels))
    assert export_difference(tmp_path, tmp_path / "onnx") < 1e-5
    for part in (encoder.config, *processors):  # as a run keeps them
        part.save_pretrained(tmp_path / "run")
    again = load_encoder(tmp_path / "run", weights=False)
    again.load_state_dict(encoder.state_dict())
    assert load_processors(tmp_path / "run")[0](TEXTS).input_ids == processors[0](TEXTS).input_ids
    losses, classifier = [], DualEncoderClassifier(again).eval()
    optimizer, labels = (
        torch.optim.AdamW(classifier.parameters(), lr=1e-4),
        batch.pop("labels") + torch.tensor([1, 2, 3]),
    )
    for _ in range(3):
        losses.append(torch.nn.functional.cross_entropy(classifier(**batch), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[2]
    assert {tower_of(name) for name in trainable_names(classifier)} == {"text", "image"}
    top = trainable_names(classifier, {"text": 1, "image": 0})
    assert top and not any("embedding" in name or ".resblocks.0." in name for name in top)
    if tower == "mobile":
        with pytest.raises(ClipsentError, match="--image-tower 1: the blocks of this tower do not stand in one stack"):
            trainable_names(classifier, {"text": 1, "image": 1})
    what = "no attention found" if find_spec("peft") else "needs peft"
    with pytest.raises(ClipsentError, match=what):  # its matrices are fused, and LoRA would do nothing
        add_lora(again, ["text"], 2)


def test_an_encoder_of_open_clip_needs_an_extra(tmp_path, monkeypatch):
    write_config(tmp_path, "plain")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ClipsentError, match=r"not installed; run `pip install clipsent_nb\[open-clip\]`"):
        check_encoder(tmp_path)
    monkeypatch.delitem(sys.modules, "open_clip")
    (tmp_path / "open_clip.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ClipsentError, match=r"cannot be imported \(operator torchvision::nms .*; install the torchvision"
    ):
        check_encoder(tmp_path)


@pytest.mark.parametrize(
    "text, pixels, what",
    [
        ({"hf_model_name": "xlm-roberta-base"}, {}, "a text tower from elsewhere"),
        ({"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}, {}, "a tokenizer from elsewhere"),
        ({}, {"resize_mode": "longest"}, "pictures with borders"),
    ],
)
def test_what_is_not_read_of_open_clip_is_refused(tmp_path, monkeypatch, text, pixels, what):
    monkeypatch.setitem(TOWERS, "other", {"text_cfg": TEXT | text, "vision_cfg": VISION})
    write_config(tmp_path, "other", **pixels)
    with pytest.raises(ClipsentError, match=f"an encoder of open_clip with {what}; not used; take its like"):
        read_open_clip_config(tmp_path)
