"""Growth: time, memory and cache size of splits, caches and an epoch for 1k, 4k, 16k and 64k posts.

python benchmarks/scale.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]

Posts are repeated under new guids, each picture with other bytes behind it, so that it is a new one for the caches.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from common import parser, write

from clipsent_nb.data import LABELS, make_splits, read_split
from clipsent_nb.files import write_csv
from clipsent_nb.sample import make_sample


def grown(table, data_root: Path, folder: Path, count: int) -> Path:
    "A project with so many posts: copies of the given ones, 9 of 10 for training."
    (folder / "data").mkdir(parents=True)
    rows = []
    for number in range(count):
        post = table.iloc[number % len(table)]
        guid, picture = f"{number + 1:06}", data_root / post.image_path
        text, image = f"data/{guid}.txt", f"data/{guid}{picture.suffix}"
        shutil.copyfile(data_root / post.text_path, folder / text)
        (folder / image).write_bytes(picture.read_bytes() + number.to_bytes(4, "big"))
        rows.append({"guid": guid, "text_path": text, "image_path": image, "label": post.label, "group": guid})
    posts = table.iloc[:0].reindex(range(count)).assign(**{name: [row[name] for row in rows] for name in rows[0]})
    held = posts.index % 10 == 9
    write_csv(posts[~held], folder / "train.csv")
    write_csv(posts[held], folder / "val.csv")
    lines = "".join(f"{row['guid']},{row['label']}\n" for row in rows)
    (folder / "train.txt").write_text("guid,tag\n" + lines, encoding="utf-8")
    (folder / "test_without_label.txt").write_text("guid,tag\n", encoding="utf-8")
    return folder


def anonymous() -> int:
    "Bytes of this process that no file backs; elsewhere than on Linux all that are its own."
    if sys.platform != "linux":
        return psutil.Process().memory_full_info().uss
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def watched(call: Callable[[], object]) -> tuple[float, int]:
    "Seconds and the highest memory while a call runs."
    peak, done = anonymous(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, anonymous())

    watcher, started = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return time.perf_counter() - started, peak


STAGES = ("splits", "caches", "epoch")


def measure(stage: str, folder: Path, model: str, threads: int, results) -> None:
    "One stage in a process of its own, as a command has it; the epoch reads what the caches hold."
    import torch

    from clipsent_nb.runs import TrainConfig
    from clipsent_nb.train import fit, load_inputs

    torch.set_num_threads(threads)
    files = {"train_csv": Path("train.csv"), "val_csv": Path("val.csv")}
    settings = {"epochs": 1, "freeze_epochs": 0, "batch_size": 32, "precision": "fp32"}
    config = TrainConfig(project_root=folder, model_name=model, **settings, **files)
    calls = {
        "splits": lambda: make_splits(folder, val_ratio=0.1, progress=False),
        "caches": lambda: load_inputs(config, progress=False),
        "epoch": lambda: fit(config, progress=False),
    }
    seconds, peak = watched(calls[stage])
    results.put({"seconds": seconds, "peak": peak})


def main() -> None:
    flags: argparse.ArgumentParser = parser(__doc__.splitlines()[0])
    flags.add_argument("--sizes", default="1000,4000,16000,64000")
    flags.add_argument("--folder", type=Path, help="where the posts are written for a while; 64k take 5 GB")
    options = flags.parse_args()
    sizes = [200, 400] if options.quick else [int(size) for size in options.sizes.split(",")]
    figures = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        root = options.project_root
        if root is None:
            root = Path(temporary) / "sample"
            make_splits(make_sample(root), val_ratio=0.2, progress=False)
        model = options.model_name or str(make_sample(Path(temporary) / "model") / "tiny_clip")
        table = read_split(root / "outputs/splits/train.csv")
        table = table[table.label.isin(LABELS)]
        for size in sizes:
            folder = grown(table, options.data_root or root, Path(temporary) / str(size), size)
            context = multiprocessing.get_context("spawn")
            results = context.Queue()
            own, told = {}, ""
            for stage in STAGES:
                process = context.Process(target=measure, args=(stage, folder, model, options.threads, results))
                process.start()
                own[stage] = results.get()
                process.join()
                told += f"{stage} {own[stage]['seconds']:.1f} s and {own[stage]['peak'] / 1e6:.0f} MB, "
            kept = [path.stat().st_size for path in folder.glob("outputs/cache/**/*") if path.is_file()]
            figures[str(size)] = own | {"cache_bytes": sum(kept)}
            print(f"{size} posts: {told}caches on disk {sum(kept) / 1e6:.0f} MB", flush=True)
            shutil.rmtree(folder)
    write(options, {"scale": figures})


if __name__ == "__main__":
    main()
