"""Batches of runs: what is repeated, what is not, and what is left when things go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from clipsent_nb import grid
from clipsent_nb.files import ClipsentError, write_json
from clipsent_nb.grid import (
    Batch,
    Cell,
    Range,
    collect,
    drop_weights,
    expand,
    fingerprint,
    prepare,
    read_axis,
    run_many,
)
from clipsent_nb.runs import TrainConfig, identity
from clipsent_nb.train import sample_config, sample_run

FOLDER = Path("outputs/optimize/batch")
# What stands for the process of a run: it writes a finished run whose score is its seed, or does what its seed says.
WORKER = """
import json, os, sys, time
from pathlib import Path
job = json.loads(sys.stdin.readline())
folder, seed = Path(job["folder"]), job["parameters"]["seed"]
with open(folder / "calls.txt", "a") as calls:
    calls.write("x")
if seed == 13 and not (folder.parent / "mended").exists():
    print(json.dumps({"reason": "guid 7: broken\\npicture"})); sys.exit(2)
if seed == 66:
    os.kill(os.getpid(), 9)
if seed == 77:
    sys.exit(0)
epochs = 3 if seed > 99 else 1
for epoch in range(1, epochs + 1):
    lines = ["epoch,val_f1_macro", *(f"{n},{seed / 1000}" for n in range(1, epoch + 1))]
    (folder / "history.tmp").write_text("\\n".join(lines))
    os.replace(folder / "history.tmp", folder / "history.csv")
    time.sleep(0.5 if epochs > 1 else 0)
names = "acc f1_macro precision_macro recall_macro f1_negative f1_neutral f1_positive nll ece".split()
metrics = {f"best_val_{name}": seed / 1000 for name in names}
metrics |= {"best_val_f1_macro_interval": [0, 1], "leaked": seed == 50}
costs = "best_epoch epochs train_time_sec pairs_per_sec params_million trainable_params_million".split()
metrics |= dict.fromkeys(costs, 1)
identity = json.loads((folder.parent / "identities.json").read_text())[str(seed)]
(folder / "config.json").write_text(json.dumps({"identity": identity}))
(folder / "best.pt").write_text("weights")
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid") / "sample"
    sample_run(root, epochs=1)
    return root


@pytest.fixture
def base(sample, tmp_path, monkeypatch):
    def start(job, log, environment):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=output)
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        return process

    monkeypatch.setattr(grid, "start_report", start)
    monkeypatch.setattr(grid, "prepare", lambda configs, progress: None)
    return sample_config(sample, output_dir=tmp_path / "batch")


def seeds(base, *values):
    configs = expand({"seed": values}, base)
    folder = Path(base.output_dir)
    folder.mkdir(exist_ok=True)
    write_json(folder / "identities.json", {str(config.seed): identity(config) for config in configs})
    return configs


def calls(base):
    return {path.parent.name.split()[0]: len(path.read_text()) for path in Path(base.output_dir).glob("*/calls.txt")}


def test_failures_stop_no_other_run_and_are_tried_again(base):
    configs = seeds(base, 1, 13, 66, 77, 2)
    table = run_many(configs, base.output_dir, Batch(jobs=2), progress=False)
    assert table.seed.tolist()[:2] == [2, 1] and table.state.tolist() == ["done", "done", "failed", "failed", "failed"]
    reasons = dict(zip(table.seed, table.reason, strict=True))
    assert reasons[13] == "guid 7: broken picture"
    assert "signal 9" in reasons[66] and "without a result" in reasons[77]
    (Path(base.output_dir) / "mended").touch()
    table = run_many(configs, base.output_dir, Batch(), progress=False)
    assert table.state.value_counts().to_dict() == {"done": 3, "failed": 2}
    assert calls(base) == {"seed=1": 1, "seed=2": 1, "seed=13": 2, "seed=66": 2, "seed=77": 2}


