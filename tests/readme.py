"""README.md from nbs/index.ipynb: hidden cells dropped, outputs as text."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]


def readme() -> str:
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("#| hide")]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("text/html", None)
    text = MarkdownExporter().from_notebook_node(notebook)[0].strip() + "\n"
    text = re.sub(r"\n{3,}", "\n\n", text)
    return re.sub(r"\]\((?=\w+\.ipynb)", "](nbs/", text).replace("](../", "](")  # links of the notebook begin in nbs/


if __name__ == "__main__":
    print(readme(), end="")
