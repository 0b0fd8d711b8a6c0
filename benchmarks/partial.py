"""The top blocks only: training with the activations of the blocks below kept on disk, and without.

python benchmarks/partial.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

from dataclasses import replace

import plain
import torch
from common import DTYPES, Training, interleave, parser, reference, seconds_of, summarize, write_figures

from clipsent_nb.features import head_probabilities
from clipsent_nb.model import set_trainable
from clipsent_nb.state import load_inputs, parameter_groups
from clipsent_nb.train import fit


def train_and_validate(training: Training) -> None:
    training.epoch()
    head_probabilities(training.state.model, training.features.val())


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--blocks", type=int, default=2, help="that are trained; 1 with --quick")
    flags.add_argument("--batch-size", type=int, default=8)
    options = flags.parse_args()
    train, val, blocks = (16, 8, 1) if options.quick else (144, 16, options.blocks)
    name, dtype = next(iter(DTYPES.items()))
    changes = {"trainable_blocks": blocks, "batch_size": options.batch_size, "epochs": 1}
    with reference(options, train, val, **changes) as config:
        inputs = load_inputs(config)
        bare = replace(config, cache_activations=False)
        kept = Training(config, inputs, dtype)
        filling = seconds_of(lambda: kept.features.freeze(False))
        size = sum(path.stat().st_size for path in config.cache.glob("activations/**/*") if path.is_file())
        anew = Training(bare, inputs, dtype)
        model = plain.new_model(config, inputs)
        set_trainable(model, True, {"text": blocks, "image": blocks})
        optimizer = torch.optim.AdamW(parameter_groups(model, config))
        loaders = [plain.batches(config, inputs, split.posts) for split in (inputs.train, inputs.val)]
        sides = {
            f"{name}, activations kept": lambda: train_and_validate(kept),
            f"{name}, computed anew": lambda: train_and_validate(anew),
            "plain loop, same parameters": lambda: (
                plain.train(model, optimizer, loaders[0]),
                plain.predict(model, loaders[1]),
            ),
        }
        posts = len(inputs.train) + len(inputs.val)
        title = f"top {blocks} blocks, an epoch of {len(inputs.train)} posts and validation on the others"
        figures = summarize(title, interleave(sides, 1 if options.quick else 3), posts)
        print(f"filling the cache: {filling:.1f} s once, {size / posts / 1e3:.0f} kB per post")
        runs = [
            fit(replace(own, precision="fp32", output_dir=f"run_{own.cache_activations}")) for own in (config, bare)
        ]
        difference = float(abs(runs[0].probabilities - runs[1].probabilities).max())
    print(f"answers after an epoch in fp32 differ by at most {difference:.2g}")
    figures |= {"filling": filling, "bytes": size, "difference_fp32": difference}
    write_figures(options, {"partial": figures})


if __name__ == "__main__":
    main()
