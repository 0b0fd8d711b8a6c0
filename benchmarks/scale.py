"""Growth: time, memory and cache size of splits, caches and an epoch for 1k, 4k, 16k and 64k posts.

python benchmarks/scale.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]

Posts are repeated under new guids, each picture with other bytes behind it, so that it is a new one for the caches.
"""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import in_own_process, parser, posts_project, seconds_and_peak, write_figures

from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.files import Workspace, digest, write_csv
from clipsent_nb.inputs import refresh_content
from clipsent_nb.labels import LABELS
from clipsent_nb.sample import tiny_clip
from clipsent_nb.state import load_inputs
from clipsent_nb.train import fit

STAGES = {
    "splits": lambda config: make_splits(config, val_ratio=0.1),
    "caches": load_inputs,
    "epoch": fit,  # reads what the caches hold
}


def make_project(table: pd.DataFrame, root: Path, folder: Path, count: int) -> Path:
    "A project with so many posts: copies of the given ones, 9 of 10 for training, in split files that know no copies."
    (folder / "data").mkdir(parents=True)
    posts = table.iloc[np.arange(count) % len(table)].reset_index(drop=True)
    guids, digests, images = [f"{number + 1:06}" for number in range(count)], [], []
    for number, post in enumerate(posts.itertuples()):
        shutil.copyfile(root / post.text_path, folder / f"data/{guids[number]}.txt")
        picture = (root / post.image_path).read_bytes() + number.to_bytes(4, "big")
        images.append(f"data/{guids[number]}{Path(post.image_path).suffix}")
        (folder / images[-1]).write_bytes(picture)
        digests.append(digest(picture))
    texts = [f"data/{guid}.txt" for guid in guids]
    hashes = [f"{random.Random(number).getrandbits(64):016x}" for number in range(count)]
    posts = posts.assign(guid=guids, group=guids, text_key=guids, text_path=texts, image_path=images)
    posts = posts.assign(image_digest=digests, image_hash=hashes)
    val = posts.index % 10 == 9
    write_csv(posts[~val], folder / "train.csv")
    write_csv(posts[val], folder / "val.csv")
    write_csv(posts[["guid", "label"]].set_axis(["guid", "tag"], axis=1), folder / "train.txt")
    write_csv(pd.DataFrame(columns=["guid", "tag"]), folder / "test_without_label.txt")
    return folder


def measure(stage: str, folder: Path, model: str, threads: int) -> tuple[float, int]:
    "Seconds and peak memory of one stage, in a process of its own, as a command has it."
    torch.set_num_threads(threads)
    settings = {"epochs": 1, "freeze_epochs": 0, "batch_size": 32, "precision": "fp32"}
    config = TrainConfig(project_root=folder, model_name=model, train_csv="train.csv", val_csv="val.csv", **settings)
    return seconds_and_peak(lambda: STAGES[stage](config))


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--sizes", default="1000,4000,16000,64000")
    flags.add_argument("--folder", type=Path, help="where the posts are written for a while; 64k take 5 GB")
    options = flags.parse_args()
    sizes = [200] if options.quick else [int(size) for size in options.sizes.split(",")]
    figures = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        project = posts_project(options, Path(temporary))
        root = options.data_root or project
        model = options.model_name or str(tiny_clip(Path(temporary) / "tiny_clip"))
        table = refresh_content(read_split(project / "outputs/splits/train.csv"), Workspace(project, root))
        table = table[table.label.isin(LABELS)]
        for size in sizes:
            folder = make_project(table, root, Path(temporary) / str(size), size)
            own = {}
            for stage in STAGES:
                seconds, peak = in_own_process(measure, stage, folder, model, options.threads)
                own[stage] = {"seconds": seconds, "peak": peak}
                print(f"{size} posts: {stage} {seconds:.1f} s and {peak / 1e6:.0f} MB", flush=True)
            kept = sum(path.stat().st_size for path in folder.glob("outputs/cache/**/*") if path.is_file())
            print(f"{size} posts: caches on disk {kept / 1e6:.0f} MB", flush=True)
            figures[str(size)] = own | {"cache_bytes": kept}
            shutil.rmtree(folder)
    write_figures(options, {"scale": figures})


if __name__ == "__main__":
    main()
