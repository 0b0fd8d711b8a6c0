"""A GPU: our epoch, plain and compiled, against the Trainer of transformers with its defaults and tuned.

python benchmarks/gpu.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import plain
import torch
from common import interleave, parser, reference, told, write
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from clipsent_nb.hub import fetch_encoder
from clipsent_nb.model import quiet_transformers
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import Progress, Trainer, load_inputs, train_epoch


def matrix_rate(rows: int) -> float:
    "Operations per second of a product [rows, 768] by [768, 3072] in bfloat16 on the GPU."
    one, other = (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((rows, 768), (3072, 768)))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(50):
            torch.nn.functional.linear(one, other)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / 50)
    return 2 * rows * 768 * 3072 / statistics.median(times)


def ours(config, inputs) -> tuple[Trainer, object]:
    trainer = Trainer(config, inputs, Path(config.project_root), torch.device("cuda"), True)

    def epoch() -> None:
        trainer.progress = Progress()
        with tqdm(disable=True) as bar:
            train_epoch(trainer, bar)
        torch.cuda.synchronize()

    return trainer, epoch


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--posts", type=int, default=1024)
    flags.add_argument("--batch-sizes", default="8,32,128")
    options = flags.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use")
    quiet_transformers()
    figures = {}
    for batch_size in (int(size) for size in options.batch_sizes.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            folder, count = Path(temporary), 64 if options.quick else options.posts
            config = reference(options, folder, count, 8, batch_size=batch_size)
            encoder, inputs = fetch_encoder(resolved_model(config), True), load_inputs(config, progress=False)
            trainer, epoch = ours(config, inputs)
            with FlopCounterMode(display=False) as counter:
                epoch()
            torch.cuda.reset_peak_memory_stats()
            epoch()
            peak = torch.cuda.max_memory_allocated()
            sides = {"ours": epoch, "ours compiled": ours(replace(config, compile=True), inputs)[1]}
            sides["Trainer, defaults"] = plain.trainer_of_transformers(config, encoder, folder).train
            tuned = {"bf16": True, "dataloader_num_workers": 8, "optim": "adamw_torch_fused"}
            sides["Trainer, tuned"] = plain.trainer_of_transformers(config, encoder, folder, **tuned).train
            row = told(f"batch {batch_size}", interleave(sides, 1 if options.quick else 3), count)
            rate = matrix_rate(50 * batch_size)
            share = counter.get_total_flops() / row["medians"]["ours"] / rate
            print(f"  {rate / 1e12:.0f} TFLOP/s in products, share {share:.0%}; peak {peak / 1e9:.2f} GB", flush=True)
            figures[f"batch {batch_size}"] = row | {"rate": rate, "share": share, "peak": peak}
    write(options, figures)


if __name__ == "__main__":
    main()
