"""Answering: validation posts with caches filled, with caches to fill, and by the plain loop in fp32.

python benchmarks/predict.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import shutil
import tempfile
from pathlib import Path

import pandas as pd
import plain
import torch
from common import interleave, parser, reference, told, write

from clipsent_nb.data import read_split
from clipsent_nb.features import bf16_able
from clipsent_nb.hub import fetch_encoder
from clipsent_nb.inputs import PairInputs
from clipsent_nb.model import load_processors
from clipsent_nb.runs import resolved_model
from clipsent_nb.train import new_model, plain_config, predict_probabilities


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--batch-size", type=int, default=8, help="of the plain loop; ours uses its own default")
    options = flags.parse_args()
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        count = 32 if options.quick else 200
        folder = Path(temporary)
        config = reference(options, folder, 8, count, batch_size=options.batch_size)
        encoder = fetch_encoder(resolved_model(config), True)
        model, posts = new_model(config, encoder).eval(), read_split(folder / config.val_csv)
        answers: dict[str, pd.Series] = {}

        def ours(name: str, bf16: bool) -> None:
            switches = plain_config(config)
            arguments = (config.data_root, *load_processors(encoder), switches, folder / "outputs/cache")
            inputs = PairInputs.build(posts, *arguments, progress=False)
            answers[name] = pd.Series(predict_probabilities(model, inputs, device, bf16).argmax(axis=1))

        def from_nothing(bf16: bool) -> None:
            shutil.rmtree(folder / "outputs/cache")
            ours("caches empty", bf16)

        def plainly() -> None:
            posts = plain.Posts(config, config.val_csv)
            join = plain.collate(encoder, True)
            loader = torch.utils.data.DataLoader(posts, batch_size=options.batch_size, collate_fn=join)
            answers["plain loop"] = plain.answer(model, loader)

        able = bf16_able(device)
        sides = {"ours bf16": lambda: ours("ours bf16", True)} if able else {}
        sides |= {"ours fp32": lambda: ours("ours fp32", False), "caches empty": lambda: from_nothing(able)}
        times = interleave({**sides, "plain loop": plainly}, 1 if options.quick else 3)
        figures = told(f"{count} posts", times, count)
        same = {
            name: float((answers[name] == answers["plain loop"]).mean()) for name in answers if name != "plain loop"
        }
        print("answers equal to the plain loop's: " + ", ".join(f"{name} {share:.1%}" for name, share in same.items()))
        write(options, {"predict": figures | {"answers_equal": same}})


if __name__ == "__main__":
    main()
