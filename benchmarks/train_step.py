"""Training: `fit`'s epoch against the plain loop and against the Trainer of transformers, the same model and posts.

python benchmarks/train_step.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

from dataclasses import replace

import plain
import torch
from common import DTYPES, Training, interleave, parser, reference, summarize, write_figures

from clipsent_nb.config import TrainConfig
from clipsent_nb.inputs import bucketed_batches
from clipsent_nb.state import RunInputs, load_inputs


def loss_difference(config: TrainConfig, inputs: RunInputs) -> float:
    "The largest difference between the losses of both sides, step by step, in fp32, in one order and without dropout."
    config = replace(config, dropout=0.0, weight_decay=0.0, max_grad_norm=1e9)
    own = Training(config, inputs, torch.float32).epoch()
    model = plain.new_model(config, inputs)
    groups = [(model.encoder, config.lr), (model.head, config.head_lr)]
    optimizer = torch.optim.AdamW([{"params": part.parameters(), "lr": lr} for part, lr in groups], weight_decay=0.0)
    order = bucketed_batches(inputs.train.lengths, config.batch_size, config.seed)
    others = plain.train(model, optimizer, plain.batches(config, inputs, inputs.train.posts, order=order))
    return max(abs(one - other) for one, other in zip(own, others, strict=True))


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--posts", type=int, help="per epoch; default: 8 batches")
    flags.add_argument("--batch-sizes", default="8,32")
    flags.add_argument("--workers", type=int, default=0, help="that decode for the plain loop")
    options = flags.parse_args()
    figures = {}
    for batch_size in (int(size) for size in options.batch_sizes.split(",")):
        posts = options.posts or batch_size * (2 if options.quick else 8 if batch_size < 32 else 4)
        with reference(options, posts, 8, batch_size=batch_size) as config:
            inputs = load_inputs(config)
            difference = loss_difference(config, inputs)
            print(f"batch {batch_size}: losses of both sides in fp32 differ by at most {difference:.2g}", flush=True)
            sides = {f"ours {name}": Training(config, inputs, dtype).epoch for name, dtype in DTYPES.items()}
            model = plain.new_model(config, inputs)
            optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
            loader = plain.batches(config, inputs, inputs.train.posts, options.workers)
            sides["plain loop"] = lambda m=model, o=optimizer, b=loader: plain.train(m, o, b)
            sides["transformers Trainer"] = plain.make_trainer(config, inputs, use_cpu=True).train
            times, count = interleave(sides, 1 if options.quick else 3), len(inputs.train)
            row = summarize(f"batch {batch_size}, {count} pairs", times, count)
            figures[f"batch {batch_size}"] = row | {"loss_difference_fp32": difference}
    write_figures(options, figures)


if __name__ == "__main__":
    main()
