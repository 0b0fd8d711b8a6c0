"""Quality: the same training in fp32 and in bf16, over seeds, compared as two settings are.

python benchmarks/precision.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import parser, reference, write

from clipsent_nb.data import LABELS
from clipsent_nb.stats import compare_seeds
from clipsent_nb.train import fit


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--lr", type=float, default=5e-4)
    options = flags.parse_args()
    seeds = (42,) if options.quick else (42, 123, 7)
    answers: dict[str, list[np.ndarray]] = {"fp32": [], "bf16": []}
    scores: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with tempfile.TemporaryDirectory() as temporary:
        settings = {"epochs": options.epochs, "lr": options.lr, "head_lr": 2 * options.lr, "early_stop": 0}
        config = reference(options, Path(temporary), 3600, 400, **settings)
        for seed in seeds:
            for precision in answers:
                folder = Path(f"outputs/optimize/{precision}_{seed}")
                run = fit(replace(config, seed=seed, precision=precision, output_dir=folder), progress=False)
                answers[precision].append(run.predictions.pred_label.map(LABELS.index).to_numpy())
                scores[precision].append(run.metrics["best_val_f1_macro"])
                truth = run.predictions.true_label.map(LABELS.index).to_numpy()
                print(f"seed {seed} {precision}: macro-F1 {scores[precision][-1]:.4f}", flush=True)
    apart = compare_seeds(truth, np.stack(answers["bf16"]), np.stack(answers["fp32"]))
    print(f"bf16 minus fp32: {apart['difference']:+.4f} (95 % interval {apart['low']:+.4f} to {apart['high']:+.4f})")
    write(
        options,
        {"precision": {"scores": scores, **{name: float(apart[name]) for name in ("difference", "low", "high")}}},
    )


if __name__ == "__main__":
    main()
