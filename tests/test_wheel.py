"""What users install works without the repository: the wheel, its templates and its command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipsent_nb.labels import LABELS

ROOT = Path(__file__).parents[1]
LEFT_BEHIND = shutil.ignore_patterns(".*", "outputs", "sample", "build", "dist", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    "A folder that holds what the wheel installs, and nothing else of this project."
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=LEFT_BEHIND)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, place: Path, *words: str) -> str:
    "What the installed command prints."
    command = [sys.executable, "-c", "import clipsent_nb.cli as c, sys; print(c.__file__); sys.exit(c.main())"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *words], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed)), "another copy of the package was imported"
    return done.stdout


@pytest.fixture(scope="module")
def project(installed, tmp_path_factory) -> Path:
    "A project with a run, made by the installed command."
    place = tmp_path_factory.mktemp("project")
    run(installed, place, "sample", "posts")
    run(installed, place, "splits", "--project-root", "posts")
    options = ("--project-root", "posts", "--model-name", "tiny_clip", "--epochs", "1")
    run(installed, place, "optimize", *options, "--output-dir", "outputs/optimize/one")
    return place / "posts"


def test_the_wheel_trains_and_reports_on_its_own(project):
    assert "<html" in (project / "outputs/optimize/one/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_export_answers_where_only_what_the_page_names_is_installed(installed, project, tmp_path):
    run(installed, project, "export", "outputs/optimize/one")
    page = (ROOT / "docs/howto/ship.md").read_text(encoding="utf-8")
    [packages] = re.findall("^pip install (emoji .*)$", page, flags=re.MULTILINE)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = tmp_path / "clean" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *packages.split()], check=True)
    program = """import sys
from clipsent_nb import OnnxClassifier
print(*OnnxClassifier.load("onnx").predict(["good #Day 😀 &amp; caf\u00c3\u00a9"], [sys.argv[1]]).pred_label)"""
    picture = next((project / "data").glob("*.jpg"))
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8"}
    command = [python, "-c", program, picture]
    done = subprocess.run(
        command, cwd=project / "outputs/optimize/one", env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() in LABELS, done.stderr
