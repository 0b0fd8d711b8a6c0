"""What a machine does to a command: a full or read-only disk, signals, a wrong clock, too little memory, a second process.

Each fault is made to happen. What the user is told is one line, and what was complete before is complete afterwards.
"""

import builtins
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import machine
import nbformat
import pytest
import torch
from machine import (
    GRID,
    OPTIMIZE,
    SPLITS,
    STEPS,
    complete,
    differences,
    disturb,
    half_files,
    snapshot,
    start,
    temporaries,
)

from clipsent_nb import cli, report
from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits
from clipsent_nb.files import ClipsentError, Workspace, read_json
from clipsent_nb.sample import make_sample
from clipsent_nb.state import load_inputs
from clipsent_nb.train import fit

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="these faults are made with POSIX calls")

NO_ROOM = "(?i)no space left on device.*(same|repeat the) command"
TOOLS = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])  # where a child finds them


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    "Posts, the tiny CLIP and splits; nothing else is ever written there."
    root = make_sample(tmp_path_factory.mktemp("machine") / "sample")
    make_splits(Workspace(root), val_ratio=0.2, folds=2)
    return root


@pytest.fixture
def fresh(sample, tmp_path):
    "Makes copies of the posts in folders of their own, with splits or without."

    def copy(name: str, splits: bool = True) -> Path:
        root = tmp_path / name
        shutil.copytree(sample, root, ignore=None if splits else shutil.ignore_patterns("outputs"))
        return root

    return copy


@pytest.fixture
def disk(sample, tmp_path):
    "A disk of 24 MB with splits and tiny CLIP; the posts lie elsewhere."
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(machine.small_disk(tmp_path / "disk", 24))
        except OSError as error:
            pytest.skip(str(error))
        shutil.copytree(sample / "outputs", folder / "outputs")
        shutil.copytree(sample / "tiny_clip", folder / "tiny_clip")
        yield folder


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory) -> Path:
    "Where `OPTIMIZE` was run without a report."
    root = tmp_path_factory.mktemp("trained") / "root"
    shutil.copytree(sample / "outputs", root / "outputs")
    shutil.copytree(sample / "tiny_clip", root / "tiny_clip")
    assert cli.main(list(map(str, words_for(root, sample)))) == 0
    return root


@pytest.fixture(scope="module")
def undisturbed(trained) -> dict[str, object]:
    "What it left."
    return snapshot(trained)


def run(capfd, *words: object) -> tuple[int, str]:
    "Exit code of `clipsent` in this process, and what it said to standard error."
    capfd.readouterr()
    code = cli.main([str(word) for word in words])
    return code, capfd.readouterr().err


def refused(code: int, printed: str, *names: str) -> str:
    "Assert that the command ended with exit code 2 and one line that has these names; returns the line."
    assert code == 2 and "Traceback" not in printed, printed
    lines = [line for line in printed.splitlines() if "error:" in line]
    assert len(lines) == 1 and printed.rstrip().endswith(lines[0]) and len(lines[0]) < 600, printed[:2000]
    assert all(name in lines[0] for name in names), lines[0]
    assert ".tmp" not in lines[0], lines[0]
    return lines[0]


def words_for(root: Path, sample: Path, **other: object) -> list[object]:
    "The command line of `OPTIMIZE` without a report, some of its flags set otherwise."
    words = [*OPTIMIZE, "--no-report", "--no-progress", "--project-root", root, "--data-root", sample]
    for name, value in other.items():
        flag = cli.flag_of(name)
        place = words.index(flag) if flag in words else len(words)
        words[place : place + 2] = [flag, value]
    return words


def config_for(root: Path, sample: Path, **other: object) -> TrainConfig:
    "The settings that `words_for` stands for."
    words = [str(word) for word in words_for(root, sample, **other)[1:] if word != "--no-progress"]
    return cli.parse("optimize", words).keywords["config"]


# -- a full disk


