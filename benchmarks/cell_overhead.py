"""What a run of a batch costs beside its training: `run_many` with one run against `fit`, interleaved, medians.

python benchmarks/cell_overhead.py [--quick] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from clipsent_nb.grid import Batch, run_many
from clipsent_nb.train import fit, sample_config, sample_run


def timed(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repetition instead of five")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "sample"
        sample_run(root, epochs=1)  # fills the caches for both sides
        times = {"fit": [], "run_many": []}
        for repetition in range(1 if options.quick else 5):
            configs = {
                side: sample_config(
                    root, epochs=4, seed=repetition, output_dir=Path(f"outputs/optimize/{side}/{repetition}")
                )
                for side in times
            }
            times["fit"].append(timed(lambda config=configs["fit"]: fit(config, progress=False)))
            single = [replace(configs["run_many"])]
            parent = root / "outputs/optimize/run_many"
            times["run_many"].append(timed(lambda c=single, p=parent: run_many(c, p, Batch(threads=1), progress=False)))
            scores = [
                json.loads((root / f"outputs/optimize/{side}/{repetition}/metrics.json").read_text())[
                    "best_val_f1_macro"
                ]
                for side in times
            ]
            assert scores[0] == scores[1], scores
    medians = {side: statistics.median(values) for side, values in times.items()}
    figures = {"times": times, "medians": medians, "overhead_seconds": medians["run_many"] - medians["fit"]}
    for side, values in times.items():
        print(f"{side:9} median {medians[side]:6.1f} s  ({', '.join(f'{value:.1f}' for value in values)})")
    print(f"a run of a batch costs {figures['overhead_seconds']:.1f} s beside its training; the scores are equal")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
