"""What a run of a batch costs beside its training: `run_many` with one run against `fit`, interleaved, medians.

python benchmarks/cell_overhead.py [--quick] [--json FILE]

The first run starts the process that executes the notebooks; the others use it again.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch

from clipsent_nb.batches import Execution, run_many
from clipsent_nb.report import kept_kernels
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit, sample_run


def timed(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 pairs of runs instead of 20")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    times, megabytes = {"fit": [], "run_many": []}, []
    with tempfile.TemporaryDirectory() as folder, kept_kernels():
        root = Path(folder) / "sample"
        sample_run(root, epochs=1)  # fills the caches for both sides
        for repetition in range(3 if options.quick else 20):
            configs = {
                side: sample_config(
                    root, epochs=2, seed=repetition, output_dir=Path(f"outputs/optimize/{side}/{repetition}")
                )
                for side in times
            }
            batch, parent = [configs["run_many"]], root / "outputs/optimize/run_many"
            times["fit"].append(timed(lambda config=configs["fit"]: fit(config)))
            times["run_many"].append(
                timed(lambda batch=batch, parent=parent: run_many(batch, parent, Execution(threads=1)))
            )
            [kernel] = psutil.Process().children()
            megabytes.append(kernel.memory_info().rss / 1e6)
            scores = [
                json.loads((root / f"outputs/optimize/{side}/{repetition}/metrics.json").read_text())[
                    "best_val_f1_macro"
                ]
                for side in times
            ]
            assert scores[0] == scores[1], scores
    medians = {side: statistics.median(values[1:]) for side, values in times.items()}
    first, further = (times["run_many"][0] - times["fit"][0], medians["run_many"] - medians["fit"])
    figures = {"times": times, "medians": medians, "first_seconds": first, "overhead_seconds": further}
    for side, values in times.items():
        print(f"{side:9} median {medians[side]:6.2f} s  ({', '.join(f'{value:.2f}' for value in values)})")
    print(f"the first run of a batch costs {first:.1f} s beside its training, a further one {further:.2f} s")
    print(f"memory of the kernel: {', '.join(f'{value:.0f}' for value in megabytes)} MB; the scores are equal")
    if options.json:
        options.json.write_text(json.dumps(figures | {"megabytes": megabytes}, indent=2))


if __name__ == "__main__":
    main()
