"""The limit: arithmetic of a training step, counted, over the measured rate of matrix products; and where the rest goes.

python benchmarks/limit.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import statistics

import torch
from common import DTYPES, Training, matrix_rate, parser, reference, seconds_of, write_figures
from torch.utils.flop_counter import FlopCounterMode

from clipsent_nb.state import load_inputs

KINDS = {  # words in the names of operations
    "layer norm, activation, rest": ("layer_norm",),
    "matrix products": ("mm", "linear", "conv"),
    "attention": ("attention",),
    "optimizer, clipping": ("adam", "foreach", "_norm", "clip"),
    "copies, casts": ("copy", "clone", "_to", "cat", "fill", "zero"),
}


def shares_of_time(profile: torch.profiler.profile) -> dict[str, float]:
    "Share of the time by kind of operation."
    sums = dict.fromkeys(KINDS, 0.0)
    for row in profile.key_averages():
        fitting = (kind for kind, words in KINDS.items() if any(word in row.key.lower() for word in words))
        sums[next(fitting, next(iter(KINDS)))] += row.self_cpu_time_total
    whole = sum(sums.values())
    return {kind: value / whole for kind, value in sums.items()}


def main() -> None:
    options = parser(__doc__).parse_args()
    figures = {}
    for batch_size in (8,) if options.quick else (8, 32):
        with reference(options, 4 * batch_size, 8, batch_size=batch_size) as config:
            inputs = load_inputs(config)
            for name, dtype in DTYPES.items():
                training = Training(config, inputs, dtype)
                with FlopCounterMode(display=False) as counter:
                    steps = len(training.epoch())
                work = counter.get_total_flops() / steps
                repetitions = range(1 if options.quick else 3)
                seconds = statistics.median(seconds_of(training.epoch) for _ in repetitions) / steps
                rate = matrix_rate(50 * batch_size, dtype)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    training.epoch()
                share, spent = work / rate / seconds, shares_of_time(profile)
                print(f"batch {batch_size} {name}: {work / 1e9:.3g} GFLOP and {seconds:.2f} s a step,")
                print(f"  matrix products {rate / 1e9:.3g} GFLOP/s: {share:.0%} of the limit")
                print("  " + ", ".join(f"{kind} {part:.0%}" for kind, part in spent.items()), flush=True)
                own = {"flop": work, "seconds": seconds, "rate": rate, "share": share, "spent": spent}
                figures[f"batch {batch_size} {name}"] = own
    write_figures(options, figures)


if __name__ == "__main__":
    main()
