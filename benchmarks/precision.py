"""Quality: the same training in fp32 and in bf16, over seeds, compared as two settings are.

python benchmarks/precision.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

from dataclasses import replace

import numpy as np
from common import parser, reference, write_figures

from clipsent_nb.stats import compare_seeds
from clipsent_nb.train import fit


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--lr", type=float, default=5e-4)
    options = flags.parse_args()
    posts, seeds = ((32, 16), (42,)) if options.quick else ((3600, 400), (42, 123, 7))
    answers: dict[str, list[np.ndarray]] = {"fp32": [], "bf16": []}
    scores: dict[str, list[float]] = {"fp32": [], "bf16": []}
    settings = {"epochs": options.epochs, "lr": options.lr, "head_lr": 2 * options.lr, "early_stop": 0}
    with reference(options, *posts, **settings) as config:
        for seed in seeds:
            for precision in answers:
                folder = f"outputs/optimize/{precision}_{seed}"
                run = fit(replace(config, seed=seed, precision=precision, output_dir=folder))
                answers[precision].append(run.probabilities.argmax(axis=1))
                scores[precision].append(run.metrics["best_val_f1_macro"])
                print(f"seed {seed} {precision}: macro-F1 {scores[precision][-1]:.4f}", flush=True)
        pair = np.stack(answers["bf16"]), np.stack(answers["fp32"])
        found = compare_seeds(run.labels, *pair, groups=run.predictions.group)
    print(f"bf16 minus fp32: {found['difference']:+.4f} (95 % interval {found['low']:+.4f} to {found['high']:+.4f})")
    write_figures(options, {"precision": {"scores": scores, **{name: float(found[name]) for name in found}}})


if __name__ == "__main__":
    main()
