"""Training: `fit`'s epoch against the plain loop and against the Trainer of transformers, the same model and posts.

python benchmarks/train_step.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import plain
import torch
from common import interleave, parser, reference, told, write
from tqdm import tqdm

from clipsent_nb.features import bf16_able
from clipsent_nb.hub import fetch_encoder
from clipsent_nb.inputs import bucketed_batches
from clipsent_nb.model import quiet_transformers
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import Progress, Trainer, load_inputs, new_model, train_epoch


def ours(config, inputs, bf16: bool) -> tuple[Trainer, Callable[[], None]]:
    trainer = Trainer(config, inputs, Path(config.project_root), torch.device("cpu"), bf16)

    def epoch() -> None:
        trainer.progress = Progress()
        with tqdm(disable=True) as bar:
            train_epoch(trainer, bar)

    return trainer, epoch


def losses_apart(config, inputs) -> float:
    "The largest difference between the losses of both sides, step by step, in fp32, in one order and without dropout."
    config = replace(config, dropout=0.0, weight_decay=0.0, max_grad_norm=1e9)
    trainer, epoch = ours(config, inputs, False)
    seen, loss = [], trainer.loss
    trainer.loss = lambda logits, labels: seen.append(loss(logits, labels)) or seen[-1]
    epoch()
    model = new_model(config, inputs.encoder)
    groups = [(model.encoder, config.lr), (model.head, config.head_lr)]
    optimizer = torch.optim.AdamW([{"params": part.parameters(), "lr": lr} for part, lr in groups], weight_decay=0.0)
    order = bucketed_batches(inputs.train.lengths, config.batch_size, config.seed, 0)
    others = plain.train(model, optimizer, plain.batches(config, inputs.encoder, config.train_csv, order=order))
    return max(abs(one.item() - other) for one, other in zip(seen, others, strict=True))


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--posts", type=int, help="per epoch; default: 8 batches")
    flags.add_argument("--batch-sizes", default="8,32")
    flags.add_argument("--workers", type=int, default=0, help="that decode for the plain loop")
    options = flags.parse_args()
    quiet_transformers()
    figures = {}
    for batch_size in (int(size) for size in options.batch_sizes.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            count = options.posts or batch_size * (2 if options.quick else 8 if batch_size < 32 else 4)
            config = reference(options, folder, count, 8, batch_size=batch_size)
            encoder = fetch_encoder(resolved_model(config), True)
            inputs = load_inputs(config, progress=False)
            apart = losses_apart(config, inputs)
            print(f"batch {batch_size}: losses of both sides in fp32 differ by at most {apart:.2g}", flush=True)
            sides = {"ours bf16": ours(config, inputs, True)[1]} if bf16_able(torch.device("cpu")) else {}
            sides["ours fp32"] = ours(config, inputs, False)[1]
            model = new_model(config, encoder)
            optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
            loader = plain.batches(config, encoder, config.train_csv, options.workers)
            sides["plain loop"] = lambda m=model, o=optimizer, b=loader: plain.train(m, o, b)
            sides["transformers Trainer"] = plain.trainer_of_transformers(config, encoder, folder, use_cpu=True).train
            times = interleave(sides, 1 if options.quick else 3)
            row = told(f"batch {batch_size}, {count} pairs", times, count) | {"losses_apart_fp32": apart}
            figures[f"batch {batch_size}"] = row
    write(options, figures)


if __name__ == "__main__":
    main()