@contextmanager
def full_from(monkeypatch, disk: Path, name: str, leave: int = 0):
    "Fill the disk, but for some bytes, at the moment when a file whose name matches is opened to be written."
    opened, made, plain = os.open, tempfile.mkstemp, open

    def full(path: object) -> None:
        if re.match(name, Path(str(path)).name.removeprefix(".")) and not (disk / "filler").exists():
            machine.fill(disk, leave)

    def open_after(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            full(path)
        return opened(path, flags, *rest, **options)

    def made_after(*rest, prefix="", **options):
        full(prefix)
        return made(*rest, prefix=prefix, **options)

    def plain_after(path, mode="r", *rest, **options):
        if set(mode) & set("wa+"):
            full(path)
        return plain(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_after)
        patch.setattr(tempfile, "mkstemp", made_after)
        patch.setattr(builtins, "open", plain_after)
        yield
    assert (disk / "filler").exists(), f"nothing was written to {name}"
    (disk / "filler").unlink()


def test_a_disk_that_fills_up_again_and_again_loses_nothing(disk, sample, undisturbed, capfd, monkeypatch):
    words, ladder = words_for(disk, sample), []
    filler = machine.fill(disk, 1_000_000)
    line = refused(*run(capfd, *words), "pixels.u8")
    filler.unlink()
    ladder.append(line)
    # Where a file is large, a part of it fits: then it is the library that writes it which fails, in its own way.
    for name, leave in (
        ("index.txt", 0),
        (r"rows\.bin", 0),  # tokens
        ("(encoder|tokenizer_config.json)", 0),
        ("train_posts.csv", 0),
        (r"rows\.bin", 0),  # features
        ("last.pt", 400_000),
        ("best.pt", 400_000),
        (r"best\.1\.pt", 1_000_000),
        ("history.csv", 0),
        ("val_epochs.npy", 0),
        ("val_predictions.csv", 0),
        ("metrics.json", 0),
    ):
        with full_from(monkeypatch, disk, name, leave):
            code, printed = run(capfd, *words)
        line = refused(code, printed)
        assert re.search(rf"/{name}[^/ ]*: no space", line, re.IGNORECASE), line
        assert half_files(disk) == [] and temporaries(disk) == [], name
        assert not (disk / "outputs/optimize/clip/metrics.json").exists()
        ladder.append(line)
    assert all(re.search(NO_ROOM, line) for line in ladder)
    assert run(capfd, *words)[0] == 0
    assert differences(undisturbed, snapshot(disk)) == []


def test_a_full_disk_leaves_the_old_splits_together(disk, fresh, capfd, monkeypatch):
    before, posts = snapshot(disk), fresh("posts", splits=False)
    next(posts.glob("data/*.txt")).write_text("")  # which is named in the audit
    words = [*SPLITS, "--seed", "7", "--project-root", disk, "--data-root", posts]
    for name in ("train.csv", "val.csv", "test.csv", "audit.csv", "duplicates.csv"):
        with full_from(monkeypatch, disk, name):
            line = refused(*run(capfd, *words), name)
        assert re.search(NO_ROOM, line)
        assert temporaries(disk) == []
        found = {path: text for path, text in snapshot(disk).items() if not re.search("fold_|audit", path)}
        assert found == {path: text for path, text in before.items() if "fold_" not in path}, name
    assert run(capfd, *words)[0] == 0
    assert snapshot(disk).keys() >= before.keys() and snapshot(disk) != before


def test_a_full_disk_leaves_the_old_prediction_file(disk, sample, trained, capfd, monkeypatch):
    shutil.copytree(trained / "outputs/optimize", disk / "outputs/optimize")
    labelled = disk / "outputs/test_with_label_clip_aug.txt"
    labelled.write_text("guid,tag\n1,neutral\n")
    words = ["predict", "--weights", "outputs/optimize/clip/best.pt", "--no-progress"]
    words += ["--project-root", disk, "--data-root", sample]
    with full_from(monkeypatch, disk, labelled.name):
        line = refused(*run(capfd, *words), labelled.name)
    assert re.search(NO_ROOM, line)
    assert labelled.read_text() == "guid,tag\n1,neutral\n" and temporaries(disk) == []
    assert run(capfd, *words)[0] == 0
    assert len(labelled.read_text().splitlines()) == 61


def write_notebook(path: Path, *cells: str) -> None:
    "A notebook whose first cell holds the parameters."
    cells = [nbformat.v4.new_code_cell(text) for text in cells]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def test_a_full_disk_leaves_the_old_report(disk, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TOOLS)
    folder, source = disk / "outputs/optimize/report", tmp_path / "source.ipynb"
    write_notebook(source, "disk = ''", "print('x' * 300_000)")
    report.execute(source, folder, {"disk": str(disk)})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert sorted(path.name for path in before) == ["report.html", "report.ipynb"]
    filling = "import machine, pathlib; machine.fill(pathlib.Path(disk))"
    write_notebook(source, "disk = ''", filling, "print('y' * 300_000)")
    with pytest.raises((ClipsentError, OSError), match="(?i)no space left on device") as caught:
        report.execute(source, folder, {"disk": str(disk)})
    assert "report.ipynb" in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before
    (disk / "filler").unlink()
    write_notebook(source, "disk = ''", "print('y' * 300_000)")
    report.execute(source, folder, {"disk": str(disk)})
    assert sorted(folder.iterdir()) == sorted(before)
    assert {path: path.read_bytes() for path in before} != before


def test_activations_for_which_the_room_is_taken_by_another_program_do_not_end_the_run(
    disk, sample, caplog, monkeypatch
):
    config = config_for(disk, sample, trainable_blocks=1, freeze_epochs=0)
    load_inputs(config)
    real, filler = shutil.disk_usage, disk / "filler"

    def looked_at(path):
        usage = real(path)
        if "activations" in str(path) and not filler.exists():
            machine.fill(disk)
        return usage

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", looked_at)
        run = fit(config, on_step=lambda state: filler.unlink(missing_ok=True))
    assert "activations are computed in every epoch" in caplog.text and "No space left" in caplog.text
    assert half_files(disk) == [] and temporaries(disk) == []
    again = fit(replace(config, output_dir=Path("outputs/optimize/again")))
    assert run.metrics["best_val_f1_macro"] == pytest.approx(again.metrics["best_val_f1_macro"])
    assert len(list((disk / "outputs/cache/activations").rglob("rows.bin"))) == 2


def test_a_limit_on_the_size_of_files_is_named_and_the_run_continues(fresh, sample, undisturbed, capfd):
    root = fresh("root")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_200_000, hard))
    try:
        line = refused(*run(capfd, *words_for(root, root)), "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search("(?i)larger than|too large", line)
    assert half_files(root) == [] and temporaries(root) == []
    assert run(capfd, *words_for(root, root))[0] == 0
    assert differences(undisturbed, snapshot(root)) == []


# -- a folder that cannot be written

WRITERS = {
    "splits": [*SPLITS],
    "optimize": [*OPTIMIZE[:-1], "outputs/optimize/other"],
    "grid": GRID,
    "heads": ["heads", *machine.TINY],
    "preprocess": ["preprocess", *machine.TINY],
    "mine": ["mine", *machine.TINY],
    "augment-images": ["augment-images"],
    "augment-text": ["augment-text"],
    "merge": ["merge"],
    "predict": ["predict", "--weights", "outputs/optimize/clip/best.pt"],
    "robustness": ["robustness", "--weights", "outputs/optimize/clip/best.pt"],
    "errors": ["errors", "--run", "outputs/optimize/clip"],
    "compare": ["compare", "--model-name", "tiny_clip"],
    "run": ["run"],
    "export": ["export", "--run", "outputs/optimize/clip"],
    "ensemble": ["ensemble", "--runs", "outputs/optimize/clip"],
    "recipes": ["recipes", "--model-name", "tiny_clip"],
}


def test_every_command_names_the_folder_on_a_read_only_disk(disk, sample, trained, capfd):
    shutil.copytree(trained / "outputs", disk / "outputs", dirs_exist_ok=True)
    shutil.rmtree(disk / "outputs/cache")
    post = (disk / "outputs/splits/train.csv").read_text().splitlines()[1].split(",")
    guid, text, image, label = post[:4]
    for name, columns, values in (
        ("bad_cases.csv", "text_path,image_path", f"{text},{image}"),
        ("badcase_aug/badcase_augmented.csv", "image_path,source_image", f"{image},{image}"),
        ("badcase_text_aug.csv", "text_path,text_aug", f"{text},a lovely day"),
    ):
        path = disk / "outputs/optimize" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"guid,true_label,pred_label,{columns}\n{guid},{label},neutral,{values}\n")
    before = snapshot(disk)
    machine.remount(disk, "ro")
    lines = {}
    try:
        assert set(WRITERS) | {"sample", "doctor", "clean-cache", "demo", "push"} == set(cli.COMMANDS)
        lines["sample"] = refused(*run(capfd, "sample", disk), str(disk))
        for name, words in WRITERS.items():
            code, printed = run(capfd, *words, "--project-root", disk, "--data-root", sample)
            lines[name] = refused(code, printed, f"{disk}/outputs")
    finally:
        machine.remount(disk, "rw")
    assert snapshot(disk) == before
    assert {name: line for name, line in lines.items() if "read-only" not in line.lower()} == {}
    strange = [
        name for name, line in lines.items() for flag in re.findall(r"(--[a-z-]+)", line) if not knows(name, flag)
    ]
    assert strange == [], "flags that the command does not have"


