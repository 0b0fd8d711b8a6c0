"""A long table: posts a second from its rows to the written answers, against the encoder's forward pass alone, and memory.

python benchmarks/labelling.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR] [--rows N]

The rows are the named posts again and again, under new ids. With Ray installed, its workers answer too.
"""

import importlib.util
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from common import CPU, interleave, parser, private_memory, reference, seconds_of, summarize, write_figures

from clipsent_nb.batches import Cluster
from clipsent_nb.decoding import read_text
from clipsent_nb.features import autocast, compute_dtype
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.state import load_inputs
from clipsent_nb.train import fit


def write_rows(posts: pd.DataFrame, count: int, path: Path) -> None:
    "A table of the posts, repeated under new ids until it is long enough."
    texts = [read_text(file, encoding)[0] for file, encoding in zip(posts.text_file, posts.encoding, strict=True)]
    own = pd.DataFrame({"text": texts, "image": [str(file) for file in posts.image_file]})
    rows = pd.concat([own] * -(-count // len(own)), ignore_index=True).head(count)
    rows.rename_axis("id").reset_index().to_csv(path, index=False)


def memory_of(call, seconds: float) -> list[int]:
    "The private memory of this process, taken every few seconds of a call."
    taken, done = [], threading.Event()
    watcher = threading.Thread(
        target=lambda: [taken.append(private_memory()) for _ in iter(lambda: done.wait(seconds), True)]
    )
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return taken


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--rows", type=int, default=640)
    flags.add_argument("--repetitions", type=int, default=3)
    options = flags.parse_args()
    rows, repetitions = (32, 1) if options.quick else (options.rows, options.repetitions)
    with reference(
        options, 16, 16 if options.quick else 320, trainable_blocks=0, epochs=1, allow_outside=True
    ) as config:
        run, inputs, table = fit(config), load_inputs(config), config.resolve("rows.csv")
        torch.set_num_threads(options.threads)
        write_rows(inputs.val.posts, rows, table)
        classifier = Classifier.load(run.folder)
        own, size = inputs.val, 32
        batches = [range(start, min(start + size, len(own))) for start in range(0, len(own), size)]
        ready = [own.batch(list(batch), "cpu") for batch in batches]

        @torch.no_grad()
        def forward() -> None:
            with autocast(CPU, compute_dtype("auto", CPU)):
                for number in range(-(-rows // size)):
                    classifier.model(**{k: v for k, v in ready[number % len(ready)].items() if k != "labels"})

        def label(name: str, **cluster: object) -> None:
            answers[name] = predict_file(
                run.folder, replace(config), config.resolve(f"{name}.txt"), table, cluster=Cluster(**cluster)
            ).read_bytes()

        answers: dict[str, bytes] = {}
        sides = {"forward": forward, "table": lambda: label("table")}
        figures = summarize(f"{rows} rows", interleave(sides, repetitions), rows, "posts")
        taken = memory_of(lambda: label("table"), 0.02 if options.quick else 0.5)
        quarter = max(1, len(taken) // 4)
        print(
            f"memory: {max(taken[:quarter]) / 1e6:.0f} MB in the first quarter, {max(taken[-quarter:]) / 1e6:.0f} MB in the last"
        )
        figures["memory"] = taken
        if importlib.util.find_spec("ray"):
            for workers in (1, 2):
                name = f"ray {workers}"
                figures[name] = seconds_of(lambda n=name, w=workers: label(n, engine="ray", jobs=w))
                print(
                    f"  {name}: {figures[name]:.1f} s, start included; the same file: {answers[name] == answers['table']}"
                )
    write_figures(options, {"labelling": figures})


if __name__ == "__main__":
    main()
