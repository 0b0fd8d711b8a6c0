"""A GPU: our epoch, plain and compiled, against the Trainer of transformers with its defaults and tuned.

python benchmarks/gpu.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import sys
from dataclasses import replace

import plain
import torch
from common import Training, interleave, matrix_rate, parser, reference, summarize, write_figures
from torch.utils.flop_counter import FlopCounterMode

from clipsent_nb.state import load_inputs

TUNED = {"bf16": True, "dataloader_num_workers": 8, "optim": "adamw_torch_fused"}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--posts", type=int, default=1024)
    flags.add_argument("--batch-sizes", default="8,32,128")
    options = flags.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use")
    figures, where = {}, (torch.bfloat16, torch.device("cuda"))
    for batch_size in (int(size) for size in options.batch_sizes.split(",")):
        with reference(options, 64 if options.quick else options.posts, 8, batch_size=batch_size) as config:
            inputs = load_inputs(config)
            own = Training(config, inputs, *where)
            with FlopCounterMode(display=False) as counter:
                own.epoch()
            torch.cuda.reset_peak_memory_stats()
            own.epoch()
            peak = torch.cuda.max_memory_allocated()
            compiled = Training(replace(config, compile=True), inputs, *where)
            calls = {
                "ours": own.epoch,
                "ours compiled": compiled.epoch,
                "Trainer, defaults": plain.make_trainer(config, inputs).train,
                "Trainer, tuned": plain.make_trainer(config, inputs, **TUNED).train,
            }
            sides = {name: lambda call=call: (call(), torch.cuda.synchronize()) for name, call in calls.items()}
            times = interleave(sides, 1 if options.quick else 3)
            row, rate = summarize(f"batch {batch_size}", times, len(inputs.train)), matrix_rate(50 * batch_size, *where)
            share = counter.get_total_flops() / row["medians"]["ours"] / rate
            print(f"  {rate / 1e12:.0f} TFLOP/s in products, share {share:.0%}; peak {peak / 1e9:.2f} GB", flush=True)
            figures[f"batch {batch_size}"] = row | {"rate": rate, "share": share, "peak": peak}
    write_figures(options, figures)


if __name__ == "__main__":
    main()
