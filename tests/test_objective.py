"""Edge cases of losses, metrics and intervals that teach nothing in the notebook."""

from typing import get_args

import matplotlib
import numpy as np
import pytest
import torch

from clipsent_nb import objective as obj
from clipsent_nb.files import ClipsentError
from clipsent_nb.labels import LABELS

matplotlib.use("Agg")
NAMES = get_args(obj.LossName)
COUNTS = [1200, 400, 2400]


def _batch(rows=32, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, 3), torch.randint(3, (rows,))


def _posts(rows=300, seed=0):
    random = np.random.default_rng(seed)
    probs = random.dirichlet([1, 1, 1], size=rows)
    return random.integers(3, size=rows), probs


@pytest.mark.parametrize("name", NAMES)
def test_loss_follows_the_logits_to_another_device(name):
    loss = obj.make_loss(name, COUNTS)
    value = loss(torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.long, device="meta"))
    assert value.device.type == "meta"
    logits, targets = _batch()
    assert loss(logits, targets).device.type == "cpu"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_lose_nothing_but_their_own_rounding(name, dtype):
    logits, targets = _batch()
    loss = obj.make_loss(name, COUNTS)
    low = logits.to(dtype)
    assert loss(low, targets).dtype == torch.float32
    assert loss(low, targets) == loss(low.float(), targets)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_change_the_loss(name):
    logits, targets = _batch()
    loss = obj.make_loss(name, COUNTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, targets)
    assert inside.dtype == torch.float32 and inside == loss(logits, targets)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0, 5.0])
def test_focal_gradient_is_finite_and_matches_finite_differences(gamma):
    extreme = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0], [30.0, 0.0, 0.0]], requires_grad=True)
    obj.focal_loss(extreme, torch.tensor([0, 0, 0]), gamma, torch.ones(3)).backward()
    assert extreme.grad.isfinite().all()

    logits, targets = _batch(4)
    logits.requires_grad_()
    obj.focal_loss(logits, targets, gamma, torch.ones(3)).backward()
    step = torch.zeros_like(logits)
    step[1, 2] = 1e-2
    with torch.no_grad():
        ends = [obj.focal_loss(logits + sign * step, targets, gamma, torch.ones(3)) for sign in (1, -1)]
    assert logits.grad[1, 2].item() == pytest.approx((ends[0] - ends[1]).item() / 2e-2, abs=1e-3)


def test_focal_with_gamma_zero_has_the_gradient_of_cross_entropy():
    logits, targets = _batch()
    weights, grads = obj.class_weights(COUNTS), []
    for loss in (lambda x: obj.weighted_ce(x, targets, weights), lambda x: obj.focal_loss(x, targets, 0.0, weights)):
        leaf = logits.clone().requires_grad_()
        loss(leaf).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_weights_take_arrays_tensors_and_any_number_of_classes():
    for counts in (COUNTS, np.array(COUNTS), torch.tensor(COUNTS)):
        assert obj.class_weights(counts).tolist() == pytest.approx([10 / 9, 10 / 3, 5 / 9])
        assert (
            obj.effective_number_weights(counts, 0.99) @ torch.tensor(COUNTS).float() / 4000
        ).item() == pytest.approx(1)
    assert obj.class_weights([1, 3]).tolist() == pytest.approx([2, 2 / 3])


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_split_does_not_depend_on_how_it_is_cut_into_batches(name):
    logits, targets = _batch(48)
    loss = obj.make_loss(name, COUNTS)
    whole = loss(logits, targets)
    for size in (1, 3, 16):
        parts = [loss(*part) for part in zip(logits.split(size), targets.split(size), strict=True)]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)
    parts = [loss(*part) * len(part[1]) for part in zip(logits.split(20), targets.split(20), strict=True)]
    torch.testing.assert_close(sum(parts) / 48, whole)


