"""Pages that are made from the code: tutorials, commands, the Python interface, and a catalogue of messages."""

import ast
import importlib
import inspect
import re
import shutil
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import nbformat
from fastcore.docments import docments

from clipsent_nb.cli import COMMANDS, flag_of, load

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "clipsent_nb").glob("*.py") if not path.stem.startswith("_"))


def cell(value: object) -> str:
    "A value as a cell of a Markdown table."
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def table(header: list[str], rows: list[list[object]]) -> str:
    "A Markdown table."
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])


def type_name(annotation: object) -> str:
    "A type as it is written."
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "").replace("pathlib.", "")


def shown_default(value: object) -> str:
    "A default as code; nothing for an empty text and for None."
    return "" if value in ("", None) else f"`{value}`"


def flag_rows(function: object, positional: bool = False) -> list[list[object]]:
    "Flag, default and meaning of each setting of a command, its own before those it shares."
    comments, own, shared = docments(function), [], []
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(parameter.default):
            explained = docments(type(parameter.default))
            for base in reversed(type(parameter.default).__mro__):
                if is_dataclass(base):
                    explained |= {key: text for key, text in docments(base).items() if text}
            for field in fields(parameter.default):
                value = getattr(parameter.default, field.name)
                shared.append([f"`{flag_of(field.name)}`", shown_default(value), explained.get(field.name) or ""])
        else:
            needed = parameter.default is inspect.Parameter.empty
            flag = name.upper() if needed and positional else flag_of(name)
            value = "needed" if needed else shown_default(parameter.default)
            own.append([f"`{flag}`", value, comments.get(name) or ""])
    return own + shared


def commands_page() -> str:
    "All commands with their flags."
    parts = ["# Commands", "`clipsent COMMAND --help` prints the same; every command knows `--no-progress`."]
    for name, command in COMMANDS.items():
        function = load(name)
        flags = table(["flag", "default", "meaning"], flag_rows(function, command.positional))
        parts += [f"## {name}", f"{command.summary[0].upper()}{command.summary[1:]}.", flags]
    return "\n\n".join(parts) + "\n"


def describe_object(name: str, thing: object) -> str:
    "Signature, docstring and parameters of a public name."
    if not callable(thing):
        return f"### {name}\n\n```python\n{name} = {thing!r}\n```" if len(repr(thing)) < 300 else f"### {name}"
    notes = inspect.getdoc(thing) or ""
    if is_dataclass(thing):
        rows = [
            [
                f"`{one.name}`",
                "" if one.default is MISSING else f"`{one.default!r}`",
                docments(thing).get(one.name) or "",
            ]
            for one in fields(thing)
        ]
        return f"### {name}\n\n{notes}\n\n" + (table(["field", "default", "meaning"], rows) if rows else "")
    comments, rows = docments(thing), []
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return f"### {name}\n\n{notes}"
    for parameter in signature.parameters.values():
        default = "" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"
        rows.append([f"`{parameter.name}`", default, comments.get(parameter.name) or ""])
    if inspect.isclass(thing):
        methods = [value for key, value in vars(thing).items() if not key.startswith("_") and callable(value)]
        notes += "".join(f"\n\n**{one.__name__}**: {inspect.getdoc(one)}" for one in methods if inspect.getdoc(one))
    return f"### {name}\n\n{notes}\n\n" + (table(["parameter", "default", "meaning"], rows) if rows else "")


def module_page(name: str) -> str:
    "What a module offers."
    module = importlib.import_module(f"clipsent_nb.{name}")
    parts = [f"# {name}", inspect.getdoc(module) or ""]
    parts += [describe_object(public, getattr(module, public)) for public in module.__all__]
    return "\n\n".join(parts) + "\n"


def words_of(node: ast.expr | None, known: dict[str, str]) -> str:
    "A text in the code; what is filled in stands in braces."
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.JoinedStr):
        return "".join(words_of(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.IfExp):
        return f"{words_of(node.body, known)} / {words_of(node.orelse, known)}"
    return "" if node is None else "{" + ast.unparse(node) + "}"


def assigned_texts(function: ast.AST, before: int) -> dict[str, str]:
    "The texts that names of a function hold at a line, such as what and todo."
    known = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and node.lineno < before and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for name, text in zip(target.elts, value.elts, strict=False) if both else [(target, value)]:
                if isinstance(name, ast.Name) and isinstance(text, ast.Constant | ast.JoinedStr | ast.IfExp):
                    known[name.id] = words_of(text, {})
    return known


def messages_page() -> str:
    "Every error that the package can raise, in the order of its modules."
    parts = ["# Messages", "An error is one line: where, what, what became of the rest, what to do. Braces stand for"]
    parts[1] += " what is filled in. Search this page for the words that do not change."
    for name in MODULES:
        rows, tree = [], ast.parse((ROOT / f"clipsent_nb/{name}.py").read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ClipsentError":
                    given = dict(zip(("where", "what", "done", "todo"), node.args, strict=False))
                    given |= {one.arg: one.value for one in node.keywords}
                    known = assigned_texts(function, node.lineno)
                    rows.append([words_of(given.get(part), known) for part in ("where", "what", "todo")])
        rows = list(map(list, dict.fromkeys(map(tuple, rows))))
        if rows:
            parts += [f"## {name}", table(["where", "what", "what to do"], rows)]
    return "\n\n".join(parts) + "\n"


def notebook_page(path: Path) -> nbformat.NotebookNode:
    "A notebook for reading: without the marks of nbdev, cells of imports folded."
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith(("#| default_exp", "#| hide"))]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n", "", cell.source)
            if re.fullmatch(r"(?:(?:import|from) .*\n|[ )].*\n|\n)+", cell.source + "\n"):
                cell.metadata["tags"] = ["hide-input"]
    return notebook


def chinese_page() -> str:
    "The Chinese README with the links of the site."
    text = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    places = {"README.md)": "../index.md)", "outputs/README.md)": "outputs.md)", "docs/": "../", "nbs/": "notebooks/"}
    for old, new in places.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text


def write_pages(folder: Path) -> None:
    "Write all of it anew."
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "notebooks").mkdir(parents=True)
    (folder / "api").mkdir()
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        if path.stem != "index":
            nbformat.write(notebook_page(path), folder / "notebooks" / path.name)
    for name in MODULES:
        (folder / f"api/{name}.md").write_text(module_page(name), encoding="utf-8")
    (folder / "commands.md").write_text(commands_page(), encoding="utf-8")
    (folder / "messages.md").write_text(messages_page(), encoding="utf-8")
    shutil.copy(ROOT / "benchmarks/README.md", folder / "benchmarks.md")
    shutil.copy(ROOT / "CHANGELOG.md", folder / "changelog.md")
    shutil.copy(ROOT / "outputs/README.md", folder / "outputs.md")
    (folder / "readme-zh.md").write_text(chinese_page(), encoding="utf-8")
