"""Feeding: pairs per second that reach the model from the caches, and decoded anew by the loader of the plain loop.

python benchmarks/inputs.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import tempfile
import time
from pathlib import Path

import plain
from common import interleave, parser, reference, told, write

from clipsent_nb.hub import fetch_encoder
from clipsent_nb.inputs import bucketed_batches
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import load_inputs


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        count = 64 if options.quick else 400
        config = reference(options, Path(temporary), count, 8, batch_size=8)
        started = time.perf_counter()
        inputs = load_inputs(config, progress=False).train
        first = time.perf_counter() - started
        encoder = fetch_encoder(resolved_model(config), True)

        def cached() -> None:
            for rows in bucketed_batches(inputs.lengths, config.batch_size, config.seed, 0):
                inputs.batch(rows)

        def loaded(workers: int) -> None:
            for _ in plain.batches(config, encoder, config.train_csv, workers):
                pass

        sides = {"cached": cached, "decoded in the loop": lambda: loaded(0), "decoded by 2 workers": lambda: loaded(2)}
        figures = told(f"{count} pairs in batches of 8", interleave(sides, 1 if options.quick else 5), count)
        print(f"filling the caches, the encoder's processors loaded included: {first:.1f} s")
        write(options, {"inputs": figures | {"filling_seconds": first}})


if __name__ == "__main__":
    main()
