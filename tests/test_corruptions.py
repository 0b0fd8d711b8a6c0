"""What corruptions leave alone, and that another picture or text comes with another version."""

import numpy as np
import pytest
import torch

from clipsent_nb.corruptions import (
    CORRUPTIONS_VERSION,
    IMAGE_CORRUPTIONS,
    TEXT_CORRUPTIONS,
    corrupt_pixels,
    corrupt_text,
    derangement,
)
from clipsent_nb.files import digest

TEXT = "RT @me: I'm fine, what a day 😍 #GoodMood http://t.co/x and it’s only Monday, don't you think?"
KNOWN_TEXTS = {1: "29dd167a81479855427625d704543e10"}  # digest of the damaged texts, by version
KNOWN_PICTURES = {  # mean change of a value, of 255, at the strongest level, by version
    1: {
        "gaussian_noise": 60.85,
        "shot_noise": 62.88,
        "impulse_noise": 34.08,
        "gaussian_blur": 0.22,
        "defocus_blur": 0.17,
        "motion_blur": 0.38,
        "zoom_blur": 5.51,
        "brightness": 106.19,
        "contrast": 49.31,
        "saturation": 45.87,
        "fog": 92.68,
        "jpeg": 10.35,
        "pixelate": 10.82,
        "elastic": 3.28,
        "occlusion": 22.87,
        "rotation": 27.98,
        "noise": 3.91,
        "blur": 0.07,
    }
}


def gradient() -> torch.Tensor:
    "Two pictures whose colours change slowly, uint8 [2, 3, 48, 48]."
    steps = torch.linspace(0, 255, 48)
    picture = torch.stack([steps.expand(48, 48), steps[:, None].expand(48, 48), torch.full((48, 48), 90.0)])
    return torch.stack([picture, picture.flip(0)]).byte()


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_severity_zero_changes_no_picture(name):
    assert torch.equal(corrupt_pixels(gradient(), ["a", "b"], name, 0), gradient())


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_severity_zero_changes_no_text(name):
    assert corrupt_text(TEXT, "7", name, 0) == TEXT


def test_corruptions_that_give_another_text_have_another_version():
    texts = [corrupt_text(TEXT, "7", name, severity) for name in TEXT_CORRUPTIONS for severity in range(1, 6)]
    assert digest("\n".join(texts).encode()) == KNOWN_TEXTS[CORRUPTIONS_VERSION]


def test_corruptions_that_give_another_picture_have_another_version():
    changes = {}
    for name, kind in IMAGE_CORRUPTIONS.items():
        changed = corrupt_pixels(gradient(), ["a", "b"], name, len(kind.levels))
        changes[name] = (changed.float() - gradient().float()).abs().mean().item()
    assert changes == pytest.approx(KNOWN_PICTURES[CORRUPTIONS_VERSION], rel=0.02, abs=0.005)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_each_post_gets_the_input_of_another_one(count):
    other = derangement(np.random.default_rng(count).random(count))
    assert sorted(other) == list(range(count)) and (other != np.arange(count)).all()
