"""The top blocks only: training with the activations of the blocks below kept on disk, and without.

python benchmarks/partial.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import plain
import torch
from common import interleave, parser, reference, told, write
from tqdm import tqdm

from clipsent_nb.features import bf16_able, bf16_fast
from clipsent_nb.hub import fetch_encoder
from clipsent_nb.model import quiet_transformers, set_trainable
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import (
    Progress,
    Trainer,
    cached_activations,
    finish_epoch,
    fit,
    load_inputs,
    new_model,
    parameter_groups,
    train_epoch,
)


def epoch_of(config, inputs, bf16: bool) -> Callable[[], None]:
    "An epoch of training and validation that starts at the first step every time."
    folder = Path(config.project_root) / f"outputs/optimize/{config.cache_activations}_{bf16}"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, inputs, folder, torch.device("cpu"), bf16)
    trainer.save = lambda: None  # what is written costs both sides the same

    def epoch() -> None:
        trainer.progress = Progress()
        trainer.progress.history.append({"val_f1_macro": 2.0})  # no epoch is better, so none is saved
        with tqdm(disable=True) as bar:
            train_epoch(trainer, bar)
        finish_epoch(trainer)

    return epoch


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--blocks", type=int, default=2)
    flags.add_argument("--batch-size", type=int, default=8)
    options = flags.parse_args()
    quiet_transformers()
    count, held = (16, 8) if options.quick else (144, 16)
    with tempfile.TemporaryDirectory() as temporary:
        changes = {"trainable_blocks": options.blocks, "batch_size": options.batch_size}
        config = reference(options, Path(temporary), count, held, **changes)
        inputs = load_inputs(config, progress=False)
        bare = replace(config, cache_activations=False)
        bf16 = bf16_able(torch.device("cpu")) and bf16_fast(torch.device("cpu"))
        started = time.perf_counter()
        trainer = Trainer(config, inputs, Path(temporary), torch.device("cpu"), bf16)
        for split in ("train", "val"):
            cached_activations(trainer, split, frozen=False)
        filling = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(temporary).glob("outputs/cache/activations/*.npy"))
        name = "bf16" if bf16 else "fp32"
        sides = {
            f"{name}, activations kept": epoch_of(config, inputs, bf16),
            f"{name}, computed anew": epoch_of(bare, inputs, bf16),
        }
        encoder = fetch_encoder(resolved_model(config), True)
        model = new_model(config, encoder)
        set_trainable(model, True, options.blocks)
        optimizer = torch.optim.AdamW(parameter_groups(model, config))
        loaders = [plain.batches(config, encoder, csv) for csv in (config.train_csv, config.val_csv)]

        def plainly() -> None:
            plain.train(model, optimizer, loaders[0])
            plain.answer(model, loaders[1])

        figures = told(
            f"top {options.blocks} blocks, an epoch of {count} posts and validation on {held}",
            interleave({**sides, "plain loop, same parameters": plainly}, 1 if options.quick else 3),
            count + held,
        )
        print(f"filling the cache: {filling:.1f} s once, {size / (count + held) / 1e3:.0f} kB per post")
        runs = {
            kept: fit(
                replace(config, cache_activations=kept, precision="fp32", epochs=1, output_dir=Path(f"run_{kept}")),
                progress=False,
            ).predictions.filter(like="p_")
            for kept in (True, False)
        }
        apart = float((runs[True] - runs[False]).abs().max().max())
        print(f"answers after an epoch in fp32 differ by at most {apart:.2g}")
    write(options, {"partial": figures | {"filling": filling, "bytes": size, "apart_fp32": apart}})


if __name__ == "__main__":
    main()
