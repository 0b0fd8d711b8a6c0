"""Starting: `import clipsent_nb`, `clipsent --help`, the flags of a training, and a process up to its first training step or first answer.

python benchmarks/startup.py [--quick] [--json FILE]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from common import interleave, parser, summarize, write_figures

from clipsent_nb.export import export
from clipsent_nb.files import Workspace
from clipsent_nb.train import sample_run

FIRST_STEP = """
import sys
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit

config = sample_config(sys.argv[1], output_dir="outputs/optimize/first", overwrite=True)
fit(config, on_step=lambda state: sys.exit())
sys.exit("no step")
"""

FIRST_ANSWER = """
import sys
from clipsent_nb import {kind}

print({kind}.load(sys.argv[1]).predict(["so happy"], [sys.argv[2]]))
"""


def main() -> None:
    options = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "sample"
        run = sample_run(root, epochs=1).folder  # fills the caches
        export(run, workspace=Workspace(root))
        picture = str(next((root / "data").glob("*.jpg")))
        one = ["--weights", str(run), "--text", "so happy", "--image", picture, "--project-root", str(root)]
        commands = {
            "python": ["-c", ""],
            "import clipsent_nb": ["-c", "import clipsent_nb"],
            "clipsent --help": ["-m", "clipsent_nb.cli", "--help"],
            "clipsent optimize --help": ["-m", "clipsent_nb.cli", "optimize", "--help"],
            "import torch, transformers": ["-c", "import torch, transformers.modeling_utils"],
            "first training step": ["-c", FIRST_STEP, str(root)],
            "clipsent predict --text --image": ["-m", "clipsent_nb.cli", "predict", *one],
            "Classifier.load, one answer": ["-c", FIRST_ANSWER.format(kind="Classifier"), str(run), picture],
            "OnnxClassifier.load, one answer": [
                "-c",
                FIRST_ANSWER.format(kind="OnnxClassifier"),
                str(run / "onnx"),
                picture,
            ],
        }

        def start(words: list[str]) -> None:
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

        sides = {name: lambda words=words: start(words) for name, words in commands.items()}
        times = interleave(sides, 1 if options.quick else 7)
    write_figures(options, {"startup": summarize("processes", times, 1, "starts")})


if __name__ == "__main__":
    main()
