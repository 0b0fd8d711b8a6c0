"""An explanation is of the model that answers, and leaves it as it was."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import write_encoder
from PIL import Image

from clipsent_nb import explain as module
from clipsent_nb.encoders import image_features, load_encoder, load_processors
from clipsent_nb.explain import Explanation, deletion_curves, deletion_gap, draw_explanation, explain
from clipsent_nb.files import ClipsentError
from clipsent_nb.inputs import inputs_from_memory
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


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> TrainedModel:
    return untrained(write_encoder(tmp_path_factory.mktemp("swin"), "swin_bert"))


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_a_tower_without_one_stack_of_attention_is_explained_otherwise(swin, method):
    before = weights_of(swin)
    found = explain(swin, "a good day", PICTURE, method=method)
    assert found.method == method and found.heat.shape == (7, 7) and np.ptp(found.heat) > 0
    assert all(map(torch.equal, before, weights_of(swin))) and all(one.grad is None for one in swin.model.parameters())
    if method == "occlusion":
        np.testing.assert_array_equal(explain(swin, "a good day", PICTURE).heat, found.heat)


def test_attention_is_refused_where_there_is_none(swin):
    with pytest.raises(ClipsentError, match="method attention: this picture tower has none for the whole picture"):
        explain(swin, "a good day", PICTURE, method="attention")


@pytest.mark.parametrize("tower", ["classifier", "swin"])
def test_integrated_gradients_add_up_to_what_the_picture_adds(request, tower):
    found = copy.deepcopy(request.getfixturevalue(tower))
    model = found.model
    torch.manual_seed(0)
    for name, weights in model.named_parameters():  # else a grey picture is all but zero, and the first norm leaps
        if name.endswith(("position_embedding.weight", "patch_embeddings.projection.bias")):
            torch.nn.init.normal_(weights)
    inputs = inputs_from_memory(["a good day"], [PICTURE], found.processors, found.config).batch([0])
    with torch.no_grad():
        text = model.features(inputs["input_ids"], inputs["attention_mask"])[0]
        pixels = [torch.zeros_like(inputs["pixel_values"]), inputs["pixel_values"]]
        grey, whole = (module.log_odds(model, text, image_features(model.encoder, one), 1).item() for one in pixels)
    heat = explain(found, "a good day", PICTURE, "neutral", method="integrated_gradients").heat
    assert heat.sum() == pytest.approx(whole - grey, rel=0.03) and abs(whole - grey) > 1e-4


def test_every_pixel_lies_in_the_square_that_is_greyed_for_it():
    rows, columns = module.square_of_pixels((32, 50), (7, 7))
    counts = np.zeros((7, 7), int)
    np.add.at(counts, (rows, columns), 1)
    assert counts.sum() == 32 * 50 and counts.min() >= 4 * 7
    gone = np.zeros((7, 7), bool)
    gone[6, 0] = True
    greyed = module.grey_out(torch.ones(3, 32, 50), gone)[0].numpy() == 0
    assert (greyed == ((rows == 6) & (columns == 0))).all() and greyed.sum() == counts[6, 0]


def test_integrated_gradients_without_captum_name_the_extra(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(
        ClipsentError, match=r"needs captum, which is not installed; run `pip install clipsent_nb\[explain\]`"
    ):
        explain(classifier, "a good day", PICTURE, method="integrated_gradients")
    assert explain(classifier, "a good day", PICTURE).method == "attention"


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
        (lambda: explain(classifier, "", PICTURE, method="gradcam"), "method gradcam: must be one of auto, attention"),
        (lambda: explain(classifier, "", PICTURE, method=["auto"]), "must be one of auto, attention"),
        (lambda: deletion_gap(curves, ["a"]), "groups: must be a list of 2"),
        (lambda: deletion_gap(curves, "ab"), "groups: must be a list of 2"),
    ):
        with pytest.raises(ClipsentError, match=message):
            call()


def test_figures_are_not_kept(classifier):
    import matplotlib.pyplot as plt

    draw_explanation(explain(classifier, "a good day", PICTURE))
    assert not plt.get_fignums()
