"""Feeding: pairs per second that reach the model from the caches, and decoded anew by the loader of the plain loop.

python benchmarks/inputs.py [--quick] [--json FILE] [--project-root DIR --data-root DIR] [--model-name DIR]
"""

import plain
from common import interleave, parser, reference, seconds_of, summarize, write_figures

from clipsent_nb.inputs import bucketed_batches
from clipsent_nb.state import load_inputs


def main() -> None:
    options = parser(__doc__).parse_args()
    with reference(options, 64 if options.quick else 400, 8, batch_size=8) as config:
        filling = seconds_of(lambda: load_inputs(config))
        inputs = load_inputs(config)
        train = inputs.train

        def read_cached() -> None:
            for rows in bucketed_batches(train.lengths, config.batch_size, config.seed):
                train.batch(rows)

        def decode(workers: int) -> None:
            for _ in plain.batches(config, inputs, train.posts, workers):
                pass

        sides = {"cached": read_cached, "decoded in the loop": lambda: decode(0)}
        times = interleave(sides | {"decoded by 2 workers": lambda: decode(2)}, 1 if options.quick else 5)
        figures = summarize(f"{len(train)} pairs in batches of {config.batch_size}", times, len(train))
    print(f"filling the caches, the encoder's processors loaded included: {filling:.1f} s")
    write_figures(options, {"inputs": figures | {"filling_seconds": filling}})


if __name__ == "__main__":
    main()
