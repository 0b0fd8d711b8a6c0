"""Edge cases of intervals, tests and cross-fitting, and the full measurement of how often they are wrong."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binomtest

from clipsent_nb import stats
from clipsent_nb.files import ClipsentError
from clipsent_nb.labels import LABELS
from clipsent_nb.objective import score_answers

SHARES = np.array([0.3, 0.1, 0.6])


def _true_f1(skill):
    right = ndtr(np.asarray(skill))[..., None]
    called = SHARES * right + (1 - SHARES) * (1 - right) / 2
    return (2 * SHARES * right / (SHARES + called)).mean(axis=-1)


def _skill_for(f1):
    return brentq(lambda skill: _true_f1(skill) - f1, 0, 3)


SLOPE = 0.02 / (_skill_for(0.63) - _skill_for(0.61))


def _pretend_runs(random, posts, group_size, seeds, seed_sd, *f1s):
    "As in 03a_stats: true classes, answers [models, seeds, N], groups, true scores [models, seeds]."
    groups, models = np.repeat(np.arange(posts // group_size), group_size), len(f1s)
    truth = random.choice(3, groups[-1] + 1, p=SHARES)[groups]
    skills = np.array([[_skill_for(f1)] for f1 in f1s]) + seed_sd / SLOPE * random.normal(size=(models, seeds))
    latent = np.sqrt(0.035) * random.normal(size=(models, seeds, posts))
    for part, shape in ((0.5, (1, 1)), (0.15, (models, 1)), (0.315, (models, seeds))):
        latent += np.sqrt(part) * random.normal(size=(*shape, groups[-1] + 1))[..., groups]
    wrong = (truth + random.integers(1, 3, groups[-1] + 1)[groups]) % 3
    return truth, np.where(skills[..., None] + latent > 0, truth, wrong), groups, _true_f1(skills)


def _posts(rows=300, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(3, size=rows)
    answers = np.where(random.random((6, rows)) < 0.6, truth, random.integers(3, size=(6, rows)))
    return truth, answers


@pytest.mark.slow
@pytest.mark.parametrize("posts", [400, 4500])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("sd", [0.0, 0.01, 0.03])
def test_coverage_and_false_alarms_over_all_regimes(posts, size, sd, trials=1000):
    random, rows = np.random.default_rng([posts, size, int(100 * sd)]), []
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    setting = weights @ _true_f1(_skill_for(0.62) + sd / SLOPE * nodes) / weights.sum()
    for _ in range(trials):
        truth, answers, groups, own = _pretend_runs(random, posts, size, 5, sd, 0.62, 0.62, 0.66)
        scores, shifts = stats.jackknife(truth, answers, groups=groups)
        for seeds in (1, 3, 5):
            means = [stats.seed_mean(s[:seeds], u[:seeds]) for s, u in zip(scores, shifts, strict=True)]
            found = stats.seeds_interval(truth, answers[0, :seeds], groups=groups)
            null, gain = stats.compare_means(means[1], means[0]), stats.compare_means(means[2], means[0])
            same, target = (0, setting) if seeds > 1 else (own[1, 0] - own[0, 0], own[0, 0])
            alarm, power = stats.verdict(null) in ("better", "worse"), stats.verdict(gain) == "better"
            covers = found["low"] <= target <= found["high"], null["low"] <= same <= null["high"]
            rows.append((seeds, *covers, alarm, power))
    names = ["seeds", "covers score", "covers difference", "false alarm", "power"]
    table = pd.DataFrame(rows, columns=names).groupby("seeds").mean()
    print(f"\n{posts} posts, groups of {size}, seed sd {sd}\n{(100 * table).round(1)}")
    noise = 2 * np.sqrt(0.05 * 0.95 / trials)
    covers = table[["covers score", "covers difference"]].stack()
    assert covers.between(0.93 - noise, 0.97 + noise).all()
    assert (table["false alarm"] <= 0.06 + noise).all()


def test_copies_do_not_raise_false_alarms():
    random, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        truth, (a, b), groups, _ = _pretend_runs(random, 400, 4, 1, 0, 0.62, 0.62)
        alarms += stats.compare_seeds(truth, a[0], b[0], groups=groups)["p"] < 0.05
    assert alarms <= 18


def test_the_variance_over_posts_and_seeds_is_not_counted_twice():
    random, found, differences, errors = np.random.default_rng(0), 0, [], []
    for _ in range(100):
        truth, (a, b), _, _ = _pretend_runs(random, 400, 1, 3, 0, 0.66, 0.62)
        means = [stats.answers_mean(truth, answers) for answers in (a, b)]
        comparison = stats.compare_means(*means)
        found += stats.verdict(comparison) == "better"
        differences.append(comparison["difference"])
        errors.append(np.sqrt(stats.total_variance(means[0].shifts - means[1].shifts, means)[0]))
    assert 0.85 < np.mean(errors) / np.std(differences) < 1.3
    assert found > 28  # of 100 true gains of four points


def test_one_seed_is_never_judged():
    truth, answers = _posts()
    clear = stats.compare_seeds(truth, truth[None], (truth[None] + 1) % 3)
    assert clear["difference"] == 1 and clear["seeds"] == 1
    assert stats.verdict(clear) == stats.NOT_JUDGED
    mixed = stats.compare_seeds(truth, answers[:1], answers[1:4])
    assert mixed["seeds"] == 1 and stats.verdict(mixed) == stats.NOT_JUDGED


def test_a_model_without_randomness_is_judged_against_several_seeds():
    truth, answers = _posts()
    comparison = stats.compare_seeds(truth, answers[:3], np.zeros_like(truth))
    assert comparison["seeds"] == 3 and stats.verdict(comparison) == "better"
    assert stats.compare_seeds(truth, truth, answers[0])["seeds"] == 0


def test_a_group_counts_once_however_often_it_is_copied():
    truth, answers = _posts()
    groups = np.repeat(np.arange(300), 5)
    once = stats.compare_seeds(truth, answers[:3], answers[3:])
    copied = stats.compare_seeds(
        np.repeat(truth, 5), *(np.repeat(part, 5, axis=1) for part in (answers[:3], answers[3:])), groups=groups
    )
    for name, value in once.items():
        assert copied[name] == pytest.approx(value, rel=1e-6)
    order = np.random.default_rng(0).permutation(1500)
    mixed = stats.seeds_interval(
        np.repeat(truth, 5)[order], np.repeat(answers, 5, axis=1)[:, order], groups=groups[order]
    )
    assert mixed["low"] == pytest.approx(stats.seeds_interval(truth, answers)["low"])


def test_group_labels_may_be_text_numbers_or_missing():
    for groups in (["a", "b", "a"], [7, 1, 7], [1.5, np.nan, 1.5], ["a", None, "a"], ["a", "", "a"]):
        assert stats.group_numbers(groups, 3).tolist() == [0, 1, 0]
    with pytest.raises(ClipsentError, match="groups"):
        stats.group_numbers(["a"], 3)


def test_a_single_group_says_nothing():
    truth, answers = _posts(20)
    found = stats.seeds_interval(truth, answers[0], groups=np.zeros(20))
    assert (found["low"], found["high"], found["groups"]) == (0, 1, 1)
    assert stats.compare_seeds(truth, truth, answers[0], groups=np.zeros(20))["p"] == 1
    with pytest.raises(ClipsentError, match="one group"):
        stats.cross_fit_answers(truth, answers, np.zeros(20))


def test_two_posts_are_no_proof():
    assert stats.compare_seeds([0, 1], [0, 1], [1, 0])["p"] == 0.5


def test_a_lead_on_five_posts_is_judged_by_five_posts():
    truth = np.zeros(400, dtype=int)
    worse = np.where(np.arange(400) < 5, 1, 0)
    assert stats.compare_seeds(truth, truth, worse, "acc")["p"] > 0.05


@pytest.mark.parametrize("metric", score_answers([0, 1, 2], [0, 1, 2]))
def test_every_metric_has_an_interval_around_it(metric):
    truth, answers = _posts()
    found = stats.seeds_interval(truth, answers[0], metric, labels=LABELS)
    assert 0 <= found["low"] < found["mean"] == score_answers(truth, answers[0])[metric] < found["high"] <= 1
    wide = stats.seeds_interval(truth, answers[0], metric, level=0.99, labels=LABELS)
    assert wide["low"] < found["low"] and found["high"] < wide["high"]


def test_interval_and_p_agree():
    random = np.random.default_rng(0)
    for estimate, df in zip(random.normal(size=50), random.integers(1, 40, 50), strict=True):
        found = stats.interval_and_p(estimate, 0.2, df)
        assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)


def test_any_number_of_classes():
    labels = [f"class {i}" for i in range(50)]
    random = np.random.default_rng(0)
    truth = random.integers(50, size=2000)
    a, b = (
        np.where(random.random((3, 2000)) < share, truth, random.integers(50, size=(3, 2000))) for share in (0.7, 0.5)
    )
    assert stats.verdict(stats.compare_seeds(truth, a, b, labels=labels)) == "better"
    assert stats.seeds_interval(truth, a, "f1_class 49", labels=labels)["mean"] > 0.5
    assert stats.mcnemar(truth, a[0], b[0], labels=labels)["p"] < 0.001
    two = stats.compare_seeds([0, 1] * 20, [0, 1] * 20, [0, 0] * 20, labels=("no", "yes"))
    assert two["difference"] == pytest.approx(2 / 3)


def test_unknown_metrics_and_foreign_answers_are_named():
    with pytest.raises(ClipsentError, match="f1_macro"):
        stats.seeds_interval([0, 1], [0, 1], "f1")
    with pytest.raises(ClipsentError, match="answers_b"):
        stats.compare_seeds([0, 1], [0, 1], [0])
    with pytest.raises(ClipsentError, match="answers_a, row 1"):
        stats.compare_seeds([0, 1], [[0, 70]], [[0, 1]])
    with pytest.raises(ClipsentError, match="pred_b"):
        stats.mcnemar([0, 1], [0, 1], [0])


def test_judge_takes_empty_tables_and_keeps_unjudged_rows_out_of_the_family():
    truth, answers = _posts()
    rows = [stats.compare_seeds(truth, answers[:3], answers[3:]), stats.compare_seeds(truth, answers[:1], answers[1:2])]
    judged = stats.judge(pd.DataFrame(rows))
    assert judged.p_adjusted[0] == judged.p[0] and np.isnan(judged.p_adjusted[1])
    assert judged.verdict.tolist() == [stats.UNCLEAR, stats.NOT_JUDGED]
    empty = stats.judge(judged.iloc[:0])
    assert empty.empty and {"p_adjusted", "verdict"} <= set(empty)
    assert np.isnan(stats.adjust_p([np.nan])).all() and stats.adjust_p([]).shape == (0,)


def test_mcnemar_is_the_exact_test_and_groups_are_coins():
    truth, answers = _posts(2000)
    found = stats.mcnemar(truth, answers[0], answers[1])
    assert found["p"] == pytest.approx(binomtest(found["only_a"], found["only_a"] + found["only_b"]).pvalue)
    groups = np.repeat(np.arange(500), 4)
    lead = (answers[0] == truth).astype(int) - (answers[1] == truth)
    sums = np.bincount(groups, weights=lead)
    flips = np.random.default_rng(0).choice([-1, 1], (20_000, 500)) @ sums
    p = stats.mcnemar(truth, answers[0], answers[1], groups)["p"]
    assert p == pytest.approx((np.abs(flips) >= abs(lead.sum())).mean(), abs=0.015)


def test_mcnemar_without_a_post_that_tells():
    assert stats.mcnemar([0, 1], [0, 2], [0, 0]) == {"only_a": 0, "only_b": 0, "p": 1.0}


def test_cross_fitting_keeps_groups_together_and_repeats_itself():
    truth, answers = _posts()
    groups, constant = np.arange(300) // 3, np.repeat([[0], [1], [2]], 300, axis=1)
    fitted = stats.cross_fit_answers(truth, constant, groups)
    assert all(len(set(row[groups == group])) == 1 for row in fitted for group in range(100))
    one = stats.cross_fit_epoch(truth, np.eye(3)[answers], groups)
    assert one == stats.cross_fit_epoch(truth, np.eye(3)[answers], groups)
    assert one["low"] < one["honest"] < one["high"] and one["honest"] == pytest.approx(
        one["reported"] - one["optimism"]
    )


def test_one_epoch_has_no_optimism():
    truth, answers = _posts()
    found = stats.cross_fit_epoch(truth, np.eye(3)[answers[:1]])
    assert found["epoch"] == 1 and found["optimism"] == pytest.approx(0)


def test_equal_scores_keep_the_first_epoch():
    truth, answers = _posts()
    assert stats.cross_fit_epoch(truth, np.eye(3)[[answers[0]] * 3])["epoch"] == 1


def test_the_ranking_of_one_run_and_of_a_clear_winner():
    truth, answers = _posts()
    assert stats.rank_runs(truth, {"only": answers[:2]}).may_be_best.tolist() == [True]
    table = stats.rank_runs(truth, {"bad": (truth + 1) % 3, "good": truth, "middling": answers[0]})
    assert table.run.tolist() == ["good", "middling", "bad"]
    assert table.may_be_best.tolist() == [True, False, False]
    assert table.behind[0] < 0 < table.behind[1]


def test_optimism_of_one_run_is_nothing_and_that_of_equal_runs_their_lead():
    truth, answers = _posts()
    assert stats.selection_optimism(truth, answers[:1]) == 0
    assert stats.selection_optimism(truth, [answers[0]] * 3) == 0
    assert stats.selection_optimism(truth, answers[:2]) > 0
    assert 0 < stats.selection_optimism(truth, answers) <= np.ptp(stats.jackknife(truth, answers)[0])


def test_equal_settings_are_all_among_those_that_may_be_best():
    "One by one, the winner of sixteen would beat some other in most grids."
    random, kept = np.random.default_rng(0), []
    for _ in range(40):
        truth, answers, groups, _ = _pretend_runs(random, 400, 2, 1, 0, *[0.62] * 16)
        ranking = stats.rank_runs(truth, dict(enumerate(answers)), groups, samples=1000)
        kept.append(ranking.may_be_best.mean())
    assert np.mean(kept) > 0.93


def test_the_best_of_a_grid_less_its_luck_is_what_it_is_worth():
    random, rest = np.random.default_rng(0), {"reported": [], "cross-fitted, less the luck of the choice": []}
    for _ in range(25):  # sixteen equal settings of eight equal epochs
        truth, answers, _, worth = _pretend_runs(random, 450, 1, 128, 0, 0.62)
        runs = answers[0].reshape(16, 8, -1)
        honest = [stats.cross_fit_answers(truth, run, halvings=2) for run in runs]
        scores = [stats.answers_mean(truth, [run]).mean for run in honest]
        left = max(scores) - stats.selection_optimism(truth, honest)
        for name, score in zip(rest, (stats.jackknife(truth, runs)[0].max(), left), strict=True):
            rest[name].append(score - worth[0, 0])
    reported, honest = (np.mean(values) for values in rest.values())
    assert reported > 0.03 and abs(honest) < 0.01


def test_ten_runs_on_4500_posts_take_little_time():
    import time

    truth, answers, groups, _ = _pretend_runs(np.random.default_rng(0), 4500, 1, 5, 0.01, 0.62, 0.66)
    start = time.perf_counter()
    stats.compare_seeds(truth, *answers, groups=groups)
    assert time.perf_counter() - start < 1


def test_equal_runs_keep_their_order():
    truth = np.arange(60) % 3
    answers = {str(run): (truth + (np.arange(60) < 5 * (run % 3))) % 3 for run in range(60)}
    expected = sorted(answers, key=lambda run: int(run) % 3)
    assert stats.rank_runs(truth, answers).run.tolist() == expected
