"""Fine-tune CLIP to read the sentiment of posts with a picture and a text, and know how far to trust the answer.

What is used most can be imported from here, `from clipsent_nb import Classifier, TrainConfig, fit`; a module is imported
when one of its names is first asked for. `compare`, `ensemble`, `grid`, `heads`, `preprocess`, `recipes`, `robustness`, `errors`,
`explain`, `export`, `push` and `demo` are modules, which hold the function of that name.
"""

import importlib
import importlib.util

__version__ = "0.1.0"

_HOMES = {
    "ClipsentError": "files",
    "Workspace": "files",
    "show_progress": "files",
    "make_sample": "sample",
    "LABELS": "labels",
    "make_splits": "data",
    "read_split": "data",
    "TrainConfig": "config",
    "apply_preset": "config",
    "Run": "runs",
    "fit": "train",
    "TrainedModel": "trained",
    "optimize": "grid",
    "run_many": "batches",
    "mine": "badcases",
    "augment_images": "augment",
    "augment_text": "augment",
    "merge": "augment",
    "Classifier": "predict",
    "predict_file": "predict",
    "OnnxClassifier": "export",
    "run_stage": "stage",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"clipsent_nb.{_HOMES[name]}"), name)
    if not name.startswith("_") and importlib.util.find_spec(f"clipsent_nb.{name}"):
        return importlib.import_module(f"clipsent_nb.{name}")
    raise AttributeError(f"module 'clipsent_nb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
