"""Reports: which process makes them, what it keeps from one to the next, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from clipsent_nb.files import ClipsentError
from clipsent_nb.report import execute, kept_kernels, write_page

posix = pytest.mark.skipif(os.name == "nt", reason="made with POSIX calls")


@pytest.fixture
def notebook(tmp_path):
    "Writes notebooks whose first cell holds the parameters."

    def write(*sources: str) -> Path:
        cells = [new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
        spec = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
        path = tmp_path / f"source {len(list(tmp_path.glob('source*')))}.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata=spec), path)
        return path

    return write


def printed(page: Path) -> str:
    "What the last cell of an executed notebook printed."
    return nbformat.read(page.with_suffix(".ipynb"), 4).cells[-1].outputs[0].text


LOOK = """
import json, locale, logging, os, random, signal, sys, threading, warnings
import matplotlib, matplotlib.pyplot as plt, numpy as np, pandas as pd, psutil, seaborn as sns, torch
def look():
    seen = {"names": sorted(globals()), "cwd": os.getcwd(), "path": sys.path, "environment": dict(os.environ)}
    seen |= {"warnings": [str(one) for one in warnings.filters], "figures": plt.get_fignums()}
    seen |= {"rc": {name: str(value) for name, value in matplotlib.rcParams.items()}, "ion": plt.isinteractive()}
    seen |= {"colours": [matplotlib.colors.to_hex(one) for one in "bgrmyck"], "palette": sns.color_palette().as_hex()}
    seen |= {"options": str({name: getattr(pd.options.display, name) for name in dir(pd.options.display) if "_" in name})}
    seen |= {"torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()]}
    seen |= {"deterministic": torch.are_deterministic_algorithms_enabled()}
    seen |= {"log": [logging.root.level, str(logging.root.handlers)], "cell": get_ipython().execution_count}
    seen |= {"threads": sorted(one.name for one in threading.enumerate()), "children": psutil.Process().children()}
    return seen
print(json.dumps({"pid": os.getpid(), "memory": psutil.Process().memory_info().rss, "seen": look()}))
print(json.dumps([random.random(), np.random.rand(), torch.rand(1, dtype=torch.float64).item()]))
"""
LEAVE = """
leftover = np.ones(400_000_000, dtype=np.uint8)
np.random.seed(1); random.seed(1); torch.manual_seed(1)
os.environ["LEFT"] = "here"; del os.environ["PATH"]; sys.path.insert(0, "left"); os.chdir("/")
warnings.simplefilter("error"); logging.root.setLevel("DEBUG"); logging.root.addHandler(logging.NullHandler())
plt.figure(); plt.ioff(); sns.set_theme(font_scale=3, palette="dark", color_codes=True)
matplotlib.rcParams["font.size"] = 40; pd.set_option("display.max_columns", 3)
torch.set_num_threads(3); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
torch.use_deterministic_algorithms(True)
print("left")
"""


def test_a_notebook_finds_in_a_kept_kernel_what_it_finds_in_a_new_one(notebook, tmp_path):
    clean, dirty = notebook(LOOK), notebook(LOOK, LEAVE)
    with kept_kernels():
        assert printed(execute(dirty, tmp_path / "dirty", {})) == "left\n"
        after, drawn = map(json.loads, printed(execute(clean, tmp_path / "after", {})).splitlines())
        again, drawn_again = map(json.loads, printed(execute(clean, tmp_path / "again", {})).splitlines())
    fresh, _ = map(json.loads, printed(execute(clean, tmp_path / "fresh", {})).splitlines())
    assert after["pid"] == again["pid"] != fresh["pid"]
    for name, value in fresh["seen"].items():
        assert after["seen"][name] == again["seen"][name] == value, name
    assert not set(drawn) & set(drawn_again)  # unseeded numbers are not those of a seed, nor the same again
    assert after["memory"] < fresh["memory"] + 100_000_000


def test_tables_are_as_wide_as_in_a_notebook_and_not_as_in_a_terminal(notebook, tmp_path):
    source = notebook("import pandas\nprint(pandas.get_option('display.max_columns'))")
    assert printed(execute(source, tmp_path / "wide", {})) == "20\n"


PID = "import os; print(os.getpid())"


@pytest.mark.parametrize(
    "leaving",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "import sys; sys.modules['hoard'] = bytearray(600_000_000)",
    ],
)
def test_after_what_cannot_be_put_back_the_next_notebook_gets_a_new_process(notebook, tmp_path, leaving):
    with kept_kernels():
        first = int(printed(execute(notebook(leaving, PID), tmp_path / "first", {})))
        second = int(printed(execute(notebook(PID), tmp_path / "second", {})))
    assert first != second and not psutil.pid_exists(first) and not psutil.pid_exists(second)


@pytest.mark.parametrize("how", ["fails", "late", "killed", pytest.param("stopped", marks=pytest.mark.slow)])
def test_after_a_notebook_that_did_not_end_well_the_next_one_gets_a_new_process(notebook, tmp_path, how):
    bad = {"fails": "1 / 0", "killed": f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})"}
    options = {"late": {"minutes": 0.02}, "stopped": {"watch": lambda: "others are better"}}.get(how, {})
    messages = {"fails": "division by zero", "late": "over its time limit of 0.02 minutes", "killed": "its process"}
    with kept_kernels():
        first = int(printed(execute(notebook(PID), tmp_path / "first", {})))
        with pytest.raises(ClipsentError, match=messages.get(how, "others are better")):
            execute(notebook(bad.get(how, "import time; time.sleep(60)")), tmp_path / "bad", {}, **options)
        second = int(printed(execute(notebook(PID), tmp_path / "second", {})))
    assert first != second and not psutil.pid_exists(first)


def test_notebooks_of_several_threads_have_a_process_each(notebook, tmp_path):
    source, pids = notebook("import time; time.sleep(1)", PID), []

    def run(name: str) -> None:
        pids.append(printed(execute(source, tmp_path / name, {})))

    with kept_kernels():
        for _ in range(2):
            threads = [threading.Thread(target=run, args=[f"{len(pids)} {name}"]) for name in "ab"]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
    assert len(set(pids[:2])) == 2 and set(pids[2:]) == set(pids[:2])


def test_another_number_of_threads_needs_another_process(notebook, tmp_path):
    source = notebook("import os; print(os.environ['OMP_NUM_THREADS'], os.getpid())")
    with kept_kernels():
        seen = [printed(execute(source, tmp_path / "out", {}, threads=threads)).split() for threads in (3, 5, 5)]
    assert [row[0] for row in seen] == ["3", "5", "5"] and seen[0][1] != seen[1][1] == seen[2][1]


def test_an_error_of_a_notebook_keeps_its_parts(notebook, tmp_path):
    raising = "from clipsent_nb.files import ClipsentError\nraise ClipsentError('C: drive', 'a: b; c', '', 'try: d')"
    with pytest.raises(ClipsentError) as caught:
        execute(notebook(raising), tmp_path / "out", {})
    assert caught.value.args == ("C: drive", "a: b; c", "", "try: d")


def test_a_crash_is_told_with_the_last_words_of_the_process(notebook, tmp_path):
    code = "import os; os.write(2, b'the very last words'); os._exit(7)"
    with pytest.raises(ClipsentError, match=r"report.ipynb: its process ended with status 7"):
        execute(notebook(code), tmp_path / "out", {})


@posix
def test_a_report_is_made_by_this_python_and_not_by_another_of_that_name(notebook, tmp_path, monkeypatch):
    spec = {"argv": ["/bin/false", "-f", "{connection_file}"], "display_name": "other", "language": "python"}
    (tmp_path / "kernels/python3").mkdir(parents=True)
    (tmp_path / "kernels/python3/kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert (
        printed(execute(notebook("import sys; print(sys.executable)"), tmp_path / "out", {})).strip() == sys.executable
    )


def test_a_report_is_made_where_the_temporary_folder_has_a_long_name(notebook, tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert printed(execute(notebook("print(x)"), tmp_path / "out", {"x": 2})) == "2\n"
    assert list(long.iterdir()) == []


def test_a_report_needs_no_home_that_can_be_written(notebook, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, os.devnull)
    assert printed(execute(notebook("print(x)"), tmp_path / "out", {"x": 2})) == "2\n"


DRIVER = """
from pathlib import Path
from clipsent_nb import cli, report
def command(*words):
    for name in ("first", "second"):
        report.execute({source!r}, Path({folder!r}) / name, {{}})
cli.COMMANDS = {{"slow": cli.Command("report", "execute", "")}}
cli.parse = lambda name, words: command
raise SystemExit(cli.main(["slow"]))
"""


def start(source: Path, folder: Path) -> psutil.Popen:
    "A `clipsent` command that executes the notebook twice."
    program = DRIVER.format(source=str(source), folder=str(folder))
    log = open(folder / "log.txt", "wb")
    restore = {} if os.name == "nt" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = psutil.Popen([sys.executable, "-c", program], stdout=log, stderr=subprocess.STDOUT, **restore)
    log.close()
    return process


def kernels_of(driver: psutil.Popen, patience: float = 60) -> list[psutil.Process]:
    deadline = time.monotonic() + patience
    while not (found := driver.children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found
    return found


@posix
@pytest.mark.parametrize("delay", [0.3, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 3.0))])
def test_a_killed_driver_leaves_no_kernel(notebook, tmp_path, delay):
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    driver = start(notebook(child, "time.sleep(60)"), tmp_path)
    time.sleep(delay if kernels_of(driver) else 0)
    processes = kernels_of(driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert psutil.wait_procs(processes, timeout=30)[1] == []


@posix
@pytest.mark.parametrize(
    "number, delay",
    [
        *((signal.SIGINT, delay) for delay in (0.0, 0.4, 3.2)),
        *((signal.SIGTERM, delay) for delay in (0.2, 1.6)),
        *(pytest.param(signal.SIGINT, delay, marks=pytest.mark.slow) for delay in (0.1, 0.2, 0.8, 1.6)),
        *(pytest.param(signal.SIGTERM, delay, marks=pytest.mark.slow) for delay in (0.0, 0.1, 0.4, 0.8, 3.2)),
    ],
)
def test_an_interrupt_at_any_time_leaves_one_line_and_no_process(notebook, tmp_path, number, delay):
    driver = start(notebook("import time; time.sleep(60)"), tmp_path)
    processes = kernels_of(driver)
    time.sleep(delay)
    processes += kernels_of(driver)
    os.kill(driver.pid, number)
    assert driver.wait(timeout=30) == 128 + number
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["clipsent slow: stopped; the same command continues from the last saved state"]
    assert psutil.wait_procs(processes, timeout=30)[1] == []


def test_kernels_end_with_the_block_and_their_folders_go(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with kept_kernels():
        with kept_kernels():
            first = int(printed(execute(notebook(PID), tmp_path / "first", {})))
        second = int(printed(execute(notebook(PID), tmp_path / "second", {})))
        assert first == second and psutil.pid_exists(first)
    assert not psutil.pid_exists(first) and list(tmp_path.glob("kernel-*")) == []


def test_the_page_of_an_executed_notebook_is_whole(notebook, tmp_path):
    with kept_kernels():
        for name in ("first", "second"):
            page = execute(notebook("print(x)"), tmp_path / name, {"x": name})
            cells = nbformat.read(page.with_suffix(".ipynb"), 4).cells
            assert [cell.execution_count for cell in cells] == [1, 2, 3] and f'x = "{name}"' in cells[1].source
            assert name in page.read_text(encoding="utf-8") and page == write_page(page.with_suffix(".ipynb"))
    assert not (tmp_path / "first/.report.tmp.ipynb").exists()


@posix
def test_reports_leave_no_open_files_and_no_threads_in_their_driver(notebook, tmp_path):
    source, driver = notebook("print(x)"), psutil.Process()
    execute(source, tmp_path / "out", {})
    before = driver.num_fds(), threading.active_count(), driver.children()  # other tests' processes may be among them
    for _ in range(3):
        execute(source, tmp_path / "out", {})
    assert (driver.num_fds(), threading.active_count(), driver.children()) == before
