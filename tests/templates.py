"""The cell of parameters of nbs/reports/run.ipynb, from the fields of TrainConfig."""

import inspect
import json
import re
import typing
from pathlib import Path

import nbformat

from clipsent_nb.config import TrainConfig, config_values
from clipsent_nb.files import Workspace
from clipsent_nb.state import sample_config

TEMPLATE = Path(__file__).parents[1] / "nbs/reports/run.ipynb"


def plain_type(hint: object) -> str:
    "The type of a field as papermill understands it: a plain one, also where None is allowed."
    if type(None) in typing.get_args(hint):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if hint in (bool, int, float):
        return hint.__name__
    return "list" if typing.get_origin(hint) is tuple else "str"


def parameters() -> str:
    "The source of the cell: a line per field, with a default that suits the sample, under the headings of the class."
    defaults = config_values(sample_config(Path("outputs/sample")))
    hints, lines = typing.get_type_hints(TrainConfig), ["# Project"]
    source = "\n".join(inspect.getsource(cls) for cls in (Workspace, TrainConfig))
    for line in re.sub(r"\(\n +(.*)\n +\)", r"\1", source).splitlines():  # a long field on a line of its own
        if heading := re.fullmatch(r"    (# .*)", line):
            lines.append(heading[1])
        elif (field := re.match(r"    (\w+): .*  # (.*)", line)) and (name := field[1]) in defaults:
            value = json.dumps(defaults[name]) if isinstance(defaults[name], str) else defaults[name]
            lines.append(f"{name}: {plain_type(hints[name])} = {value}  # {field[2]}")
    return "\n".join(lines)


def cell_of(notebook: dict) -> dict:
    "The cell that is tagged parameters."
    return next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))


if __name__ == "__main__":
    notebook = nbformat.read(TEMPLATE, as_version=4)
    cell_of(notebook)["source"] = parameters()
    nbformat.write(notebook, TEMPLATE)
