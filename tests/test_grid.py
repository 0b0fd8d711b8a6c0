"""Batches of runs: what is repeated, what is not, and what is left when things go wrong."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import nbformat
import numpy as np
import optuna
import pandas as pd
import pytest

from clipsent_nb import batches, grid
from clipsent_nb.batches import BatchFolder, Execution, PlannedRun, collect, fingerprint, name_runs, prepare, run_many
from clipsent_nb.config import TrainConfig, identity
from clipsent_nb.files import ClipsentError, locked, write_csv, write_json
from clipsent_nb.grid import GridConfig, Range, expand, grid_axes, open_study, read_axis, run_search
from clipsent_nb.state import sample_config


def execute(source, folder, parameters, threads=0, minutes=0.0, watch=lambda: ""):
    "What stands for the report of a run: it writes a finished run whose score is its seed, or does what its seed says."
    folder, seed = Path(folder), parameters["seed"]
    folder.mkdir(exist_ok=True)
    time.sleep(0.1 * (seed == 1))  # a time that is not rounded to none
    with open(folder / "calls.txt", "a") as calls:
        calls.write(f"{seed} ")
    if seed == 13 and not (folder.parent / "mended").exists():
        raise ClipsentError("guid 7", "broken\npicture")
    if seed == 66:
        raise ClipsentError(folder / "report.ipynb", "its process was killed")
    if seed == 77:
        return
    epochs = 3 if seed > 99 else 1
    for epoch in range(1, epochs + 1):
        write_csv(pd.DataFrame({"epoch": range(1, epoch + 1), "val_f1_macro": seed / 1000}), folder / "history.csv")
        for _ in range(5 if epochs > 1 else 0):
            time.sleep(0.1)
            if reason := watch():
                raise ClipsentError(folder / "report.ipynb", reason)
    names = "acc f1_macro precision_macro recall_macro f1_negative f1_neutral f1_positive nll ece".split()
    metrics = {f"best_val_{name}": seed / 1000 for name in names}
    metrics |= {"best_val_f1_macro_interval": [0, 1], "leaked": seed == 50, "val_posts": 9}
    costs = "best_epoch epochs train_time_sec pairs_per_sec params_million trainable_params_million".split()
    own = {"identity": identity(TrainConfig(**parameters)), "data_fingerprint": "", "device": "cpu", "versions": {}}
    write_json(folder / "config.json", own)
    (folder / "best.pt").write_text("weights")
    write_json(folder / "metrics.json", metrics | dict.fromkeys(costs, 1))
    (folder / "report.html").write_text("page")


@pytest.fixture(scope="module")
def sample(tmp_path_factory, fresh_run):
    return fresh_run(tmp_path_factory.mktemp("grid") / "sample")


@pytest.fixture
def base(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "execute", execute)
    for module in (batches, grid):
        monkeypatch.setattr(module, "prepare", lambda configs: None)
    return sample_config(sample, output_dir=tmp_path / "batch")


def seeds(base, *values):
    return expand({"seed": values}, base)


def calls(base):
    found = [path.read_text().split() for path in Path(base.output_dir).glob("*/calls.txt")]
    return {int(seeds[0]): len(seeds) for seeds in found if seeds}  # a file may be there before its first line


def test_failures_stop_no_other_run_and_are_tried_again(base):
    configs = seeds(base, 1, 13, 66, 77, 2)
    table = run_many(configs, base.output_dir, Execution(jobs=2))
    assert table.seed.tolist()[:2] == [2, 1] and table.state.tolist() == ["done", "done", "failed", "failed", "failed"]
    reasons = dict(zip(table.seed, table.reason, strict=True))
    assert reasons[13] == "guid 7: broken picture"
    assert "was killed" in reasons[66] and "without a result" in reasons[77]
    (Path(base.output_dir) / "mended").touch()
    table = run_many(configs, base.output_dir, Execution())
    assert table.state.value_counts().to_dict() == {"done": 3, "failed": 2}
    assert calls(base) == {1: 1, 2: 1, 13: 2, 66: 2, 77: 2}


def test_after_so_many_failures_no_further_run_is_started(base):
    table = run_many(seeds(base, 13, 1, 2), base.output_dir, Execution(max_failures=1))
    assert table.state.value_counts().to_dict() == {"waiting": 2, "failed": 1} and calls(base) == {13: 1}


def test_only_the_best_keep_their_weights_and_a_leaked_run_is_none_of_them(base):
    table = run_many(seeds(base, 3, 50, 1, 2), base.output_dir, Execution(keep_best=2))
    assert table.seed.tolist() == [3, 2, 1, 50]
    kept = [path.parent.name.split()[0] for path in Path(base.output_dir).glob("*/best.pt")]
    assert sorted(kept) == ["seed=2", "seed=3"]


def test_a_wider_grid_finds_the_runs_of_a_narrower_one(base):
    first = seeds(base, 1, 2)
    run_many(first, base.output_dir)
    wider = expand({"dropout": [0.15, 0.3], "seed": [1, 2]}, base)
    assert [config.output_dir for config in wider[:2]] == [config.output_dir for config in first]
    planned = run_many(wider, base.output_dir, Execution(dry_run=True))
    assert planned.state.tolist() == ["done", "done", "waiting", "waiting"]
    assert "min" in planned.attrs["estimate"] and calls(base) == {1: 1, 2: 1}


def test_a_killed_batch_goes_on_where_it_was(base):
    configs = seeds(base, 1, 2)
    runs = [PlannedRun(config, {}, {"seed": config.seed}) for config in configs]
    runs[1].state = "running"
    BatchFolder(base.output_dir, ["seed"], Execution()).note(runs)
    assert collect(base.output_dir).state.tolist() == ["waiting", "waiting"]
    assert run_many(configs, base.output_dir).state.tolist() == ["done", "done"]


def test_a_run_whose_report_was_not_made_is_executed_again(base):
    configs = seeds(base, 1, 2)
    run_many(configs, base.output_dir, Execution(keep_best=2))
    (configs[0].resolve(configs[0].output_dir) / "report.html").unlink()
    run_many(configs, base.output_dir, Execution(keep_best=2))
    assert calls(base) == {1: 2, 2: 1}


@pytest.mark.parametrize("searching", [False, True])
def test_an_interruption_stops_the_runs_and_the_next_call_goes_on(base, monkeypatch, searching):
    def go():
        if searching:
            return run_search({"seed": Range(100, 900)}, replace(base, epochs=3), 2)
        return run_many(seeds(base, 100, 101), base.output_dir)

    def interrupt(*arguments, **options):
        monkeypatch.setattr(module, "wait", original)
        while not calls(base):
            time.sleep(0.1)
        raise KeyboardInterrupt

    module = grid if searching else batches
    original = module.wait
    monkeypatch.setattr(module, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert list(calls(base).values()) == [1] and not list(Path(base.output_dir).glob("*/metrics.json"))
    assert set(collect(base.output_dir).state) == {"waiting"}
    first = [*calls(base)][0]
    assert go().state.tolist() == ["done", "done"] and calls(base)[first] == 2 and len(calls(base)) == 2


def test_two_batches_in_one_folder(base):
    with locked(Path(base.output_dir)), pytest.raises(ClipsentError, match="another process"):
        run_many(seeds(base, 1), base.output_dir)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jobs": 0}, "--jobs 0: must be greater than or equal to 1"),
        ({"time_limit": -1}, "--time-limit -1: must be greater than or equal to 0"),
        ({"ray_address": "127.0.0.1:1"}, "--ray-address: needs --engine ray"),
    ],
)
def test_impossible_ways_of_execution(values, message):
    with pytest.raises(ClipsentError, match=message):
        Execution(**values)


def test_an_impossible_value_is_refused_before_anything_starts(base):
    with pytest.raises(ClipsentError, match="--batch-size 0: must be greater"):
        expand({"batch_size": [8, 0]}, base)
    with pytest.raises(ClipsentError, match="setting learning_rate: does not exist"):
        expand({"learning_rate": [1]}, base)


NONE = dict.fromkeys(grid.GRID_AXES)


def test_singular_flags_count_as_axes_of_one_value_also_where_they_equal_a_default():
    default = grid_axes(GridConfig(), NONE, ())
    assert default["lr"] == [1e-5, 2e-5] and default["batch_size"] == [4, 8]
    plain = TrainConfig()
    chosen = grid_axes(GridConfig(batch_size=plain.batch_size, weight_decay=plain.weight_decay), NONE, ())
    assert chosen == default | {"batch_size": [plain.batch_size], "weight_decay": [plain.weight_decay]}
    given = NONE | {"batch_size": "16"}
    chosen = grid_axes(GridConfig(lr=3e-5), given, ["head-variant=ln,mlp"])
    assert chosen["lr"] == [3e-5] and chosen["batch_size"] == [16] and chosen["head_variant"] == ["ln", "mlp"]


@pytest.mark.parametrize(
    ("given", "further", "message"),
    [
        ({"lr": "1e-5;2e-5"}, [], "--lrs '1e-5;2e-5'"),
        ({"lr": ""}, [], "--lrs '': no values"),
        ({}, ["head_variant"], "write field=value"),
        ({}, ["seed=1", "seed=2"], "given twice"),
        ({"lr": "1e-5"}, ["lr=2e-5"], "given twice"),
    ],
)
def test_axes_that_cannot_be_meant(given, further, message):
    with pytest.raises(ClipsentError, match=message):
        grid_axes(GridConfig(), NONE | given, further)


def plan_of(root, *words):
    from clipsent_nb.cli import parse

    words = ["--dry-run", "--project-root", str(root), "--model-name", "tiny_clip", *words]
    return parse("grid", words)().splitlines()[1:-1]


def test_every_flag_that_was_typed_counts(sample):
    single = "--lr 2e-5 --batch-size 8 --weight-decay 1e-4 --dropout 0.1".split()
    assert len(plan_of(sample, *single)) == 1
    axes = ["--axes", "seed=1,2,3", "--axes", "head_variant=ln,mlp"]
    assert len(plan_of(sample, *single, *axes)) == len(plan_of(sample, *single, "--axes", axes[1], axes[3])) == 6
    with pytest.raises(ClipsentError, match="--lrs: is empty"):
        plan_of(sample, "--lrs", "")


@pytest.mark.parametrize("text", ["", " , ", "1:2:3", "nan:1", "true:false"])
def test_axes_that_are_none(text):
    with pytest.raises(ClipsentError):
        read_axis("lr", text)


def test_the_fingerprint_knows_settings_and_data_but_not_places(base, sample):
    def mark(**changes):
        return fingerprint(identity(replace(base, **changes)))

    before = mark()
    assert mark(output_dir=Path("elsewhere"), num_workers=3) == before != mark(seed=1)
    split = sample / "outputs/splits/train.csv"
    text = split.read_text(encoding="utf-8")
    split.write_text(text.replace(",positive,", ",neutral,", 1), encoding="utf-8")
    assert mark() != before
    split.write_text(text, encoding="utf-8")


def test_models_in_folders_with_long_and_foreign_names(base, sample):
    long = sample / "/".join(["模型" * 20, "很长的名字" * 12])
    shutil.copytree(sample / "tiny_clip", long)
    axes = {"model_name": ["tiny_clip", str(long.relative_to(sample))], "seed": [1, 2]}
    configs = expand(axes, base)
    assert all(len(config.output_dir.name) <= 80 for config in configs)
    table = run_many(configs, base.output_dir)
    assert (table.state == "done").all() and len(set(table.run)) == 4


def test_tables_of_two_grids_whose_names_differ_after_a_dot(base):
    results = []
    for version in ("2", "3"):
        config = replace(base, output_dir=base.output_dir.with_name(f"g_v1.{version}"))
        results.append(grid.grid(config, lrs="1e-4", axes=[f"seed={version}"], report=False))
    assert [result.csv.name for result in results] == ["g_v1.2.csv", "g_v1.3.csv"]
    assert [pd.read_csv(result.csv).val_f1_macro[0] for result in results] == [0.002, 0.003]
    assert sorted(path.name for path in base.output_dir.parent.glob("*.json")) == ["g_v1.2.json", "g_v1.3.json"]


def test_a_search_goes_on_after_an_interruption_and_stops_runs_that_fall_behind(base):
    axes, base = {"seed": Range(100, 900)}, replace(base, epochs=3)
    first = run_search(axes, base, 5, Execution(jobs=2))
    assert len(first) == 5 and (first.state == "done").sum() >= 4
    more = run_search(axes, base, 8, Execution(jobs=2))
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{base.output_dir / 'optuna.db'}")
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials) == 8
    assert set(first.folder) <= set(more.folder) == {trial.user_attrs["folder"] for trial in study.trials}
    assert len(more) >= 6 and list(calls(base).values()) == [1] * len(more)  # a value that is proposed again is found
    assert more.val_f1_macro.max() == more.val_f1_macro[0]


def test_a_search_tries_a_failed_run_again_and_counts_it_once(base):
    axes = {"seed": [13, 66]}
    table = run_search(axes, base, 4)
    assert "failed" in set(table.state)
    (base.output_dir / "mended").touch()
    table = run_search(axes, base, 4)
    assert dict(zip(table.seed, table.state, strict=True))[13] == "done"


def test_trials_that_were_going_on_at_a_kill_are_tried_again_once(tmp_path):
    study = open_study(tmp_path / "study.db", "study")
    values = study.ask().suggest_float("x", 0, 1)
    for _ in range(3):
        study = open_study(tmp_path / "study.db", "study")
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert study.ask().suggest_float("x", 0, 1) == values


def test_runs_are_called_by_what_varies():
    assert name_runs([{"lr": 1e-3, "batch_size": 8}, {"lr": 1e-4, "batch_size": 8}]) == [
        "lr 0.001, batch 8",
        "lr 0.0001, batch 8",
    ]
    assert name_runs([{"lr": 0.00012341}, {"lr": 0.00012342}]) == ["lr 0.00012341", "lr 0.00012342"]


def test_papermill_values_reach_the_executed_notebook_also_after_cleaning(sample, tmp_path):
    from clipsent_nb.report import template

    copy = tmp_path / "repository"
    (copy / "nbs").mkdir(parents=True)
    (copy / "pyproject.toml").write_bytes((Path(__file__).parents[1] / "pyproject.toml").read_bytes())
    (copy / "nbs/run.ipynb").write_bytes(template("run").read_bytes())
    binaries = Path(sys.executable).parent
    subprocess.run([binaries / "nbdev-clean", "--fname", "nbs/run.ipynb"], cwd=copy, check=True, capture_output=True)
    values = {"lr": 0.5, "epochs": 1, "project_root": str(sample), "output_dir": "outputs/optimize/papermill"}
    flags = [text for name, value in values.items() for text in ("-p", name, str(value))]
    command = [binaries / "papermill", "--no-progress-bar", "nbs/run.ipynb", "out.ipynb", *flags]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    executed = nbformat.read(copy / "out.ipynb", 4)
    [injected] = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.tags]
    assert "lr = 0.5" in injected.source
    assert json.loads((sample / "outputs/optimize/papermill/config.json").read_text())["lr"] == 0.5


def test_papermill_knows_every_setting_of_a_run():
    from papermill import inspect_notebook

    from clipsent_nb.report import template

    known = inspect_notebook(str(template("run")))
    assert set(known) == {field.name for field in fields(TrainConfig)}
    assert known["lr"]["inferred_type_name"] == "float" and "Learning rate" in known["lr"]["help"]


@pytest.mark.slow
def test_ray_gives_the_scores_of_local_processes(sample):
    pytest.importorskip("ray")
    base = sample_config(sample, epochs=1, output_dir=Path("outputs/optimize/local"))
    tables = []
    for engine in ("local", "ray"):
        configs = expand({"lr": [1e-4, 1e-3]}, replace(base, output_dir=Path(f"outputs/optimize/{engine}")))
        batch = Execution(engine=engine, jobs=2, threads=1)
        tables.append(run_many(configs, sample / f"outputs/optimize/{engine}", batch))
    assert (tables[0].state == "done").all()
    pd.testing.assert_series_equal(tables[0].val_f1_macro, tables[1].val_f1_macro)
    np.testing.assert_array_equal(tables[0].lr, tables[1].lr)


def test_weights_of_runs_named_by_the_caller_stay(base):
    run_many(seeds(base, 1, 2), base.output_dir, Execution(keep_best=0), kept=lambda folder: "seed=1" in folder.name)
    assert [path.parent.name[:6] for path in Path(base.output_dir).glob("*/best.pt")] == ["seed=1"]


def test_a_hub_that_refuses_is_asked_once_for_all_folds(base, monkeypatch):
    asked = []

    def refuse(config):
        asked.append(config.model_name)
        raise ClipsentError("--model-name someone/clip", "the hub does not deliver it")

    monkeypatch.setattr(batches, "find_encoder", refuse)
    folds = [replace(base, model_name="someone/clip", train_csv=Path(f"{name}.csv")) for name in "abc"]
    with pytest.raises(ClipsentError, match="the hub does not deliver it"):
        prepare(folds)
    assert asked == ["someone/clip"]


def test_runs_take_no_more_threads_than_the_user_allows(monkeypatch):
    monkeypatch.setattr(batches, "worker_count", lambda wanted: 8)
    for told, jobs, threads in (("", 2, 4), ("1", 2, 1), ("16", 2, 4), ("0", 2, 4), ("2,1", 1, 8), ("3", 1, 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert Execution(jobs=jobs).threads_each == threads
    assert Execution(threads=5).threads_each == 5
