"""A tracker gets what history.csv and metrics.json hold, if it is asked for, and nothing of this machine."""

import json
import os
import subprocess
import sys

import pytest

from clipsent_nb import tracking
from clipsent_nb.config import TrainConfig
from clipsent_nb.files import ClipsentError
from clipsent_nb.tracking import tracked

ENTRY = {"epoch": 1, "train_loss": 0.9, "val_f1_macro": 0.5}


def test_a_library_that_is_missing_is_named_before_training(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ClipsentError, match=r"--tracker wandb: .*pip install clipsent_nb\[wandb\]"):
        with tracked(TrainConfig(tracker="wandb")):
            pass


def test_tensorboard_gets_curves_settings_and_final_scores_without_paths(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(tracker="tensorboard", project_root=tmp_path, model_name=tmp_path / "clip", output_dir="a/run")
    with tracked(config) as send:
        send(ENTRY)
        send(ENTRY | {"epoch": 2, "val_f1_macro": 0.6})
        (tmp_path / "a/run").mkdir(parents=True)
        (tmp_path / "a/run/metrics.json").write_text(json.dumps({"epochs": 2, "best_val_acc": 0.7, "leaked": False}))
    folder = tmp_path / "outputs/trackers/run"
    events = EventAccumulator(str(folder)).Reload()
    assert [(one.step, round(one.value, 3)) for one in events.Scalars("val_f1_macro")] == [(1, 0.5), (2, 0.6)]
    assert events.Scalars("final/best_val_acc")[0].value == pytest.approx(0.7)
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert any(b"head_variant" in content for content in files)
    assert not any(str(tmp_path).encode() in content for content in files)


SEND = """
import sys
from pathlib import Path
from clipsent_nb.config import TrainConfig
from clipsent_nb.tracking import tracked

for run in ("a", "b"):
    with tracked(TrainConfig(tracker=sys.argv[1], project_root=Path(sys.argv[2]), output_dir=f"outputs/{run}")) as send:
        send({"epoch": 1, "val_f1_macro": 0.5})
        send({"epoch": 2, "val_f1_macro": 0.6})
"""


def send_two_runs(library: str, folder) -> None:
    "In a process of its own, as these libraries keep threads and settings."
    offline = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio"), "HOME": str(folder)}
    subprocess.run([sys.executable, "-c", SEND, library, folder], check=True, cwd=folder, env=os.environ | offline)


@pytest.mark.slow
def test_mlflow_gets_two_runs_of_one_project_and_nothing_of_this_machine(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    send_two_runs("mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/trackers/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("clipsent").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]
    for run in runs:
        values = client.get_metric_history(run.info.run_id, "val_f1_macro")
        assert [(one.step, one.value) for one in values] == [(1, 0.5), (2, 0.6)]
        said = json.dumps([run.data.tags, run.data.params])
        assert run.data.tags["mlflow.user"] == "" and str(tmp_path) not in said and sys.executable not in said


@pytest.mark.slow
def test_wandb_gets_runs_and_nothing_of_this_machine(tmp_path):
    pytest.importorskip("wandb")
    send_two_runs("wandb", tmp_path)
    sent = [path.read_bytes() for path in (tmp_path / "outputs/trackers/wandb").glob("offline-run-*/run-*.wandb")]
    assert len(sent) == 2 and all(b"val_f1_macro" in content for content in sent)
    assert not any(hidden.encode() in content for content in sent for hidden in (str(tmp_path), sys.executable))


@pytest.mark.slow
def test_wandb_without_an_account_is_refused_in_a_line(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ClipsentError, match="--tracker wandb: .*; run `wandb login`, or set WANDB_MODE=offline"):
        tracking.open_tracker(TrainConfig(tmp_path, tracker="wandb"))


@pytest.mark.slow
def test_trackio_gets_two_runs_of_one_project(tmp_path):
    pytest.importorskip("trackio")
    send_two_runs("trackio", tmp_path)
    kept = [path.read_bytes() for path in (tmp_path / "trackio").rglob("*clipsent*.db")]
    assert kept and b"val_f1_macro" in kept[0] and str(tmp_path).encode() not in kept[0]


@pytest.mark.slow
def test_a_run_sends_the_rows_of_its_history(tmp_path, monkeypatch):
    from unittest.mock import MagicMock

    from clipsent_nb.train import sample_run

    tracker = MagicMock()
    monkeypatch.setattr(tracking, "open_tracker", lambda config: tracker)
    run = sample_run(tmp_path / "sample", epochs=2, tracker="wandb")
    *epochs, final = [call.args[0] for call in tracker.log.call_args_list]
    assert [one["val_f1_macro"] for one in epochs] == run.history.val_f1_macro.tolist()
    assert final["final/best_val_f1_macro"] == run.metrics["best_val_f1_macro"] and tracker.finish.called
