"""Notebooks, package, README and metadata say the same."""

import ast
import inspect
import json
import pickle
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import templates
from fastcore.docments import docments
from readme import readme

import clipsent_nb
from clipsent_nb.cli import COMMANDS, load
from clipsent_nb.config import TrainConfig
from clipsent_nb.files import ClipsentError
from clipsent_nb.state import sample_config

ROOT = Path(__file__).parents[1]
MADE_BY_RUNNING = {".ipynb_checkpoints", "outputs", "sample"}
NOTEBOOKS = sorted(
    path for path in (ROOT / "nbs").rglob("*.ipynb") if not MADE_BY_RUNNING.intersection(path.relative_to(ROOT).parts)
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    "A copy of the repository after nbdev's export and clean."
    copy = tmp_path_factory.mktemp("exported")
    for name in ("pyproject.toml", "settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("nbs", "clipsent_nb"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("sample", "outputs", "__pycache__", ".*")
        )
    for command in ("nbdev-export", "nbdev-clean"):
        subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, check=True, capture_output=True)
    return copy


def test_package_is_what_the_notebooks_export(exported):
    names = sorted(path.name for path in (exported / "clipsent_nb").glob("*.py"))
    assert names == sorted(path.name for path in (ROOT / "clipsent_nb").glob("*.py"))
    for name in names:
        assert (exported / "clipsent_nb" / name).read_text() == (ROOT / "clipsent_nb" / name).read_text(), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path, exported):
    assert (exported / path.relative_to(ROOT)).read_text() == path.read_text(), "run nbdev-clean"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_outputs_name_no_machine(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = json.dumps([cell.get("outputs", []) for cell in cells])
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(work|root|home|Users|tmp)/|IProgress|\\r", text)


def test_readme_is_made_from_the_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run make readme"


def test_version_stands_in_one_place():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert settings["DEFAULT"]["version"] == clipsent_nb.__version__


def test_parameters_of_a_run_are_the_fields_of_the_configuration_with_their_values_and_comments():
    notebook = json.loads(templates.TEMPLATE.read_text(encoding="utf-8"))
    source = "".join(templates.cell_of(notebook)["source"])
    assert source == templates.parameters(), "run make templates"
    values = {}
    exec(source, values)
    assert TrainConfig(**{name: values[name] for name in TrainConfig.__dataclass_fields__}) == sample_config(
        Path("outputs/sample")
    )


def extras() -> list[str]:
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    found = [name.removesuffix("_requirements") for name in settings["DEFAULT"] if name.endswith("_requirements")]
    return [name.replace("_", "-") for name in found]


@pytest.mark.slow
def test_the_pinned_versions_admit_all_extras_at_once():
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "-c", ROOT / "constraints.txt"]
    pip = subprocess.run([*command, "-e", f"{ROOT}[{','.join(extras())}]"], capture_output=True, text=True)
    assert pip.returncode == 0 and "does not provide the extra" not in pip.stderr, pip.stderr[-2000:]


def test_extras_are_called_as_every_pip_finds_them():
    pages = [
        *ROOT.glob("clipsent_nb/*.py"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*.md"),
        ROOT / "tests/faults/README.md",
    ]
    named = [
        name for path in pages for name in re.findall(r"clipsent_nb\[([\w-]+)\]", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20 and set(named) <= set(extras())


def test_importing_the_package_and_the_command_line_is_light():
    code = "import sys, clipsent_nb.cli; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_flags_of_no_command_wait_for_what_only_its_work_needs():
    late = "('transformers', 'sklearn', 'scipy.stats', 'scipy.optimize', 'accelerate', 'matplotlib', 'papermill')"
    code = f"import sys; from clipsent_nb.cli import COMMANDS, load; [load(name) for name in COMMANDS]; print([name for name in {late} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command):
    function = load(command)
    comments = docments(function)
    flags = [name for name, one in inspect.signature(function).parameters.items() if not is_dataclass(one.default)]
    assert [name for name in flags if not comments[name]] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_its_report_unless_told_not_to(command):
    report = inspect.signature(load(command)).parameters.get("report")
    assert report is None or report.default is True


@pytest.mark.parametrize("name, home", clipsent_nb._HOMES.items())
def test_what_the_package_offers_is_there_and_comes_from_its_module(name, home):
    offered = getattr(clipsent_nb, name)
    assert not hasattr(clipsent_nb, "no_such_name")
    assert getattr(offered, "__module__", f"clipsent_nb.{home}") == f"clipsent_nb.{home}"


@pytest.mark.parametrize("path", sorted((ROOT / "clipsent_nb").glob("*.py")), ids=lambda path: path.stem)
def test_every_error_says_where_and_what(path):
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "ClipsentError":
            inspect.signature(ClipsentError).bind(*call.args, **{word.arg: word.value for word in call.keywords})
            assert not any(isinstance(answer, ast.Starred) for answer in call.args), ast.unparse(call)
            where, what = call.args[:2]
            for answer in (where, what):  # neither is empty, nor a sentence that holds both
                assert not isinstance(answer, ast.Constant) or (answer.value and ": " not in answer.value)


def test_errors_travel_between_processes():
    error = ClipsentError(Path("train.txt"), "empty", todo="fill it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "train.txt: empty; fill it"


def test_no_name_is_public_twice():
    homes: dict[str, list[str]] = {}
    for path in (ROOT / "clipsent_nb").glob("[a-z]*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                for name in ast.literal_eval(node.value):
                    homes.setdefault(name, []).append(path.stem)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
    assert len(homes) > 100