def knows(name: str, flag: str) -> bool:
    "Whether a command has this flag."
    known = {cli.flag_of(setting) for setting in cli.settable(cli.load(name))}
    return flag.replace("--no-", "--", 1) in known or flag in known


def test_a_folder_of_somebody_else_is_named(sample, capfd):
    root = Path(tempfile.mkdtemp())
    shutil.copytree(sample, root, dirs_exist_ok=True)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (root / "outputs").chmod(0o555)
    other = os.geteuid() == 0
    try:
        if other:
            os.seteuid(65534)
        code, printed = run(capfd, *words_for(root, root))
    finally:
        if other:
            os.seteuid(0)
        (root / "outputs").chmod(0o755)
    try:
        line = refused(code, printed, "--output-dir", f"{root}/outputs/optimize/clip")
        assert "permission" in line.lower()
        assert run(capfd, *words_for(root, root))[0] == 0
    finally:
        shutil.rmtree(root)


# -- a wrong clock


def test_files_from_the_future_and_a_clock_set_back_change_no_number(fresh, undisturbed, capfd, monkeypatch):
    root = fresh("root")

    def stop(state) -> None:
        if state.epoch == 1 and state.step == 1:  # behind the end of the first epoch, which is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config_for(root, root), on_step=stop)
    later = time.time() + 10 * 365 * 24 * 3600
    for path in root.rglob("*"):
        os.utime(path, (later, later))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 365 * 24 * 3600)
    assert run(capfd, *words_for(root, root))[0] == 0
    assert differences(undisturbed, snapshot(root)) == []
    metrics = read_json(root / "outputs/optimize/clip/metrics.json")
    assert 0 < metrics["train_time_sec"] < 600 and metrics["pairs_per_sec"] > 0
    code, _ = run(capfd, *words_for(root, root))
    assert code == 0 and read_json(root / "outputs/optimize/clip/metrics.json") == metrics


