"""Answering: validation posts with caches filled, with caches to fill, and by the plain loop in fp32.

python benchmarks/predict.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import shutil

import numpy as np
import plain
import torch
from common import CPU, DTYPES, interleave, parser, reference, summarize, write_figures
from torch.utils.data import DataLoader

from clipsent_nb.config import config_values
from clipsent_nb.features import encode, head_probabilities
from clipsent_nb.inputs import load_posts
from clipsent_nb.state import load_inputs


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--batch-size", type=int, default=8, help="of the plain loop; ours uses its own default")
    options = flags.parse_args()
    with reference(options, 8, 32 if options.quick else 200, batch_size=options.batch_size) as config:
        inputs = load_inputs(config)
        model, posts = plain.new_model(config, inputs), inputs.val.posts
        answers: dict[str, np.ndarray] = {}

        def predict(name: str, dtype: torch.dtype) -> None:
            val = load_posts(config.resolve(config.val_csv), inputs.processors, config_values(config), config)
            answers[name] = head_probabilities(model, encode(model, val, CPU, dtype)).argmax(axis=1)

        def predict_from_nothing() -> None:
            shutil.rmtree(config.cache)
            predict("caches empty", next(iter(DTYPES.values())))

        def predict_plainly() -> None:
            join = plain.make_collate(inputs.processors, True)
            loader = DataLoader(plain.Posts(config, posts), batch_size=config.batch_size, collate_fn=join)
            answers["plain loop"] = plain.predict(model, loader)

        sides = {f"ours {name}": lambda n=f"ours {name}", d=dtype: predict(n, d) for name, dtype in DTYPES.items()}
        sides |= {"caches empty": predict_from_nothing, "plain loop": predict_plainly}
        figures = summarize(f"{len(posts)} posts", interleave(sides, 1 if options.quick else 3), len(posts))
    other = answers.pop("plain loop")
    same = {name: float((answer == other).mean()) for name, answer in answers.items()}
    print("answers equal to the plain loop's: " + ", ".join(f"{name} {share:.1%}" for name, share in same.items()))
    write_figures(options, {"predict": figures | {"answers_equal": same}})


if __name__ == "__main__":
    main()