@pytest.mark.parametrize("name", ["ce", "focal", "cb"])
def test_a_batch_of_one_class_keeps_the_weight_of_the_class(name):
    loss = obj.make_loss(name, COUNTS)
    weights = obj.effective_number_weights(COUNTS, 0.999) if name == "cb" else obj.class_weights(COUNTS)
    same = torch.zeros(4, 3)  # equally unsure of each class
    costs = torch.stack([loss(same, torch.full((4,), label)) for label in range(3)])
    torch.testing.assert_close(costs / costs[2], weights / weights[2])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(name="CE"), ["--loss CE", *NAMES]),
        (dict(class_counts=[0, 0, 5]), ["class 0, 1,"]),
        (dict(class_counts=[5, 5, float("nan")]), ["class 2"]),
        (dict(class_counts=[5, 0]), ["class 1"]),
        (dict(cb_beta=1.0), ["--cb-beta 1.0"]),
        (dict(cb_beta=-0.1), ["--cb-beta -0.1"]),
        (dict(focal_gamma=-1.0), ["--focal-gamma -1.0"]),
        (dict(focal_gamma=float("nan")), ["--focal-gamma nan"]),
        (dict(combo_weights=(0, 0, 0)), ["--combo-weights"]),
        (dict(combo_weights=(1, -1, 1)), ["--combo-weights"]),
        (dict(combo_weights=(1, 1)), ["--combo-weights", "three"]),
    ],
)
def test_make_loss_names_the_setting_that_is_wrong(settings, words):
    with pytest.raises(ClipsentError) as error:
        obj.make_loss(**{"name": "combo", "class_counts": COUNTS, **settings})
    assert all(word in str(error.value) for word in words)


def test_score_has_the_promised_keys_as_plain_floats():
    scores = obj.score(*_posts())
    averages = ["acc", "f1_macro", "f1_weighted", "precision_macro", "recall_macro"]
    assert list(scores) == [*averages, *(f"f1_{label}" for label in LABELS), "nll", "brier", "ece"]
    assert all(type(value) is float for value in scores.values())


@pytest.mark.filterwarnings("error")
def test_score_is_silent_on_one_class_zeros_and_float32():
    sure = np.eye(3, dtype=np.float32)[[0, 0, 2]]
    scores = obj.score([0, 0, 0], sure)
    assert scores["acc"] == pytest.approx(2 / 3)
    assert [name for name, value in scores.items() if np.isnan(value)] == ["f1_neutral", "f1_positive"]
    obj.score([1], torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.bfloat16).float())


@pytest.mark.parametrize(
    ("y_true", "probs", "words"),
    [
        ([], np.zeros((0, 3)), "y_true"),
        ([0, 3], [[1, 0, 0]] * 2, "row 1: 3"),
        ([0, -1], [[1, 0, 0]] * 2, "row 1: -1"),
        (["negative"], [[1, 0, 0]], "'negative'"),
        ([0.5], [[1, 0, 0]], "0.5"),
        ([[0, 1]], [[1, 0, 0]] * 2, "shape"),
        ([0, 1], [[1, 0, 0]], "(2, 3)"),
        ([0, 1, 2], np.eye(3)[:, :2], "(3, 3)"),
        ([0, 1], [[1, 0, 0], [float("nan"), 0, 1]], "row 1"),
        ([0, 1], [[1, 0, 0], [1.5, -0.5, 0]], "row 1"),
    ],
)
def test_score_refuses_what_is_no_prediction(y_true, probs, words):
    with pytest.raises(ClipsentError) as error:
        obj.score(y_true, probs)
    assert words in str(error.value)


def test_a_class_without_posts_does_not_lower_the_best_possible_score():
    perfect = obj.score([0, 0, 2, 2], np.eye(3)[[0, 0, 2, 2]])
    assert perfect["f1_macro"] == perfect["recall_macro"] == perfect["precision_macro"] == 1
    assert np.isnan(perfect["f1_neutral"]) and obj.absent_classes([0, 0, 2, 2]) == ["neutral"]
    assert obj.absent_classes([0, 1, 2]) == []
    mistaken = obj.score([0, 0, 2, 2], np.eye(3)[[0, 1, 2, 2]])
    assert mistaken["f1_macro"] < 1 and mistaken["f1_macro"] == pytest.approx(5 / 6)


def test_scores_take_other_labels():
    labels = ("a", "b", "c", "d", "e")
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=200)
    truth = np.arange(200) % 5
    scores = obj.score(truth, probs, labels)
    assert [name for name in scores if name.startswith("f1_")][2:] == [f"f1_{label}" for label in labels]
    assert 0.05 < obj.fit_temperature(np.log(probs), truth) <= 20
    with pytest.raises(ClipsentError, match="0 to 4 for a, b"):
        obj.score([5] * 200, probs, labels)


def test_metrics_of_a_stack_are_those_of_its_members():
    support = np.random.default_rng(0).integers(1, 30, size=(4, 5, 3))
    hits, called = support // 2, support // 2 + 1
    for name, values in obj.metrics_from_counts(hits, support, called).items():
        assert values.shape == (4, 5)
        assert values[2, 3] == obj.metrics_from_counts(hits[2, 3], support[2, 3], called[2, 3])[name]