# -- signals


DONE = re.compile("written to|run folder|^table |steps are done", re.MULTILINE)


def heard(number: signal.Signals, code: int, printed: str) -> bool:
    """Whether a command said that it was stopped; asserts that it did so in one line.

    It cannot hear a signal before its modules are imported, nor while Python ends, when its work is done.
    """
    said = "the same command continues from the last saved state" in printed
    if number == signal.SIGKILL or code == 0:
        assert code in (-9, 0), f"exit code {code}: {printed}"
    elif said:
        # Python ends itself by the signal if that came while an extension was imported; a shell sees the same number.
        assert code in (128 + number, -number), f"exit code {code}: {printed}"
        assert "clipsent_nb" not in printed.partition("Traceback")[2], printed
    else:
        # A process that does not end in order within seconds, on a busy machine for instance, is ended without a word.
        late = number == signal.SIGTERM and code == 128 + number
        assert late or code in (-number, 1), f"exit code {code}: {printed}"
        assert DONE.search(printed) or " in main\n" not in printed, printed
    return said


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.mark.slow
def test_a_few_kills_of_splits_and_training_leave_the_files_of_an_undisturbed_run(fresh, undisturbed, tmp_path):
    root, log, draw = fresh("root", splits=False), tmp_path / "log.txt", random.Random(5)
    splits = [*SPLITS, "--project-root", root]
    for number in SIGNALS[:2]:
        disturb(splits, log, draw.uniform(0.8, 1.4), number)
    assert complete(splits, log)[0] == 0
    words = words_for(root, root)
    for number, delay in zip((signal.SIGKILL, signal.SIGTERM), (5.0, 6.0), strict=True):
        code, printed = disturb(words, log, draw.uniform(delay - 1, delay + 1), number)
        heard(number, code, printed)
        assert half_files(root) == []
    assert complete(words, log)[0] == 0
    assert differences(undisturbed, snapshot(root)) == []


