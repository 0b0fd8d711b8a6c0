"""Memory: the peak of a training step against weights, gradients, optimizer state and activations, as computed.

python benchmarks/memory.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import torch
from common import parser, reference, write
from scale import anonymous, watched
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm

from clipsent_nb.features import bf16_able
from clipsent_nb.model import quiet_transformers
from clipsent_nb.train import Progress, Trainer, load_inputs, step_logits, train_epoch


def activation_bytes(trainer: Trainer) -> int:
    "What the graph of the first step holds, each storage once and parameters not."
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        rows = range(trainer.config.batch_size)
        logits = step_logits(trainer, torch.arange(len(rows)).numpy(), 0, frozen=False)
        logits.sum()
        return sum(held.values())


def measure(options: argparse.Namespace, batch_size: int, bf16: bool) -> dict[str, float]:
    "In a process of its own, which holds nothing yet."
    quiet_transformers()
    with tempfile.TemporaryDirectory() as temporary:
        config = reference(options, Path(temporary), 3 * batch_size, 8, batch_size=batch_size)
        inputs = load_inputs(config, progress=False)
        before = anonymous()
        trainer = Trainer(config, inputs, Path(temporary), torch.device("cpu"), bf16)
        trainer.model.train()

        def epoch() -> None:
            trainer.progress = Progress()
            with tqdm(disable=True) as bar:
                train_epoch(trainer, bar)

        peak = watched(epoch)[1] - before
        activations = activation_bytes(trainer)
    weights = 4 * sum(parameter.numel() for parameter in trainer.model.parameters())
    parts = {"weights": weights, "gradients": weights, "optimizer": 2 * weights, "activations": activations}
    return {"peak": peak, "share": peak / sum(parts.values()), **parts}


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    figures = {}
    for batch_size in (8,) if options.quick else (8, 32):
        for bf16 in (True, False) if bf16_able(torch.device("cpu")) else (False,):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                own = pool.apply(measure, (options, batch_size, bf16))
            name = f"batch {batch_size} {'bf16' if bf16 else 'fp32'}"
            parts = ("weights", "gradients", "optimizer", "activations")
            listed = ", ".join(f"{part} {own[part] / 1e6:.0f}" for part in parts)
            print(f"{name}: peak {own['peak'] / 1e6:.0f} MB, {own['share']:.2f} of the sum of {listed} MB", flush=True)
            figures[name] = own
    write(options, {"memory": figures})


if __name__ == "__main__":
    main()
