"""The page answers like the classifier, for people and programs, and keeps nothing."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from clipsent_nb import demo
from clipsent_nb.cli import main
from clipsent_nb.files import ClipsentError
from clipsent_nb.predict import Classifier
from clipsent_nb.train import sample_run


def test_without_gradio_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "a_run"]) == 2
    line = capsys.readouterr().err
    assert "needs gradio, which is not installed; run `pip install clipsent_nb[demo]`" in line and line.count("\n") == 1


@pytest.mark.slow
def test_the_page_answers_like_the_classifier_and_keeps_nothing(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from gradio_client import Client, exceptions, handle_file

    root = sample_run(tmp_path / "sample", epochs=1).folder.parents[2]
    classifier, picture = Classifier.load(root / "outputs/optimize/clip"), next((root / "data").glob("*.jpg"))
    expected = classifier.predict(["so good"], [picture]).iloc[0]
    (tmp_path / "place").mkdir()
    page = demo.build_page(classifier, "demo", tmp_path / "place")
    _, address, _ = demo.launch(page, "127.0.0.1", None)
    client = Client(address, verbose=False)
    bars, sentence, figure = client.predict("so good", handle_file(picture), 0, api_name="/answer")
    found = {one["label"]: one["confidence"] for one in bars["confidences"]}
    assert found == pytest.approx({label: expected[f"p_{label}"] for label in classifier.labels})
    assert expected.pred_label in sentence and figure["plot"].startswith("data:image")
    assert "No answer" in client.predict("so good", handle_file(picture), 1, api_name="/answer")[1]
    pd.DataFrame({"text": ["so good"], "image": [picture.name]}).to_csv(tmp_path / "new.csv", index=False)
    files = handle_file(tmp_path / "new.csv"), [handle_file(picture)]
    answers = client.predict(*files, api_name="/table")
    assert answers["data"][0][1] == expected.pred_label
    with pytest.raises(exceptions.AppError, match="picture 0: is missing"):
        client.predict("so good", None, 0, api_name="/answer")
    assert page.local_url.startswith("http://127.0.0.1:") and not page.share and not page.analytics_enabled
    assert page.delete_cache == (60, 120)  # seconds between looks, and after which an upload is removed
    page.close(verbose=False)


def test_no_confidence_that_is_asked_for_is_none():
    class Sure:
        labels = ("a", "b")

        def predict(self, texts: list, images: list) -> pd.DataFrame:
            return pd.DataFrame({"pred_label": ["a"], "confidence": [0.5], "p_a": [0.5], "p_b": [0.5]})

    assert "**a**" in demo.answer_post(Sure(), "so good", None, None)[1]
    assert "No answer" in demo.answer_post(Sure(), "so good", None, "0.75")[1]
    for threshold in (2, "much", float("nan")):
        with pytest.raises(ClipsentError, match="--abstain-below"):
            demo.answer_post(Sure(), "so good", None, threshold)


def test_pictures_of_a_table_are_found_by_name_and_not_mistaken(tmp_path):
    class Reader:
        may_lack, labels = frozenset(), ("a", "b")

        def predict_block(self, block: list, first: int, batch_size: int) -> pd.DataFrame:
            names = [Path(image).parent.name + Path(image).name for _, image in block]
            return pd.DataFrame({"pred_label": "a", "confidence": 0.5, "p_a": 0.5, "p_b": names})

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(b"")
    pd.DataFrame({"text": ["x"], "image": ["data/x.jpg"]}).to_csv(tmp_path / "t.csv", index=False)
    found = demo.answer_table(Reader(), tmp_path / "t.csv", str(tmp_path / "one/x.jpg"))
    assert found.p_b[0].endswith("x.jpg")
    with pytest.raises(ClipsentError, match="x.jpg: two pictures have this name"):
        demo.answer_table(Reader(), tmp_path / "t.csv", [tmp_path / "one/x.jpg", tmp_path / "two/x.jpg"])


def test_a_table_on_the_page_reads_no_file_of_this_machine(tmp_path):
    class Blind:
        may_lack, labels = frozenset(), ("a", "b")

    for name in ("/etc/passwd", "../secret.jpg"):
        pd.DataFrame({"text": ["x"], "image": [name]}).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ClipsentError, match="leads out of the data root"):
            demo.answer_table(Blind(), tmp_path / "t.csv")
    with pytest.raises(ClipsentError, match="table: no file was given"):
        demo.answer_table(Blind(), None)
    pd.DataFrame({"text": ["x"] * 1001, "image": ["a.jpg"] * 1001}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ClipsentError, match="more than 1000 rows"):
        patch.setattr(demo, "open_part", lambda part, encoding: part)
        patch.setattr(demo, "answer_part", lambda *given: pd.DataFrame())
        demo.answer_table(Blind(), Path(tmp_path / "t.csv"))