class Disturbed:
    "A command that is killed again and again until it ends, in folder after folder, so many times in all."

    def __init__(self, sample: Path, folder: Path, words: list[str], before: list[list[str]], seed: int) -> None:
        self.sample, self.folder, self.words, self.before = sample, folder, words, before
        self.draw, self.kills, self.rounds, self.log = random.Random(seed), 0, 0, folder / "log.txt"
        self.seconds, self.expected, self.heard = 0.0, {}, []

    def root(self) -> Path:
        "Another copy of the posts, with what the command needs."
        root = self.folder / f"round {self.rounds}"
        shutil.copytree(self.sample, root, ignore=shutil.ignore_patterns("outputs"))
        for words in self.before:
            assert complete([*words, "--project-root", root], self.log)[0] == 0
        self.rounds += 1
        return root

    def undisturbed(self) -> None:
        "Measure an undisturbed run and keep what it leaves."
        root, started = self.root(), time.monotonic()
        code, printed = complete([*self.words, "--project-root", root], self.log)
        assert code == 0, printed
        self.seconds, self.expected = time.monotonic() - started, snapshot(root)
        assert half_files(root) == [] and temporaries(root) == []

    def go(self, kills: int, first: float = 0.0, last: float = 1.0) -> None:
        "So many kills, at random moments of this part of the undisturbed run; every round ends like that one."
        self.undisturbed()
        while self.kills < kills:
            root, code = self.root(), 1
            while code and self.kills < kills:
                number = SIGNALS[self.kills % 3]
                delay = self.seconds * self.draw.uniform(first, last)
                code, printed = disturb([*self.words, "--project-root", root], self.log, delay, number)
                self.kills += code != 0
                what = f"{number.name} after {delay:.2f} s of {self.seconds:.2f}: {printed}"
                print(
                    f"{self.words[0]}: kill {self.kills}, round {self.rounds}, exit code {code}, {what[-150:]!r}",
                    flush=True,
                )
                self.heard.append(heard(number, code, printed) or number == signal.SIGKILL)
                assert half_files(root) == [], what
            code, printed = complete([*self.words, "--project-root", root], self.log)
            assert code == 0, printed
            assert differences(self.expected, snapshot(root)) == []
            assert temporaries(root) == []
            shutil.rmtree(root)
        assert sum(self.heard) > len(self.heard) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kills", "first", "last"),
    [
        ("splits", 15, 0.3, 1.0),
        ("caches", 12, 0.3, 0.75),
        ("optimize", 9, 0.2, 1.0),
        ("grid", 7, 0.15, 1.0),
        ("run", 7, 0.1, 0.7),
    ],
)
def test_after_random_kills_a_command_ends_like_an_undisturbed_one(sample, tmp_path, name, kills, first, last):
    settings = tmp_path / "settings.toml"
    settings.write_text(machine.STAGE)
    words = {
        "splits": SPLITS,
        "caches": [*OPTIMIZE, "--no-report"],
        "optimize": OPTIMIZE,
        "grid": GRID,
        "run": ["run", "--settings", str(settings), "--only", STEPS],
    }[name]
    before = [] if name in ("splits", "run") else [SPLITS]
    Disturbed(sample, tmp_path, words, before, seed=kills).go(kills, first, last)


