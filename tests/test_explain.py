"""An explanation is of the model that answers, and leaves it as it was."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import write_encoder
from PIL import Image

from clipsent_nb import explain as module
from clipsent_nb.encoders import load_encoder, load_processors
from clipsent_nb.explain import Explanation, deletion_curves, deletion_gap, draw_explanation, explain
from clipsent_nb.files import ClipsentError
from clipsent_nb.model import DualEncoderClassifier
from clipsent_nb.sample import tiny_clip
from clipsent_nb.trained import TrainedModel, calibrate

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("explain") / "tiny_clip")


def untrained(encoder, **options) -> TrainedModel:
    torch.manual_seed(0)
    model = DualEncoderClassifier(load_encoder(encoder), **options).eval()
    return TrainedModel(model, *load_processors(encoder), {}, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def classifier(encoder) -> TrainedModel:
    return untrained(encoder)


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def weights_of(classifier: TrainedModel) -> list[torch.Tensor]:
    return [value.clone() for value in classifier.model.state_dict().values()]


def test_the_model_is_left_as_it_was(classifier):
    encoder, before = classifier.model.encoder, weights_of(classifier)
    way = encoder.config._attn_implementation
    explain(classifier, "a good day", PICTURE)
    with pytest.raises(ZeroDivisionError), module.record_attention(encoder):
        raise ZeroDivisionError
    assert encoder.config._attn_implementation == way
    assert not any(part._forward_hooks for part in encoder.modules())
    assert all(map(torch.equal, before, weights_of(classifier)))


def test_a_tower_without_one_stack_of_attention_is_explained_by_occlusion(tmp_path):
    found = explain(untrained(write_encoder(tmp_path, "swin_bert")), "a good day", PICTURE)
    assert found.method == "occlusion" and found.heat.shape == (7, 7) and np.ptp(found.heat) > 0


@pytest.mark.parametrize("ablated", ["ablate_text", "ablate_image"])
def test_what_the_model_does_not_read_has_no_weight(encoder, ablated):
    found = explain(untrained(encoder, **{ablated: True}), "a good day", PICTURE)
    assert (found.words.weight.abs().max() == 0) == (ablated == "ablate_text")
    assert (found.method == "none") == (ablated == "ablate_image")


def test_a_post_without_words_is_explained_and_drawn(classifier):
    found = explain(classifier, "", PICTURE, "neutral")
    assert isinstance(found, Explanation) and found.words.empty and found.label == "neutral"
    assert len(draw_explanation(found).axes) == 3


def test_deleting_nothing_is_no_gap(classifier):
    curves = deletion_curves(classifier, ["", ""], [PICTURE] * 2)
    gaps = deletion_gap(curves).set_index("part")
    assert gaps.gap["words"] == 0 and gaps.groups.tolist() == [2, 2]
    assert deletion_gap(curves, ["a", "a"]).groups.tolist() == [1, 1]


def test_words_and_classes_with_dollar_signs_are_drawn_as_they_are():
    words = pd.DataFrame({"word": ["$_$", "👀"], "start": 0, "end": 1, "weight": [0.2, -0.1]})
    picture, heat = np.zeros((8, 8, 3), np.uint8), np.ones((2, 2))
    figure = draw_explanation(Explanation("$_$", 0.5, picture, heat, "attention", words))
    figure.canvas.draw()
    assert {label.get_text() for label in figure.axes[2].get_yticklabels()} == {"$_$", "eyes"}


def test_what_is_explained_is_what_the_model_answers(classifier):
    plain = classifier.memory_probabilities(["a good day"], [PICTURE])
    for chosen in range(3):
        shares = np.full(3, 0.45)
        shares[chosen] = 0.1
        own = replace(classifier, adjustment={"tau": 3.0, "shares": shares.tolist()}, temperature=2.0)
        answer = own.memory_probabilities(["a good day"], [PICTURE])[0]
        found = explain(own, "a good day", PICTURE)
        assert found.label == own.labels[int(answer.argmax())] and found.probability == pytest.approx(answer.max())
        assert answer == pytest.approx(calibrate(plain, own.adjustment, 2.0)[0])
    assert len({explain(classifier, "a good day", PICTURE).label, found.label}) == 2  # the adjustment decided


def test_a_word_weighs_what_the_answer_loses_where_it_was_the_only_one(classifier):
    own = replace(classifier, config=dict(classifier.config) | {"modality_dropout": 0.1})
    found = explain(own, "happy", PICTURE)
    with_it, without = own.memory_probabilities(["happy", ""], [PICTURE] * 2)[:, own.labels.index(found.label)]
    expected = np.log(with_it / (1 - with_it)) - np.log(without / (1 - without))
    np.testing.assert_allclose(found.words.weight, [expected], atol=1e-4)


def test_deleting_what_the_model_does_not_read_leaves_its_answer(encoder):
    model = untrained(encoder, ablate_image=True)
    curves = deletion_curves(model, ["a good day"], [PICTURE]).set_index("part")
    expected = model.memory_probabilities(["a good day"], [PICTURE]).max()
    assert curves.loc["picture", ["ranked", "random"]].to_numpy() == pytest.approx(expected)


def test_words_beyond_what_the_model_reads_weigh_nothing_and_are_not_tried(classifier, monkeypatch):
    tried, features_of_texts = [], module.features_of_texts
    monkeypatch.setattr(module, "features_of_texts", lambda *given: tried.extend(given[1]) or features_of_texts(*given))
    words = explain(classifier, "good day " * 200, PICTURE).words
    limit = classifier.tokenizer.model_max_length
    assert len(words) == 400 and words.weight[limit:].eq(0).all() and words.weight[0] != 0
    assert 1 < len(tried) <= limit


def test_what_cannot_be_explained_or_drawn_is_said(classifier):
    curves = deletion_curves(classifier, ["", ""], [PICTURE] * 2)
    for call, message in (
        (lambda: deletion_curves("a run", [], []), "classifier: a str cannot be explained"),
        (lambda: deletion_curves(classifier, [], [], seed="x"), "--seed x: must be a whole number"),
        (lambda: draw_explanation(classifier), "explanation: a TrainedModel is none"),
        (lambda: deletion_gap(curves, ["a"]), "groups: must be a list of 2"),
        (lambda: deletion_gap(curves, "ab"), "groups: must be a list of 2"),
    ):
        with pytest.raises(ClipsentError, match=message):
            call()


def test_figures_are_not_kept(classifier):
    import matplotlib.pyplot as plt

    draw_explanation(explain(classifier, "a good day", PICTURE))
    assert not plt.get_fignums()
