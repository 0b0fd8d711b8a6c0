"""The limit: arithmetic of a training step, counted, over the measured rate of matrix products; and where the rest goes.

python benchmarks/limit.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import parser, reference, write
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from clipsent_nb.features import bf16_able
from clipsent_nb.model import quiet_transformers
from clipsent_nb.train import Progress, Trainer, load_inputs, train_epoch


def matrix_rate(dtype: torch.dtype, rows: int) -> float:
    "Operations per second of the product that a transformer block does most: [rows, 768] by [768, 3072]."
    one, other = torch.randn(rows, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    times = []
    for _ in range(30):
        started = time.perf_counter()
        torch.nn.functional.linear(one, other)
        times.append(time.perf_counter() - started)
    return 2 * rows * 768 * 3072 / statistics.median(times)


def kinds(profile) -> dict[str, float]:
    "Share of the time by kind of operation."
    words = {
        "matrix products": ("mm", "linear", "conv"),
        "attention": ("attention",),
        "optimizer, clipping": ("adam", "foreach", "_norm", "clip"),
        "copies, casts": ("copy", "clone", "_to", "cat", "fill", "zero"),
    }
    sums = dict.fromkeys([*words, "layer norm, activation, rest"], 0.0)
    for row in profile.key_averages():
        name = row.key.lower()
        found = next((kind for kind, parts in words.items() if any(part in name for part in parts)), None)
        layer_norm = "layer_norm" in name
        sums["layer norm, activation, rest" if found is None or layer_norm else found] += row.self_cpu_time_total
    whole = sum(sums.values())
    return {kind: value / whole for kind, value in sums.items()}


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    quiet_transformers()
    figures = {}
    for batch_size in (8,) if options.quick else (8, 32):
        with tempfile.TemporaryDirectory() as temporary:
            config = reference(options, Path(temporary), 4 * batch_size, 8, batch_size=batch_size)
            inputs = load_inputs(config, progress=False)
            for bf16 in (True, False) if bf16_able(torch.device("cpu")) else (False,):
                trainer = Trainer(config, inputs, Path(temporary), torch.device("cpu"), bf16)

                def epoch(trainer=trainer) -> float:
                    trainer.progress, started = Progress(), time.perf_counter()
                    with tqdm(disable=True) as bar:
                        train_epoch(trainer, bar)
                    return time.perf_counter() - started

                with FlopCounterMode(display=False) as counter:
                    epoch()
                seconds = statistics.median(epoch() for _ in range(1 if options.quick else 3))
                rate = matrix_rate(torch.bfloat16 if bf16 else torch.float32, 50 * batch_size)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    epoch()
                share, name = counter.get_total_flops() / rate / seconds, "bf16" if bf16 else "fp32"
                print(
                    f"batch {batch_size} {name}: {counter.get_total_flops() / 4e9:.0f} GFLOP and {seconds / 4:.2f} s a step,"
                )
                print(f"  matrix products {rate / 1e9:.0f} GFLOP/s: {share:.0%} of the limit", flush=True)
                spent = kinds(profile)
                print("  " + ", ".join(f"{kind} {part:.0%}" for kind, part in spent.items()), flush=True)
                own = {"flop": counter.get_total_flops() / 4, "seconds": seconds / 4, "rate": rate, "share": share}
                figures[f"batch {batch_size} {name}"] = own | {"spent": spent}
    write(options, figures)


if __name__ == "__main__":
    main()