# -- a second process


def test_two_splits_at_once_leave_the_files_of_one(fresh, sample, tmp_path):
    root = fresh("root", splits=False)
    both = [start([*SPLITS, "--project-root", root], tmp_path / f"{name}.txt") for name in "ab"]
    assert [process.end()[0] for process in both] == [0, 0]
    assert differences(snapshot(sample), snapshot(root)) == []


@pytest.mark.slow
def test_two_trainings_that_begin_with_an_empty_cache_do_not_disturb_each_other(fresh, undisturbed, tmp_path):
    root = fresh("root")
    folders = ["outputs/optimize/clip", "outputs/optimize/second"]
    both = [
        start(words_for(root, root, output_dir=folder), tmp_path / f"{number}.txt")
        for number, folder in enumerate(folders)
    ]
    for process in both:
        code, printed = process.end()
        assert code == 0, printed
    found = snapshot(root)
    second = {name: value for name, value in found.items() if name.startswith(folders[1])}
    assert {name.replace("second", "clip"): value for name, value in second.items()} == {
        name: value for name, value in found.items() if name.startswith(folders[0])
    }
    first = {name: value for name, value in found.items() if name not in second}
    assert differences(undisturbed, first) == []


@pytest.mark.slow
def test_a_second_stage_in_one_root_is_refused_and_the_first_completes(fresh, tmp_path):
    root, settings = fresh("root", splits=False), tmp_path / "settings.toml"
    settings.write_text(machine.STAGE)
    words = ["run", "--settings", settings, "--only", "splits,baseline", "--project-root", root, "--no-progress"]
    first = start(words, tmp_path / "first.txt")
    while not (root / "outputs/reports/.lock").exists():
        assert first.popen.poll() is None
        time.sleep(0.05)
    first.popen.send_signal(signal.SIGSTOP)
    line = refused(*complete(words, tmp_path / "second.txt"), f"{root}/outputs/reports", "another process")
    assert all(knows("run", flag) for flag in re.findall(r"(--[a-z-]+)", line)), line
    first.popen.send_signal(signal.SIGCONT)
    code, printed = first.end()
    assert code == 0, printed
    assert complete(words, tmp_path / "second.txt")[0] == 0


# -- too little memory

LIMITED = """
import resource, tqdm
class Limited(tqdm.tqdm):
    "The bar of the training begins when all is read; from there on, memory is short."
    def __init__(self, *values, **options):
        super().__init__(*values, **options)
        if "training" in (options.get("desc"), *values):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + {room}, resource.RLIM_INFINITY))
tqdm.tqdm = Limited
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limit on memory")
def test_memory_that_really_runs_out_is_named_and_found_a_way_around(fresh, tmp_path):
    root, log = fresh("root"), tmp_path / "log.txt"
    words = words_for(root, root, batch_size=256, freeze_epochs=0)
    prelude = LIMITED.format(room=250_000_000)
    arenas = {"MALLOC_ARENA_MAX": "1"}  # else a thread may take more address space than a batch
    line = refused(*complete(words, log, prelude, **arenas), "out of memory with 256 posts at a time", "--auto-batch")
    assert "--micro-batch-size 128" in line
    code, printed = complete([*words, "--auto-batch"], log, prelude, **arenas)
    assert code == 0 and "going on with 128" in printed, printed