def test_after_so_many_failures_no_further_run_is_started(base):
    table = run_many(seeds(base, 13, 1, 2), base.output_dir, Batch(max_failures=1), progress=False)
    assert table.state.value_counts().to_dict() == {"waiting": 2, "failed": 1} and calls(base) == {"seed=13": 1}


def test_only_the_best_keep_their_weights_and_a_leaked_run_is_none_of_them(base):
    table = run_many(seeds(base, 3, 50, 1, 2), base.output_dir, Batch(keep_best=2), progress=False)
    assert table.seed.tolist() == [3, 2, 1, 50]
    kept = [path.parent.name.split()[0] for path in Path(base.output_dir).glob("*/best.pt")]
    assert sorted(kept) == ["seed=2", "seed=3"]


def test_a_wider_grid_finds_the_runs_of_a_narrower_one(base):
    first = seeds(base, 1, 2)
    run_many(first, base.output_dir, progress=False)
    wider = expand({"dropout": [0.15, 0.3], "seed": [1, 2]}, base)
    assert [config.output_dir for config in wider[:2]] == [config.output_dir for config in first]
    planned = run_many(wider, base.output_dir, Batch(dry_run=True), progress=False)
    assert planned.state.tolist() == ["done", "done", "waiting", "waiting"]
    assert "min" in planned.attrs["estimate"] and calls(base) == {"seed=1": 1, "seed=2": 1}


def test_a_killed_batch_goes_on_where_it_was(base, tmp_path):
    configs = seeds(base, 1, 2)
    running = Cell(configs[1], state="running")
    grid.record([Cell(configs[0]), running], base.output_dir)
    assert collect(base.output_dir).state.tolist() == ["waiting", "waiting"]
    assert run_many(configs, base.output_dir, progress=False).state.tolist() == ["done", "done"]


def test_interrupting_stops_the_processes(base, monkeypatch):
    configs = seeds(base, 100)
    monkeypatch.setattr(grid.Screen, "refresh", lambda screen: (_ for _ in ()).throw(KeyboardInterrupt))
    handles = []
    monkeypatch.setattr(
        grid.LocalProcesses, "stop", lambda engine, cell: (handles.append(cell.handle), cell.handle.kill())
    )
    with pytest.raises(KeyboardInterrupt):
        run_many(configs, base.output_dir, progress=False)
    assert len(handles) == 1 and handles[0].wait() != 0
    assert collect(base.output_dir).state.tolist() == ["waiting"]


def test_two_batches_in_one_folder(base, monkeypatch):
    monkeypatch.setattr("clipsent_nb.train.LOCK_PATIENCE", 0.1)
    configs = seeds(base, 1)
    with grid.run_lock(Path(base.output_dir)), pytest.raises(ClipsentError, match="another process"):
        run_many(configs, base.output_dir, progress=False)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Batch(jobs=0), "--jobs 0: must be at least 1"),
        (Batch(time_limit=-1), "--time-limit -1: must be at least 0"),
        (Batch(ray_address="127.0.0.1:1"), "--ray-address: needs --engine ray"),
    ],
)
def test_impossible_batches(base, batch, message):
    with pytest.raises(ClipsentError, match=message):
        run_many(seeds(base, 1), base.output_dir, batch, progress=False)


def test_an_impossible_value_is_refused_before_anything_starts(base):
    with pytest.raises(ClipsentError, match="--batch-size 0: must be at least 1"):
        expand({"batch_size": [8, 0]}, base)
    with pytest.raises(ClipsentError, match="setting learning_rate: does not exist"):
        expand({"learning_rate": [1]}, base)


def test_singular_flags_count_as_axes_of_one_value():
    given = {name: None for name in grid.GRID_AXES}
    default = grid.grid_axes(grid.TrainConfig(), given, ())
    assert default["lr"] == [1e-5, 2e-5] and default["batch_size"] == [4, 8]
    chosen = grid.grid_axes(grid.TrainConfig(lr=3e-5), given | {"batch_size": "16"}, ["head-variant=ln,mlp"])
    assert chosen["lr"] == [3e-5] and chosen["batch_size"] == [16] and chosen["head_variant"] == ["ln", "mlp"]
    with pytest.raises(ClipsentError, match="--lrs '1e-5;2e-5'"):
        grid.grid_axes(grid.TrainConfig(), given | {"lr": "1e-5;2e-5"}, ())
    with pytest.raises(ClipsentError, match="write field=value"):
        grid.grid_axes(grid.TrainConfig(), given, ["head_variant"])


