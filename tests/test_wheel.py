"""What users install works without the repository: the wheel, its templates and its command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_wheel_trains_and_reports_on_its_own(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-c", "import clipsent_nb.cli as c, sys; print(c.__file__); sys.exit(c.main())"]
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(installed)), "another copy of the package was imported"
        return done.stdout

    run("sample", "posts")
    project = ("--project-root", "posts")
    run("splits", *project)
    run("optimize", *project, "--model-name", "tiny_clip", "--epochs", "1", "--output-dir", "outputs/optimize/one")
    assert "<html" in (tmp_path / "posts/outputs/optimize/one/report.html").read_text(encoding="utf-8")
