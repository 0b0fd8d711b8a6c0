"""Files of recipes: names that become folders, settings that do nothing, a first recipe that fails."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipsent_nb.batches import Execution, run_many
from clipsent_nb.cli import parse
from clipsent_nb.config import TrainConfig
from clipsent_nb.files import ClipsentError
from clipsent_nb.heads import VariantConfig
from clipsent_nb.preprocess import read_rule_sets
from clipsent_nb.recipes import read_recipes, recipes
from clipsent_nb.state import SAMPLE_SETTINGS
from clipsent_nb.train import fit

torch.set_num_threads(1)
DRY, LEFT = Execution(dry_run=True), object()  # the latter: to the recipes


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_sample) -> Path:
    return fresh_sample(tmp_path_factory.mktemp("recipes") / "sample")


def settings_in(root: Path, kind: type = VariantConfig, **own: object) -> TrainConfig:
    "Settings of a head that is trained for one epoch."
    quick = SAMPLE_SETTINGS | {"trainable_blocks": 0, "epochs": 1, "output_dir": Path("outputs/optimize/rc")}
    return kind(project_root=root, **{name: value for name, value in (quick | own).items() if value is not LEFT})


@pytest.mark.parametrize(
    "name", ["lr_seed1", "../clip", "head/ln", ".", "", "a" * 300, "a.", "a\\b", "Plain", "plain_SEED2"]
)
def test_a_name_that_cannot_be_that_of_a_folder_is_refused_before_training(tmp_path, name):
    file = tmp_path / "r.toml"
    file.write_text(f"[plain]\nepochs = 1\n[{name!r}]\nepochs = 2\n", encoding="utf-8")
    with pytest.raises(ClipsentError, match="not a usable name; choose another, of letters"):
        read_recipes(file)
    file.write_text(f"[plain]\nfold_repeats = true\n[{name!r}]\nfold_repeats = false\n", encoding="utf-8")
    with pytest.raises(ClipsentError, match="not a usable name; choose another, of letters"):
        read_rule_sets(file)


@pytest.mark.parametrize("name", ["smooth labels", "2blocks", "lr-1e3", "lr0.001", "小"])
def test_a_name_that_folders_can_have_is_taken(tmp_path, name):
    file = tmp_path / "r.toml"
    file.write_text(f"[{name!r}]\nepochs = 2\n", encoding="utf-8")
    assert list(read_recipes(file)) == [name]


@pytest.mark.parametrize("places", [("rc/a", "rc/a"), ("rc/a", "rc/A"), ("rc/a", "elsewhere/a"), ("rc/a", "rc/b/c")])
def test_runs_of_a_batch_that_share_a_folder_or_lie_elsewhere_are_refused(root, places):
    one = settings_in(root, TrainConfig)
    configs = [replace(one, seed=seed, output_dir=Path(place)) for seed, place in enumerate(places)]
    with pytest.raises(ClipsentError, match="a run of this batch needs a folder of its own in .*rc"):
        run_many(configs, root / "rc", DRY)
    assert len(run_many([replace(configs[0]), replace(configs[0])], root / "rc", DRY)) == 1


def test_a_setting_that_does_nothing_is_no_recipe(root):
    file = root / "idle.toml"
    file.write_text("[a]\nepochs = 1\n[b]\nfocal_gamma = 5.0\n", encoding="utf-8")
    with pytest.raises(ClipsentError, match=r"\[b\]: focal_gamma does nothing, since .*; leave it out"):
        recipes(settings_in(root), file, seeds="1", execution=DRY)
    assert "b" in recipes(settings_in(root, loss="focal"), file, seeds="1", execution=DRY)
    file.write_text("[a]\nepochs = 1\n[b]\nloss = 'focal'\n", encoding="utf-8")
    assert "b" in recipes(settings_in(root, focal_gamma=5.0), file, seeds="1", execution=DRY)
    words = ["--project-root", str(root), "--lora-rank", "4"]
    with pytest.raises(ClipsentError, match="--lora-rank: does nothing, since no tower is trained with lora"):
        parse("recipes", words)
    file.write_text("[a]\ntext_tower = 'lora'\n[b]\nepochs = 1\n", encoding="utf-8")
    parse("recipes", [*words, "--file", "idle.toml"])


@pytest.mark.slow
def test_nothing_is_compared_with_another_recipe_where_the_first_has_failed(root):
    file, shared = root / "failing.toml", settings_in(root, head_lr=LEFT)
    zeta, others = "[zeta]\nhead_lr = 1e30\n", "[alpha]\n[beta]\nhead_variant = 'mlp'\n"
    file.write_text(zeta + others, encoding="utf-8")
    compared = recipes(shared, file, seeds="1")
    assert "No run of `zeta` is finished" in str(compared) and compared.table.difference.isna().all()
    assert sorted(compared.table.recipe) == ["alpha", "beta"]
    file.write_text(others + zeta, encoding="utf-8")
    assert "No run of" not in str(recipes(shared, file, seeds="1"))
    table = pd.read_csv(root / "outputs/optimize/rc/rc.csv").set_index("recipe")
    assert table.reference["beta"] == "alpha" and table.difference.notna()["beta"]


def test_the_rate_that_is_too_high_is_the_one_that_is_named(root):
    for own, named in (
        ({"head_lr": 1e30}, "--head-lr 1e[+]30: the loss"),
        ({"lr": 1e30, "head_lr": None}, "--lr 1e[+]30: the loss"),
    ):
        with pytest.raises(ClipsentError, match=named):
            fit(settings_in(root, TrainConfig, **own, epochs=3, output_dir=Path(f"outputs/{len(named)}")))
        shutil.rmtree(root / f"outputs/{len(named)}")