@pytest.mark.parametrize("text", ["", " , ", "1:2:3", "nan:1", "true:false"])
def test_axes_that_are_none(text):
    with pytest.raises(ClipsentError):
        read_axis("lr", text)


def test_the_fingerprint_knows_settings_and_data_but_not_places(base, sample):
    assert fingerprint(base) == fingerprint(replace(base, output_dir=Path("elsewhere"), num_workers=3))
    assert fingerprint(base) != fingerprint(replace(base, seed=1))
    split = sample / "outputs/splits/train.csv"
    before, text = fingerprint(base), split.read_text()
    split.write_text(text.replace(",positive,", ",neutral,", 1))
    assert fingerprint(base) != before
    split.write_text(text)


def test_a_search_goes_on_after_an_interruption_and_stops_runs_that_fall_behind(base):
    axes, base = {"seed": Range(100, 900)}, replace(base, epochs=3)
    Path(base.output_dir).mkdir()
    names = {str(seed): identity(replace(base, seed=seed)) for seed in range(100, 901)}
    write_json(Path(base.output_dir) / "identities.json", names)
    first = grid.run_search(axes, base, 5, Batch(jobs=2), progress=False)
    assert len(first) == 5 and (first.state == "done").sum() >= 4
    more = grid.run_search(axes, base, 8, Batch(jobs=2), progress=False)
    assert len(more) == 8 and set(first.folder) <= set(more.folder)
    counts = list(calls(base).values())
    assert counts == [1] * 8
    assert more.val_f1_macro.max() == more.val_f1_macro[0]


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
        batch = Batch(engine=engine, jobs=2, threads=1)
        tables.append(run_many(configs, sample / f"outputs/optimize/{engine}", batch, progress=False))
    assert (tables[0].state == "done").all()
    pd.testing.assert_series_equal(tables[0].val_f1_macro, tables[1].val_f1_macro)
    np.testing.assert_array_equal(tables[0].lr, tables[1].lr)


def test_weights_of_runs_named_by_the_caller_stay(base):
    configs = seeds(base, 1, 2)
    run_many(configs, base.output_dir, Batch(keep_best=2), progress=False)
    cells = [Cell(config, state="done") for config in configs]
    drop_weights(cells, 0, kept=lambda cell: "seed=1" in cell.folder.name)
    assert [cell.folder.joinpath("best.pt").exists() for cell in cells] == [True, False]


def test_a_killed_report_process_leaves_no_kernel(tmp_path):
    import psutil

    from clipsent_nb.report import start_report

    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    marker = tmp_path / "pid"
    code = f"import os, time, pathlib; pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(60)"
    cell = nbformat.v4.new_code_cell(code)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "sleeps.ipynb")
    job = {"source": str(tmp_path / "sleeps.ipynb"), "folder": str(tmp_path), "parameters": {}, "minutes": 0}
    process = start_report(job, tmp_path / "log.txt", {})
    deadline = time.monotonic() + 60
    while not (marker.is_file() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    pid = int(marker.read_text())
    process.wait()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_a_hub_that_refuses_is_asked_once_for_all_folds(base, monkeypatch):
    asked = []

    def refuse(model, offline):
        asked.append(model)
        raise ClipsentError("--model-name someone/clip", "the hub does not deliver it")

    monkeypatch.setattr(grid, "fetch_encoder", refuse)
    folds = [replace(base, model_name="someone/clip", train_csv=Path(f"{name}.csv")) for name in "abc"]
    with pytest.raises(ClipsentError, match="the hub does not deliver it"):
        prepare(folds, progress=False)
    assert asked == ["someone/clip"]
