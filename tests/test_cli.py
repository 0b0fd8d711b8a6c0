"""What the command line takes, how its mistakes are told, and that it always ends."""

import os
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import pytest

from clipsent_nb.cli import COMMANDS, bind_values, load, main, read_flags, settable
from clipsent_nb.files import ClipsentError, Workspace
from clipsent_nb.sample import make_sample


def search(
    lr: float,  # Learning rate
    axes: tuple[str, ...] = (),  # Values to try
    shuffle: bool = True,  # Whether to
    start: int | None = None,  # Where
    from_: str = "",  # What
    workspace: Workspace = Workspace(),
) -> tuple:
    "A command."
    return lr, axes, shuffle, start, from_, workspace


def read(*words: str) -> dict[str, object]:
    return bind_values(search, read_flags(words, settable(search)))


def test_a_list_that_is_given_twice_adds_up():
    assert read("--lr", "1", "--axes", "seed=1,2", "b=3", "--axes", "c=4")["axes"] == ("seed=1,2", "b=3", "c=4")


def test_values_become_what_they_mean():
    found = read("--lr=1e-3", "--no-shuffle", "--start", "-4", "--from", "mine", "--max-bad", "5%", "--strict")
    assert (found["lr"], found["shuffle"], found["start"], found["from_"]) == (1e-3, False, -4, "mine")
    assert found["workspace"] == Workspace(max_bad="5%", strict=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "1", "--lr", "2"], "--lr: is given twice"),
        (["--lr", ""], "--lr: is empty"),
        (["--lr="], "--lr: is empty"),
        (["--lr"], "--lr: has no value"),
        (["--lr", "--shuffle"], "--lr: has no value"),
        (["--axes", "--lr", "1"], "--axes: has no value"),
        (["--lrs", "1"], "--lrs: no such flag; did you mean --lr?"),
        (["--lr", "1", "2"], "'2': belongs to no flag"),
        (["--lr", "fast"], "--lr fast: must be a number"),
        (["--lr", "1", "--shuffle=no"], "--shuffle=no: takes no value"),
        ([], "--lr: is needed"),
    ],
)
def test_mistakes_name_the_flag(words, message):
    with pytest.raises(ClipsentError) as caught:
        read(*words)
    assert message in str(caught.value)


def test_mistakes_on_the_command_line_are_one_line(capsys):
    for words in (["splits", "--val-rat", "0.1"], ["splits", "--seed", "x"], ["splits", "--seed", ""], ["split"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def run(*words: object, **environment: str) -> subprocess.CompletedProcess:
    "`clipsent` in a process of its own."
    command = [sys.executable, "-m", "clipsent_nb.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=100)


def test_a_console_without_the_signs_of_a_path_ends_no_command(tmp_path):
    root = make_sample(tmp_path / "数据")
    done = run("splits", "--project-root", root, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0 and b"\\u6570" in done.stdout, done.stderr


def test_a_cluster_pod_is_no_reason_to_wait(tmp_path):
    pod = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29541"}
    done = run("splits", "--project-root", tmp_path, **pod)
    assert done.returncode == 2 and b"no such folder" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM")
def test_sigterm_ends_a_process_that_waits_outside_of_python(tmp_path):
    pod = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29542"}
    code = (
        "import torch.distributed as d\nfrom clipsent_nb.cli import ending_in_order\n"
        "with ending_in_order():\n print('up', flush=True)\n d.init_process_group('gloo')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **pod}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"up\n"
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM, 1)


def test_the_package_offers_its_names_at_no_cost():
    code = "import sys, clipsent_nb; assert not {'numpy', 'torch'} & set(sys.modules); print(dir(clipsent_nb))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("Classifier", "TrainConfig", "fit", "make_splits", "predict_file"))


def test_a_package_that_is_not_whole_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "clipsent_nb.badcases", None)
    assert main(["mine", "--project-root", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "clipsent_nb.badcases: cannot be imported" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_command(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: clipsent {name}" in shown and Path.cwd().as_posix() not in shown


def test_a_report_is_written_unless_somebody_says_no():
    parameters = [signature(load(name)).parameters for name in COMMANDS]
    defaults = [found["report"].default for found in parameters if "report" in found]
    assert len(defaults) >= 6 and all(default is True for default in defaults)
