"""An exported model answers as its run does, without torch, and a faulty export is not kept."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders import FAMILIES, export_difference, write_encoder
from PIL import Image

from clipsent_nb.encoders import load_encoder, load_processors
from clipsent_nb.export import EXPORT_FILES, OnnxClassifier, export, write_export
from clipsent_nb.files import ClipsentError, Workspace, read_json, write_json
from clipsent_nb.inputs import inputs_from_memory
from clipsent_nb.model import DualEncoderClassifier
from clipsent_nb.runs import RunFolder
from clipsent_nb.sample import tiny_clip
from clipsent_nb.trained import calibrate

torch.set_num_threads(1)
TEXTS = ["What a good day", "bad", "so many words that the text is much longer than the others of its batch"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("export") / "tiny_clip")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for shape in ((80, 50), (33, 99), (64, 64))
    ]


@pytest.fixture(
    scope="module", params=[{}, {"ablate_text": True}, {"ablate_image": True, "head_variant": "gated"}], ids=str
)
def pair(request, encoder, tmp_path_factory) -> tuple[SimpleNamespace, Path]:
    "An untrained classifier and its export."
    torch.manual_seed(0)
    model = DualEncoderClassifier(load_encoder(encoder), **request.param).eval()
    tokenizer, image_processor = load_processors(encoder)
    classifier = SimpleNamespace(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        config={"hashtags": "keep"},
        adjustment={"tau": 0.5, "shares": [0.2, 0.1, 0.7]},
        temperature=1.7,
        may_lack=set(),
    )
    folder = tmp_path_factory.mktemp("export") / "onnx"
    write_export(classifier, folder)
    return classifier, folder


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("siglip2", "swin_bert"))) for name in FAMILIES],
)
def test_the_graph_of_each_family_answers_as_the_model_does(tmp_path, family):
    folder = write_encoder(tmp_path / "encoder", family)
    if family == "siglip":
        with pytest.raises(ClipsentError, match="SiglipTokenizer: runs in Python only, so it cannot be exported"):
            export_difference(folder, tmp_path / "onnx")
    else:
        assert export_difference(folder, tmp_path / "onnx") < 1e-5


@pytest.mark.parametrize("count", [1, 3])
def test_the_graph_answers_as_the_model_does(pair, pictures, count):
    classifier, folder = pair
    processors = classifier.tokenizer, classifier.image_processor
    inputs = inputs_from_memory(TEXTS[:count], pictures[:count], processors, classifier.config)
    batch = inputs.batch(np.arange(count))
    with torch.no_grad():
        logits = classifier.model(batch["input_ids"], batch["attention_mask"], batch["pixel_values"])
    found = OnnxClassifier.load(folder, threads=1).predict(TEXTS[:count], pictures[:count])
    expected = calibrate(logits.softmax(-1).numpy(), classifier.adjustment, classifier.temperature)
    np.testing.assert_allclose(found.filter(like="p_"), expected, atol=1e-5)


def test_an_export_is_read_without_torch(pair, pictures, tmp_path):
    "Also not by way of another module: whoever asks for one of these gets an ImportError."
    pictures[0].save(tmp_path / "a.png")
    blocked = "torch transformers accelerate safetensors huggingface_hub sklearn scipy seaborn matplotlib onnx".split()
    program = "\n".join(
        [
            "import sys",
            f"sys.modules.update(dict.fromkeys({blocked}))",
            "from clipsent_nb.export import OnnxClassifier",
            "classifier = OnnxClassifier.load(sys.argv[1], threads=1)",
            "print(len(classifier.predict(['good #Day 😀 &amp; caf&eacute;'], [sys.argv[2]])))",
        ]
    )
    command = [sys.executable, "-c", program, str(pair[1]), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


def test_a_damaged_export_is_refused_in_a_line(pair, tmp_path):
    for name in ("onnx.json", "tokenizer.json", "model.onnx"):
        (tmp_path / name).write_bytes((pair[1] / name).read_bytes()[: None if name == "onnx.json" else 500])
    with pytest.raises(ClipsentError, match="cannot be loaded .*; export the run again") as caught:
        OnnxClassifier.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "1"}, "onnx.json: damaged .its format is no number"),
        ({"labels": ["a", "b"]}, "onnx.json: names other classes than the 3 of model.onnx"),
        ({"labels": "abc"}, "onnx.json: names other classes"),
        ({"format": True}, "onnx.json: damaged .its format is no number"),
        ({"labels": ["a", "a", "b"]}, "its three files are not of one export"),
        ({"pictures": {}}, "its three files are not of one export"),
        ({"width": 9}, "its three files are not of one export"),
    ],
)
def test_a_description_that_is_not_the_graphs_is_refused(pair, tmp_path, values, message):
    folder = Path(shutil.copytree(pair[1], tmp_path / "onnx"))
    write_json(folder / "onnx.json", read_json(folder / "onnx.json") | values)
    with pytest.raises(ClipsentError, match=message):
        OnnxClassifier.load(folder)


def test_an_export_by_weights_or_a_relative_root_goes_beside_them_and_leaves_other_files(
    tmp_path, monkeypatch, fresh_run
):
    root = fresh_run(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    found = export(Path("outputs/optimize/clip/best.pt"), Workspace(Path("sample")))
    folder = root / "outputs/optimize/clip/onnx"
    assert found.agreement >= 0.99 and {path.name for path in folder.iterdir()} == set(EXPORT_FILES)
    (folder / "server.py").write_text("mine")
    stamp = (folder / "model.onnx").stat().st_ino
    export(Path("outputs/optimize/clip"), Workspace(root))
    assert (folder / "server.py").read_text() == "mine" and (folder / "model.onnx").stat().st_ino != stamp


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ClipsentError, match="--output .*: exists and holds no export"):
        export(Path("run"), Workspace(tmp_path), output=Path("photos"))


def test_a_run_that_is_trained_again_loses_its_old_exports(tmp_path):
    for name in ("encoder", "onnx", "onnx_int8", "mine"):
        (tmp_path / name).mkdir()
    for file in ("onnx/model.onnx", "onnx_int8/onnx.json", "onnx_int8/server.py"):
        (tmp_path / file).write_text("")
    RunFolder(tmp_path).clear()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "onnx_int8", "server.py"]


@pytest.mark.parametrize(
    ("texts", "images", "batch_size", "message"),
    [
        ("lovely", ["a.jpg"] * 6, 32, "texts"),
        ({"a": 1}, ["a.jpg"], 32, "texts"),
        (["a", "b"], [], 32, "post 0: has no picture"),
        ([None], ["a.jpg"], 32, "text 0"),
        (["a"], ["a.jpg"], 0, "batch_size 0"),
    ],
)
def test_posts_are_checked_as_by_the_run_itself(pair, texts, images, batch_size, message):
    with pytest.raises(ClipsentError, match=message):
        OnnxClassifier.load(pair[1]).predict(texts, images, batch_size)
