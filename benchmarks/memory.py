"""Memory: the peak of a training step against weights, gradients, optimizer state and activations, as computed.

python benchmarks/memory.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import argparse

import numpy as np
import torch
from common import DTYPES, Training, in_own_process, parser, private_memory, reference, seconds_and_peak, write_figures
from torch.autograd.graph import saved_tensors_hooks

from clipsent_nb.state import load_inputs


def activation_bytes(training: Training) -> int:
    "What the graph of a step holds, each storage once and parameters not."
    model, held = training.state.model, {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.head(*training.features.train(np.arange(training.config.batch_size), 0))
    del logits  # until here the graph keeps its storages, so that none of them has the place of another
    return sum(held.values())


def measure(options: argparse.Namespace, batch_size: int, dtype: torch.dtype) -> dict[str, float]:
    "The peak of an epoch of three steps, and its parts."
    with reference(options, 3 * batch_size, 8, batch_size=batch_size) as config:
        inputs = load_inputs(config)
        before = private_memory()
        training = Training(config, inputs, dtype)
        peak = seconds_and_peak(training.epoch)[1] - before
        activations = activation_bytes(training)
    weights = 4 * sum(parameter.numel() for parameter in training.state.model.parameters())
    parts = {"weights": weights, "gradients": weights, "optimizer": 2 * weights, "activations": activations}
    return {"peak": peak, "share": peak / sum(parts.values()), **parts}


def main() -> None:
    options = parser(__doc__).parse_args()
    figures = {}
    for batch_size in (8,) if options.quick else (8, 32):
        for name, dtype in DTYPES.items():
            own = in_own_process(measure, options, batch_size, dtype)
            parts = ("weights", "gradients", "optimizer", "activations")
            sums = ", ".join(f"{part} {own[part] / 1e6:.0f}" for part in parts)
            print(f"batch {batch_size} {name}: peak {own['peak'] / 1e6:.0f} MB,", end=" ")
            print(f"{own['share']:.2f} of the sum of {sums} MB", flush=True)
            figures[f"batch {batch_size} {name}"] = own
    write_figures(options, {"memory": figures})


if __name__ == "__main__":
    main()
