"""What a prediction refuses to do."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from clipsent_nb.cli import main
from clipsent_nb.data import make_splits
from clipsent_nb.files import ClipsentError
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.runs import TrainConfig
from clipsent_nb.sample import make_sample
from clipsent_nb.train import fit

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = make_sample(tmp_path_factory.mktemp("posts") / "sample")
    make_splits(root, val_ratio=0.2, progress=False)
    fit(TrainConfig(project_root=root, model_name="tiny_clip", epochs=1, lr=1e-3, freeze_epochs=0), progress=False)
    return root


WEIGHTS = Path("outputs/optimize/clip/best.pt")


@pytest.mark.parametrize("output", ["train.txt", "test_without_label.txt", "data"])
def test_inputs_are_not_replaced(root, output):
    before = (root / "train.txt").read_bytes()
    with pytest.raises(ClipsentError, match="--output"):
        predict_file(WEIGHTS, Path(output), root, progress=False)
    assert (root / "train.txt").read_bytes() == before


@pytest.mark.parametrize(
    ("texts", "images"), [([None], ["x.jpg"]), (["hi"], None), ("hi", ["x.jpg"]), (["hi"], []), ([], ["x.jpg"])]
)
def test_misshapen_posts_are_our_error(root, texts, images):
    with pytest.raises(ClipsentError):
        Classifier.load(root / WEIGHTS).predict(texts, images)


def test_weights_alone_need_the_name_of_the_encoder(root, tmp_path):
    moved = tmp_path / "best.pt"
    moved.write_bytes((root / WEIGHTS).read_bytes())
    with pytest.raises(ClipsentError, match="--model-name tiny_clip"):
        Classifier.load(moved, offline=True)
    picture = Image.new("RGB", (50, 80), "gold")
    answers = [
        Classifier.load(root / WEIGHTS).predict(["lovely"], [picture]),
        Classifier.load(moved, model_name=str(root / "tiny_clip")).predict(["lovely"], [picture]),
    ]
    assert answers[0].equals(answers[1])


@pytest.mark.parametrize(
    "flags",
    [
        ["predict", "--weights", str(WEIGHTS), "--batch-size", "0"],
        ["predict", "--weights", "nowhere/best.pt"],
        ["optimize", "--seed", "-1"],
        ["splits", "--seed", "-1"],
        ["optimize", "--model-name", "tiny_clip", "--ablate-text", "--ablate-image", "--output-dir", "both"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(root, flags, capsys):
    assert main([*flags, "--project-root", str(root), "--no-progress"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sample_keeps_its_hands_off_other_posts(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jpg").write_bytes(b"mine")
    with pytest.raises(ClipsentError, match="holds other posts"):
        make_sample(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.jpg"]


def test_sample_is_the_same_twice(tmp_path):
    import subprocess
    import sys

    for name in "ab":  # two processes, because hash seeds differ between them
        subprocess.run([sys.executable, "-m", "clipsent_nb.cli", "sample", tmp_path / name], check=True)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) > 700
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_weights_of_an_unfinished_run_are_said_to_be_so(root, capsys):
    (root / WEIGHTS).with_name("last.pt").write_bytes(b"")
    Classifier.load(root / WEIGHTS)
    (root / WEIGHTS).with_name("last.pt").unlink()
    assert "not finished" in capsys.readouterr().err
