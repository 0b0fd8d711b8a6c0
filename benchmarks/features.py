"""Stores: encoding posts into an empty one against the encoder's forward pass alone, reading one again, and their size on disk.

python benchmarks/features.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import CPU, DTYPES, interleave, parser, reference, summarize, write_figures

from clipsent_nb.caches import RowStore, fill
from clipsent_nb.features import TOWERS, Features, autocast, tower_batch, uniform_batches
from clipsent_nb.hub import encoder_identity
from clipsent_nb.inputs import PairInputs
from clipsent_nb.state import load_inputs, new_state


def prepared(inputs: PairInputs) -> list[tuple[int, dict[str, torch.Tensor]]]:
    "The batches that an extraction computes, as tensors: the number of their tower, and what enters it."
    found = []
    for number, tower in enumerate(TOWERS):
        for rows, _ in uniform_batches(inputs, tower, np.arange(len(inputs))):
            found.append((number, tower_batch(inputs, [tower], rows, CPU, multiple=16)[0]))
    return found


def drop_pages(path: Path) -> None:
    "Have the system forget what it holds of a file."
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_reading(folder: Path, megabytes: int, repetitions: int) -> dict[str, object]:
    "Rows of 50 items of 768 numbers, read in batches of 32 in random order, against the bytes of their file in a row."
    store, size = RowStore(folder, (768,)), 50 * 768 * 4
    count = max(64, megabytes * 2**20 // size)
    keys = [f"{number:032x}" for number in range(count)]
    block = np.random.default_rng(0).random((50, 768), dtype=np.float32)
    fill(store, keys, lambda lacking: [(lacking, [block] * len(lacking))])
    store = RowStore(folder, (768,))
    order = np.random.default_rng(1).permutation(count)

    def read_rows() -> None:
        for start in range(0, count, 32):
            store.table.padded(order[start : start + 32])

    def read_file() -> None:
        with open(store.file, "rb", buffering=0) as file:
            while file.read(8 * 2**20):
                pass

    def cold(read: Callable[[], None]) -> Callable[[], None]:
        return lambda: (drop_pages(store.file), read())

    sides = {"rows, in memory": read_rows, "file, in memory": read_file}
    if hasattr(os, "posix_fadvise"):
        sides |= {"rows, from disk": cold(read_rows), "file, from disk": cold(read_file)}
    return summarize(f"reading {count} rows", interleave(sides, repetitions), count * size // 10**6, "MB")


def main() -> None:
    options = parser(__doc__).parse_args()
    name, dtype = next(iter(DTYPES.items()))
    repetitions, blocks = (1, 1) if options.quick else (3, 2)
    with reference(options, 16 if options.quick else 160, 8, trainable_blocks=0) as config:
        inputs = load_inputs(config)
        model = new_state(config, inputs, CPU, dtype).model
        ready, encoder = prepared(inputs.train) + prepared(inputs.val), encoder_identity(inputs.encoder)

        def keep() -> None:
            shutil.rmtree(config.cache / "features", ignore_errors=True)
            Features(model, inputs.train, inputs.val, config, encoder, dtype).freeze(True)
            torch.set_num_threads(options.threads)

        @torch.no_grad()
        def forward() -> None:
            model.eval()
            with autocast(CPU, dtype):
                for number, batch in ready:
                    model.features(**batch)[number].float()

        posts = len(inputs.train) + len(inputs.val)
        title = f"encoding {posts} posts, {name}"
        figures = {
            "encoding": summarize(title, interleave({"ours": keep, "forward": forward}, repetitions), posts, "posts")
        }
        top = replace(config, trainable_blocks=blocks)
        Features(model, inputs.train, inputs.val, top, encoder, dtype).freeze(False)
        sizes = {
            kind: sum(file.stat().st_size for file in (config.cache / kind).glob("**/*") if file.is_file()) / posts
            for kind in sorted(path.name for path in config.cache.iterdir() if path.is_dir())
        }
        print("bytes a post: " + ", ".join(f"{kind} {size:,.0f}" for kind, size in sizes.items()))
        reading = measure_reading(config.resolve("store"), 16 if options.quick else 1024, repetitions)
    write_figures(options, figures | {"bytes": sizes, "reading": reading})


if __name__ == "__main__":
    main()
