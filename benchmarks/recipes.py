"""Recipes out of fold: presets, single levers and an average of seeds, each post answered by runs that never met it.

python benchmarks/recipes.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
    [--file TOML] [--only NAME ...] [--folds N] [--seeds N]

Runs stay in outputs/optimize/recipes_oof of a project that is named, and what is finished is not repeated.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from common import parser, reference, write_figures

from clipsent_nb.badcases import make_folds
from clipsent_nb.batches import Execution, run_many
from clipsent_nb.config import TrainConfig
from clipsent_nb.data import read_split
from clipsent_nb.ensemble import cross_fit_ensemble, weigh_alike
from clipsent_nb.heads import make_contender, validation_posts
from clipsent_nb.recipes import read_recipes
from clipsent_nb.runs import Run
from clipsent_nb.stats import compare_seeds, seeds_interval


def run_folds(folds: list[TrainConfig], name: str, values: Mapping, seeds: int, threads: int) -> list[list[Run]]:
    "The runs of a recipe: a list per fold with one per seed."
    folder = folds[0].output_dir.parent / name
    seeded = [[42 + number + 100 * seed for seed in range(seeds)] for number in range(len(folds))]
    configs = [
        [replace(fold, **values, seed=seed, output_dir=folder / f"{fold.output_dir.name}_{seed}") for seed in own]
        for fold, own in zip(folds, seeded, strict=True)
    ]
    table = run_many(sum(configs, []), folds[0].resolve(folder), Execution(keep_best=0, threads=threads))
    if (table.state != "done").any():
        raise SystemExit(table.to_string())
    return [[Run.load(config.resolve(config.output_dir)) for config in own] for own in configs]


def pool(runs: list[list[Run]], average: bool) -> tuple[pd.DataFrame, np.ndarray]:
    "All posts in the order of the folds, and class ids [seeds, halvings, N]; with `average` those of the seeds' mean."
    posts = [validation_posts(own[0]) for own in runs]
    if not average:
        parts = [make_contender("", own, fold).predictions for own, fold in zip(runs, posts, strict=True)]
    else:
        parts = [
            cross_fit_ensemble([run.epoch_probabilities for run in own], fold.label.to_numpy(), fold.group, weigh_alike)
            for own, fold in zip(runs, posts, strict=True)
        ]
        parts = [part[None] for part in parts]
    return pd.concat(posts, ignore_index=True), np.concatenate(parts, axis=-1)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--file", type=Path, help="recipes, as `clipsent recipes --file` takes them; default: the presets"
    )
    flags.add_argument("--only", nargs="*", help="of these recipes")
    flags.add_argument("--folds", type=int, default=5)
    flags.add_argument("--seeds", type=int, default=1, help="of each fold; with several their average is a row too")
    options = flags.parse_args()
    recipes = read_recipes(options.file)
    names = options.only or list(recipes)
    posts, folds = ((64, 32), 2) if options.quick else ((10**6, 10**6), options.folds)
    with reference(options, *posts) as config:
        table = pd.concat([read_split(config.resolve(path)) for path in (config.train_csv, config.val_csv)])
        if options.project_root:
            config = replace(config, project_root=options.project_root)
        config = replace(
            TrainConfig(), **{name: getattr(config, name) for name in ("project_root", "data_root", "model_name")}
        )
        config = replace(config, output_dir=Path("outputs/optimize/recipes_oof"), allow_outside=True)
        cut, found, figures = make_folds(table.reset_index(drop=True), config, folds), {}, {}
        for name in names:
            runs = run_folds(
                cut, name, recipes[name] | ({"epochs": 1} if options.quick else {}), options.seeds, options.threads
            )
            found[name] = pool(runs, average=False)
            costs = [run.metrics["train_time_sec"] for own in runs for run in own]
            if options.seeds > 1:
                found[f"average of {name}"] = pool(runs, average=True)
            for label in [key for key in found if key not in figures]:
                (known, answers), (_, first) = found[label], found[names[0]]
                row = seeds_interval(known.label, answers, groups=known.group)
                row["seconds"] = float(np.mean(costs))
                if label != names[0]:
                    pair = compare_seeds(known.label, answers, first, groups=known.group)
                    row |= {f"less {names[0]}, {key}": pair[key] for key in ("difference", "low", "high", "p")}
                figures[label] = {key: float(value) for key, value in row.items()}
                print(label, {key: float(f"{value:.4g}") for key, value in figures[label].items()}, flush=True)
    write_figures(options, {"recipes": figures})


if __name__ == "__main__":
    main()
