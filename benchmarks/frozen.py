"""Heads on a frozen encoder: `fit` with cached features against the plain loop, which encodes every post in every epoch.

python benchmarks/frozen.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]

The plain loop would take hours, so one of its epochs on a part of the posts is timed and multiplied; ours runs in full.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import plain
import torch
from common import parser, reference, write

from clipsent_nb.features import bf16_able, bf16_fast
from clipsent_nb.hub import fetch_encoder
from clipsent_nb.model import quiet_transformers
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import fit, load_inputs, new_model


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--epochs", type=int, default=12)
    options = flags.parse_args()
    quiet_transformers()
    device = torch.device("cpu")
    heads, seeds = (["base", "ln"], [42]) if options.quick else (["base", "ln", "mlp", "gated"], [42, 123, 7])
    posts = (64, 32) if options.quick else (3600, 400)
    part = (16, 8) if options.quick else (96, 32)
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as smaller:
        settings = {"trainable_blocks": 0, "epochs": options.epochs, "early_stop": 0, "batch_size": 8}
        config = reference(options, Path(temporary), *posts, **settings)
        load_inputs(config, progress=False)  # decodes and tokenizes: the other side is not charged with it either
        few = reference(options, Path(smaller), *part, **settings)
        encoder = fetch_encoder(resolved_model(few), True)
        model = new_model(few, encoder)
        optimizer = torch.optim.AdamW(model.head.parameters(), lr=few.head_lr)
        loaders = [plain.batches(few, encoder, csv) for csv in (few.train_csv, few.val_csv)]

        def plain_epoch() -> float:
            started = time.perf_counter()
            plain.train(model, optimizer, loaders[0], frozen=True)
            plain.answer(model, loaders[1])
            return (time.perf_counter() - started) / sum(part)

        plain_epoch()
        costs, times, scores = [], [], {}
        for head, seed in product(heads, seeds):
            costs.append(plain_epoch())
            own = replace(config, head_variant=head, seed=seed, output_dir=Path(f"outputs/optimize/{head}_{seed}"))
            started = time.perf_counter()
            scores[head, seed] = fit(own, progress=False).metrics["best_val_f1_macro"]
            times.append(time.perf_counter() - started)
            print(f"{head} {seed}: {times[-1]:.1f} s; plain epoch {1000 * costs[-1]:.1f} ms per post", flush=True)
        for head, seed in (next(iter(scores)),):
            again = replace(config, head_variant=head, seed=seed, output_dir=Path("outputs/optimize/again"))
            (Path(temporary) / "outputs/cache/features").rename(Path(temporary) / "outputs/cache/away")
            assert fit(again, progress=False).metrics["best_val_f1_macro"] == scores[head, seed], "cached scores differ"
    whole = statistics.median(costs) * sum(posts) * options.epochs * len(times)
    own, first = len(times) * statistics.median(times[1:]), times[0] - statistics.median(times[1:])
    print(f"{len(times)} runs of {options.epochs} epochs, {posts[0]} and {posts[1]} posts")
    print(f"  plain loop, from {len(costs)} epochs of {sum(part)} posts: {whole / 3600:.2f} h")
    print(
        f"  ours after one extraction: {own:.0f} s, {whole / own:.0f} times as fast; the extraction took {first:.0f} s"
    )
    print(
        f"  extraction included: {whole / (own + first):.0f} times as fast; a run without the cache has the same score"
    )
    able = {"bf16": bf16_able(device) and bf16_fast(device)}
    write(options, {"frozen": {"ours": times, "plain_per_post_epoch": costs, "plain_seconds": whole} | able})


if __name__ == "__main__":
    main()
