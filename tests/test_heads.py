"""Heads and preprocessing side by side: the same posts, seeds, a comparison of one."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipsent_nb.batches import Execution
from clipsent_nb.files import ClipsentError
from clipsent_nb.heads import (
    CROSS_FITTED,
    Contender,
    VariantConfig,
    conclude_pairs,
    conclude_variants,
    heads,
    make_contender,
    read_variants,
    validation_posts,
)
from clipsent_nb.preprocess import preprocess, read_rule_sets
from clipsent_nb.recipes import recipes
from clipsent_nb.runs import Run
from clipsent_nb.state import sample_config
from clipsent_nb.train import sample_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, fresh_sample):
    return sample_run(fresh_sample(tmp_path_factory.mktemp("heads") / "sample"), epochs=2)


def test_what_cannot_be_told_apart_from_the_best_may_be_the_best():
    truth, random = np.arange(300) % 3, np.random.default_rng(0)
    posts = pd.DataFrame({"label": truth, "group": [str(post) for post in range(300)]})
    contenders = []
    for name, right in (("good", 0.9), ("poor", 0.4)):
        answers = np.where(random.random((3, 1, 300)) < right, truth, (truth + 1) % 3)
        contenders.append(Contender(name, np.eye(3)[answers[:, 0]], answers))
    scores = {
        name: [0.9, 0.4] for name in (CROSS_FITTED, f"{CROSS_FITTED}_low", f"{CROSS_FITTED}_high", "val_f1_macro")
    }
    summary = pd.DataFrame({"head": ["good", "poor"], **scores, f"{CROSS_FITTED}_sd": 0.01, "seeds": 3})
    pair = {"a": "poor", "b": "good", "difference": -0.5, "low": -1.0, "high": 0.1, "p": 0.2, "p_adjusted": 0.2}
    unclear, told = (pd.DataFrame([pair | {"verdict": verdict}]) for verdict in ("not distinguishable", "worse"))
    assert "the best may be `good` or `poor`." in conclude_variants(posts, contenders, summary, unclear)
    assert "the best may be `good`." in conclude_variants(posts, contenders, summary, told)


def test_predictions_follow_the_posts_whatever_order_the_file_has(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "turned"))
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    table[::-1].to_csv(folder / "val_predictions.csv", index=False)
    posts = validation_posts(Run.load(folder))
    assert posts.guid.tolist() == table.guid[::-1].tolist()
    one = make_contender("one", [run], posts)
    assert (
        one.probabilities[0].argmax(axis=1)
        == posts.guid.map(table.set_index("guid").pred_label).map(["negative", "neutral", "positive"].index)
    ).all()


def test_runs_of_older_versions_count_with_their_best_epoch(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "old"))
    (folder / "val_epochs.npy").unlink()
    posts = validation_posts(run)
    one = make_contender("old", [Run.load(folder)], posts)
    assert (one.predictions == one.probabilities.argmax(axis=-1)[:, None]).all()


def test_a_true_is_no_number_in_a_set_of_rules(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("[own]\nreplace_urls = 1\n", encoding="utf-8")
    with pytest.raises(ClipsentError, match="replace_urls = 1; use True or False"):
        read_rule_sets(path)


def test_a_pair_is_named_with_its_interval_and_its_verdict():
    row = {"a": "ln", "b": "base", "difference": 0.1, "low": 0.02, "high": 0.18, "p_adjusted": 0.01}
    pairs = pd.DataFrame([row | {"verdict": verdict} for verdict in ("better", "worse", "not distinguishable")])
    better, worse, unclear = conclude_pairs(pairs)
    assert better == "`ln` is better than `base` (+0.100, 95 % interval +0.020 to +0.180, corrected p 0.010)."
    assert worse.startswith("`ln` is worse than `base` (+0.100")
    assert unclear.startswith("1 of 3 pairs cannot be told apart (95 % intervals): `ln` minus `base` +0.100 (+0.020 to")


def test_a_dry_run_shows_recipe_seed_and_state(run):
    shared = VariantConfig(project_root=run.folder.parents[2], model_name="tiny_clip")
    table = recipes(shared, seeds="1,2", execution=Execution(dry_run=True)).splitlines()
    assert [line.split() for line in table[:2]] == [["recipe", "seed", "state"], ["spec", "1", "waiting"]]
    assert table[8].split() == ["best", "2", "waiting"] and max(map(len, table)) < 80


@pytest.mark.slow
@pytest.mark.parametrize(("command", "choice"), [(heads, {"variants": "ln"}), (preprocess, {"rules": "none"})])
def test_a_comparison_of_one_has_a_table_and_a_report(run, command, choice, tmp_path):
    root = Path(shutil.copytree(run.folder.parents[2], tmp_path / "project"))
    config = sample_config(root, epochs=1, output_dir=Path("outputs/optimize/one"))
    result = command(config, **choice, seeds="42", execution=Execution())
    assert len(result.table) == 1 and result.table[CROSS_FITTED].notna().all()
    assert "There is nothing to compare it with" in str(result)
    assert "There is nothing to compare it with" in result.report.read_text(encoding="utf-8")
    posts, contenders = read_variants(root / "outputs/optimize/one", "head_")
    assert len(contenders) == 1 and len(posts)


@pytest.mark.parametrize("command", [heads, preprocess])
def test_an_unknown_preset_is_one_line_from_python_too(run, command):
    with pytest.raises(ClipsentError, match="--preset quik: unknown; did you mean quick"):
        command(sample_config(run.folder.parents[2]), preset="quik")
