"""Heads on a frozen encoder: `fit` with cached features against the plain loop, which encodes every post in every epoch.

python benchmarks/frozen.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]

The plain loop would take hours, so one of its epochs on a part of the posts is timed and multiplied; ours runs in full.
"""

import statistics
from dataclasses import replace
from itertools import product

import plain
import torch
from common import CPU, parser, reference, seconds_of, write_figures

from clipsent_nb.features import bf16_fast
from clipsent_nb.state import load_inputs
from clipsent_nb.train import fit


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--epochs", type=int, default=12)
    options = flags.parse_args()
    heads, seeds = (["base", "ln"], [42]) if options.quick else (["base", "ln", "mlp", "gated"], [42, 123, 7])
    posts, parts = ((64, 32), (16, 8)) if options.quick else ((3600, 400), (96, 32))
    settings = {"trainable_blocks": 0, "epochs": options.epochs, "early_stop": 0, "batch_size": 8}
    with reference(options, *posts, **settings) as config:
        inputs = load_inputs(config)  # decodes and tokenizes: the other side is not charged with it either
        splits = [inputs.train.posts, inputs.val.posts]
        few = [split.head(part) for split, part in zip(splits, parts, strict=True)]
        loaders = [plain.batches(config, inputs, part) for part in few]
        model = plain.new_model(config, inputs)
        optimizer = torch.optim.AdamW(model.head.parameters(), lr=config.head_lr)

        def plain_epoch() -> None:
            plain.train(model, optimizer, loaders[0], frozen=True)
            plain.predict(model, loaders[1])

        plain_epoch()
        costs, times, scores = [], [], []
        for head, seed in product(heads, seeds):
            costs.append(seconds_of(plain_epoch) / sum(map(len, few)))
            own = replace(config, head_variant=head, seed=seed, output_dir=f"outputs/optimize/{head}_{seed}")
            times.append(seconds_of(lambda own=own: scores.append(fit(own).metrics["best_val_f1_macro"])))
            print(f"{head} {seed}: {times[-1]:.1f} s; plain epoch {1000 * costs[-1]:.1f} ms per post", flush=True)
        (config.cache / "features").rename(config.cache / "away")
        again = replace(config, head_variant=heads[0], seed=seeds[0], output_dir="outputs/optimize/again")
        assert fit(again).metrics["best_val_f1_macro"] == scores[0], "cached scores differ"
    whole = statistics.median(costs) * sum(map(len, splits)) * options.epochs * len(times)
    usual = statistics.median(times[1:])
    own, extraction = len(times) * usual, times[0] - usual
    print(f"{len(times)} runs of {options.epochs} epochs, {len(splits[0])} and {len(splits[1])} posts")
    print(f"  plain loop, from {len(costs)} epochs of {sum(map(len, few))} posts: {whole / 3600:.2f} h")
    print(f"  ours after one extraction: {own:.0f} s, {whole / own:.0f} times as fast")
    print(f"  the extraction took {extraction:.0f} s; included: {whole / (own + extraction):.0f} times as fast")
    print("  a run without the cache has the same score")
    figures = {"ours": times, "plain_per_post_epoch": costs, "plain_seconds": whole, "bf16": bf16_fast(CPU)}
    write_figures(options, {"frozen": figures})


if __name__ == "__main__":
    main()
