"""Every notebook runs from top to bottom, and its saved outputs say what the code says now."""

import re
from pathlib import Path

import nbformat
import pytest

from clipsent_nb.report import execute, kept_kernels
from clipsent_nb.sample import sample_posts

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted([*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("nbs/reports/*.ipynb")])
# They train many runs or make many pages; what they show has tests of its own.
LONG = (
    "03a_stats 05_grid 05a_batches 06_heads 06a_recipes 07_preprocess 08_robustness 09_badcases 10_errors 11a_explain"
)
LONG += " 12_compare 12a_ensemble reports/grid reports/heads reports/preprocess"
LONG += " 04c_card 09a_augment 11b_export 13_stage report reports/badcases reports/compare"
# Whole words only: what stands beside a digit may be part of a digest or of an address.
WORD = re.compile(r"\b[^\W\d_]{3,}\b")


def output_words(cell: nbformat.NotebookNode) -> set[str]:
    "The words of a cell's printed output and results; numbers differ in their last digits between machines."
    texts = []
    for output in cell.get("outputs", []):
        texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    return set(WORD.findall("\n".join(texts)))


def data_words() -> set[str]:
    "Words of posts and classes: which of them a table shows may hang on the last digit of a score."
    return set(WORD.findall(" ".join(post.text for post in sample_posts()))) | {"negative", "neutral", "positive"}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    "One process for all notebooks, which is made like new after each."
    with kept_kernels():
        yield


def case(path: Path) -> object:
    "A notebook, which is a slow test if it is one of the long ones."
    name = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
    return pytest.param(path, id=name, marks=[pytest.mark.slow] * (name in LONG.split()))


@pytest.mark.parametrize("path", [case(path) for path in NOTEBOOKS])
def test_notebook_runs_and_its_outputs_are_current(path, tmp_path, monkeypatch):
    saved = nbformat.read(path, as_version=4)
    for cell in saved.cells:
        if re.match(r"#\| *slow", cell.source):
            cell.source = ""
    nbformat.write(saved, tmp_path / path.name)
    monkeypatch.chdir(path.parent)
    execute(tmp_path / path.name, tmp_path, {}, minutes=15)
    current, apart = nbformat.read(tmp_path / "report.ipynb", as_version=4), data_words()
    for number, (old, new) in enumerate(zip(saved.cells, current.cells, strict=True)):
        if new.cell_type == "code" and new.source:
            differing = output_words(old) ^ output_words(new)
            assert differing <= apart, f"cell {number}: execute the notebook again; {sorted(differing - apart)}"
