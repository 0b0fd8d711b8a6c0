"""Property tests try the same examples on every machine, however slow it is; the sample is drawn once per process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list) -> None:
    "Notebooks and the wheel take longest, so they start first."
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/test_notebooks", "tests/test_wheel")))


@pytest.fixture(scope="session")
def fresh_sample(tmp_path_factory) -> Callable[[Path], Path]:
    "Copies the generated sample with its splits to a folder."
    from clipsent_nb.data import make_splits
    from clipsent_nb.files import Workspace
    from clipsent_nb.sample import make_sample

    source = make_sample(tmp_path_factory.mktemp("drawn") / "sample")
    make_splits(Workspace(source), val_ratio=0.2)
    return lambda folder: Path(shutil.copytree(source, folder))


@pytest.fixture(scope="session")
def fresh_run(fresh_sample, tmp_path_factory) -> Callable[[Path], Path]:
    "Copies the sample with a run of one epoch, outputs/optimize/clip, to a folder."
    from clipsent_nb.train import sample_run

    source = fresh_sample(tmp_path_factory.mktemp("trained") / "sample")
    sample_run(source, epochs=1)
    return lambda folder: Path(shutil.copytree(source, folder))