def test_copies_make_a_slice_smaller():
    wide, narrow = obj.wilson_interval(10, 40, groups=np.arange(40) // 4), obj.wilson_interval(10, 40)
    assert wide[0] < narrow[0] and narrow[1] < wide[1]
    np.testing.assert_allclose(obj.wilson_interval(10, 40, groups=np.arange(40)), narrow)


def test_wilson_covers_the_rate_of_slices_with_copies():
    random, covered = np.random.default_rng(0), {True: 0, False: 0}
    groups = np.repeat(np.arange(60), np.tile([1, 1, 4], 20))
    for _ in range(400):
        wrong = (random.random(60) < 0.3)[groups]
        for known in covered:
            low, high = obj.wilson_interval(wrong.sum(), len(wrong), groups=groups if known else None)
            covered[known] += low <= 0.3 <= high
    assert covered[True] >= 372 > covered[False]


def test_reliability_bins_are_open_below_and_closed_above():
    table = obj.reliability_table([0, 0], [[0.5, 0.25, 0.25], [1, 0, 0]], bins=2)
    assert table.rows.tolist() == [1, 1]
    assert table.confidence.tolist() == [0.5, 1.0]


def test_reliability_holds_every_post_and_bounds_the_error():
    for seed in range(20):
        y_true, probs = _posts(seed=seed)
        assert obj.reliability_table(y_true, probs).rows.sum() == len(y_true)
        assert 0 <= obj.expected_calibration_error(y_true, probs) <= 1
    uniform = np.full((4, 3), 1 / 3)
    assert obj.reliability_table([0, 0, 1, 2], uniform, bins=3).rows.sum() == 4


@pytest.mark.parametrize(("errors", "total"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_refuses_impossible_counts(errors, total):
    with pytest.raises(ClipsentError, match="errors"):
        obj.wilson_interval(errors, total)


def test_wilson_takes_numpy_integers_and_stays_inside():
    for errors in np.arange(6):
        low, high = obj.wilson_interval(errors, np.int64(5))
        assert 0 <= low <= errors / 5 <= high <= 1


@pytest.mark.parametrize("factor", [0.2, 1.0, 10.0])
def test_temperature_scales_with_the_logits(factor):
    random = np.random.default_rng(0)
    logits = random.normal(size=(500, 3))
    y_true = np.where(random.random(500) < 0.6, logits.argmax(1), random.integers(3, size=500))
    base = obj.fit_temperature(logits, y_true)
    assert obj.fit_temperature(factor * logits + 100, y_true) == pytest.approx(factor * base, rel=1e-3)


def test_temperature_of_perfect_answers_is_the_lowest():
    assert obj.fit_temperature(np.eye(3), [0, 1, 2]) == pytest.approx(0.05, rel=1e-3)


def test_of_adjustments_that_score_alike_the_one_that_changes_nothing_is_taken():
    assert obj.fit_adjustment([0, 1, 2], np.eye(3), [0.7, 0.2, 0.1]) == 0


def test_temperature_refuses_infinite_logits():
    with np.errstate(divide="ignore"), pytest.raises(ClipsentError, match="finite"):
        obj.fit_temperature(np.log(np.eye(3)), [0, 1, 2])


def test_plots_draw_on_the_axis_they_are_given():
    import matplotlib.pyplot as plt

    y_true, probs = _posts()
    fig, axes = plt.subplots(1, 2)
    assert obj.plot_confusion(y_true, probs.argmax(1), axes[0]) is axes[0]
    assert obj.plot_reliability(y_true, probs, axis=axes[1]) is axes[1]
    assert axes[0].get_xlabel() and axes[1].get_ylabel()
    plt.close(fig)


@pytest.mark.parametrize("classes", [3, 7, 12])
def test_no_two_numbers_of_a_confusion_matrix_overlap_beside_another_panel(classes):
    import matplotlib.pyplot as plt

    names, truth = [f"class {number}" for number in range(classes)], np.repeat(np.arange(classes), classes)
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
    obj.plot_confusion(truth, np.tile(np.arange(classes), classes), panels[1], names)
    panels[1].set_title("validation posts")
    figure.tight_layout()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in panels[1].texts]
    plt.close(figure)
    assert len(boxes) == classes**2
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
