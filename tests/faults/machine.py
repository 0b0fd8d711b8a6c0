"""Tools of `test_machine.py`: commands in processes of their own, a small disk, and what is compared afterwards."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import psutil
import torch

# The tiny CLIP, for a few seconds; states are saved after every step, so that a kill finds as many of them as possible.
TINY = "--model-name tiny_clip --batch-size 16 --lr 1e-3 --head-lr 1e-3 --precision fp32 --save-minutes 0".split()
SPLITS = ["splits", "--val-ratio", "0.2", "--folds", "2", "--no-progress"]
OPTIMIZE = ["optimize", *TINY, "--epochs", "2", "--freeze-epochs", "1", "--output-dir", "outputs/optimize/clip"]
GRID = [
    "grid",
    *TINY[:2],
    *TINY[6:],
    "--epochs",
    "2",
    "--batch-sizes",
    "16",
    "--lrs",
    "1e-3,2e-3",
    "--weight-decays",
    "0.01",
]
GRID += ["--dropouts", "0.1", "--jobs", "2"]
STAGE = """
[train]
model_name = "tiny_clip"
epochs = 2
freeze_epochs = 1
early_stop = 0
batch_size = 16
lr = 1e-3
head_lr = 1e-3
precision = "fp32"
save_minutes = 0.0
[batch]
jobs = 2
[splits]
val_ratio = 0.2
[baseline]
epochs = 2
report = false
[mine]
folds = 2
report = false
[augment-images]
num_workers = 1
[retrain]
batch_size = 16
report = false
"""
STEPS = "splits,baseline,mine,augment-images,augment-text,merge,retrain,predict"
TIMES = ("seconds", "train_time_sec", "pairs_per_sec", "encoding_time_sec")


# -- processes


@dataclass
class Process:
    "A command in a process of its own, and everything it starts, known by a mark in their environment."

    popen: subprocess.Popen
    mark: str
    log: Path

    def living(self) -> list[psutil.Process]:
        "The processes with the mark that have not ended."
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CLIPSENT_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self, timeout: float = 300) -> tuple[int, str]:
        "Wait for the end; exit code and everything that was printed."
        try:
            code = self.popen.wait(timeout)
        finally:
            if self.popen.poll() is None:
                self.popen.kill()
        return code, self.log.read_text(encoding="utf-8", errors="replace")

    def orphans(self, patience: float = 5.0) -> list[str]:
        "Command lines of the processes that are still there so many seconds after the first one's end; they are killed."
        deadline = time.monotonic() + patience
        while (found := self.living()) and time.monotonic() < deadline:
            time.sleep(0.2)
        lines = []
        for process in found:
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
                process.kill()
        return lines


def hear_interrupts() -> None:
    "A shell lets what it starts in the background ignore Ctrl-C, and so would the commands started here."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(words: Sequence[object], log: Path, prelude: str = "", **environment: str) -> Process:
    "Start `clipsent` with these words; `prelude` is code that runs before it in its process."
    mark = uuid.uuid4().hex
    program = ["-m", "clipsent_nb.cli"]
    if prelude:
        program = ["-c", f"import sys\n{prelude}\nfrom clipsent_nb.cli import main\nsys.exit(main())"]
    own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CLIPSENT_TEST": mark}
    with open(log, "wb") as output:
        popen = subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            env={**os.environ, **own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
    return Process(popen, mark, log)


def complete(words: Sequence[object], log: Path, prelude: str = "", **environment: str) -> tuple[int, str]:
    "Run `clipsent` to its end; exit code and what it printed."
    return start(words, log, prelude, **environment).end()


def disturb(words: Sequence[object], log: Path, delay: float, number: signal.Signals) -> tuple[int, str]:
    "Run `clipsent` and send it a signal after so many seconds, Ctrl-C to its whole group as a terminal does."
    process = start(words, log)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(delay)
    if process.popen.poll() is None:
        if number == signal.SIGINT:
            os.killpg(process.popen.pid, number)
        else:
            process.popen.send_signal(number)
    code, printed = process.end(60)
    assert process.orphans() == [], f"{signal.Signals(number).name} after {delay:.2f} s left processes: {printed}"
    return code, printed


# -- what is left


def content(path: Path, root: Path) -> object:
    "What of a file must be the same in an undisturbed run; None where only its existence counts."
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        text = table.drop(columns=[name for name in table if name in TIMES]).to_csv(index=False)
        return text.replace(str(root), "ROOT")
    if path.name == "metrics.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in TIMES}
    if path.name == "config.json" and "encoder" not in path.parts:
        config = json.loads(path.read_text())
        return {name: config[name] for name in ("identity", "data_fingerprint")}
    if path.name == "cells.json":
        cells = json.loads(path.read_text())["cells"]
        return [{name: value for name, value in cell.items() if name not in TIMES} for cell in cells]
    if path.name == "steps.json":
        return {name: entry["state"] for name, entry in json.loads(path.read_text()).items()}
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)["model_state"]
        return {name: digest(tensor.numpy().tobytes()) for name, tensor in state.items()}
    if path.suffix in (".txt", ".jpg", ".u8", ".bin", ".npy"):
        return digest(path.read_bytes())
    return None


def digest(raw: bytes) -> str:
    return blake2b(raw, digest_size=8).hexdigest()


def kept_rows(store: Path) -> dict[str, str]:
    "The rows of a store by their keys; processes that fill one together write them in any order."
    lines = [line.split() for line in (store / "index.txt").read_text().splitlines()]
    lengths = [int(length[0]) if length else 1 for _, *length in lines]
    raw = next(path for path in store.iterdir() if path.suffix in (".u8", ".bin")).read_bytes()
    size = len(raw) // max(sum(lengths), 1)  # bytes of an item
    ends = [size * sum(lengths[: number + 1]) for number in range(len(lengths))]
    pairs = zip(lines, lengths, ends, strict=True)
    return {line[0]: digest(raw[end - size * length : end]) for line, length, end in pairs}


def snapshot(root: Path) -> dict[str, object]:
    "Everything under outputs/ by its relative path, but what is only remembered; folders end in a slash."
    found = {}
    for path in sorted(path for path in (root / "outputs").rglob("*") if path.name != "digests.json"):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            found |= {f"{name}/": kept_rows(path) if (path / "index.txt").is_file() else None}
        elif not (path.parent / "index.txt").is_file():
            found[name] = content(path, root)
    return found


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    "What is missing, what should not be there, and what is not the same."
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} should not be there" for name in found if name not in expected]
    other = [f"{name} differs" for name in expected if name in found and expected[name] != found[name]]
    return missing + extra + other


def half_files(root: Path) -> list[str]:
    "Files under a final name that cannot be read as what their name says."
    broken = []
    for path in sorted((root / "outputs").rglob("*")):
        begun = path.parent.name == "encoder" and not (path.parents[1] / "metrics.json").exists()
        if path.is_file() and not path.name.startswith(".") and not begun:  # a run that goes on writes encoder/ anew
            try:
                if path.name == "last.pt":
                    torch.load(path, weights_only=True)
                elif path.suffix in (".json", ".ipynb"):
                    json.loads(path.read_text())
                elif path.suffix == ".html":
                    assert path.read_text().rstrip().endswith("</html>")
                elif path.suffix in (".csv", ".pt"):
                    content(path, root)
            except Exception as error:
                broken.append(f"{path.relative_to(root)}: {type(error).__name__}: {error}")
    return broken


def temporaries(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*.tmp")]


# -- a small disk


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    "A disk of its own at `folder`, in memory; OSError if this user may not mount one."
    folder.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        raise OSError("mounting a small disk needs root and Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, mode: str) -> None:
    "Make a small disk read-only (`ro`), or writable again (`rw`)."
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    "Fill the disk of a folder with one file, but for so many bytes; returns the file."
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while (free := shutil.disk_usage(folder).free - leave) > 0:
            os.write(handle, bytes(min(free, 1 << 20)))
    os.close(handle)
    return filler
