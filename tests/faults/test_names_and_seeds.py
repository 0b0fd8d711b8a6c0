"""Other posts under the same names; seeds and presets that were meant; tables with holes; parts of a run on their own."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import FAMILIES, write_encoder
from runfolders import record_parts

from clipsent_nb import stage, steps
from clipsent_nb.badcases import mine
from clipsent_nb.batches import Execution, PlannedRun
from clipsent_nb.cli import parse
from clipsent_nb.config import TrainConfig
from clipsent_nb.copies import find_copies
from clipsent_nb.data import make_splits, read_split, with_content
from clipsent_nb.encoders import load_processors
from clipsent_nb.files import ClipsentError, Workspace, read_json, write_csv, write_json
from clipsent_nb.heads import VariantConfig, heads, plan_heads
from clipsent_nb.labels import choose_labels
from clipsent_nb.predict import Classifier, predict_file
from clipsent_nb.preprocess import plan_preprocess
from clipsent_nb.recipes import recipes
from clipsent_nb.runs import Run
from clipsent_nb.sample import make_sample
from clipsent_nb.stage import run_stage
from clipsent_nb.state import load_inputs, sample_config
from clipsent_nb.train import fit, sample_run
from clipsent_nb.trained import digest_processors

torch.set_num_threads(1)
RUN = Path("outputs/optimize/clip")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fresh_run) -> Path:
    return fresh_run(tmp_path_factory.mktemp("names") / "sample")


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A project of its own with a short run."
    return Path(shutil.copytree(trained, tmp_path / "sample"))


def renumbered(posts: pd.DataFrame) -> pd.DataFrame:
    "The posts under numbers from 0 on, each a group of its own."
    numbers = [str(number) for number in range(len(posts))]
    return posts.assign(guid=numbers, group=numbers)


def test_posts_of_another_list_with_the_same_numbers_are_not_met(root):
    for name in ("train", "val"):
        posts = read_split(root / f"outputs/splits/{name}.csv")
        write_csv(renumbered(posts), root / f"{name}.csv")
    own = {"train_csv": Path("train.csv"), "val_csv": Path("val.csv")}
    assert load_inputs(sample_config(root, **own)).leaked == []


def test_a_post_and_its_group_are_met_under_their_name_if_one_half_is_the_same(root):
    posts = with_content(read_split(root / "outputs/splits/train.csv"), Workspace(root))[0].head(3)
    alone = posts.assign(group=["author", "author", posts.guid.iloc[2]], text_key="", image_hash="")
    known = alone.head(1).assign(text_digest="edited")
    assert find_copies(alone, known).tolist() == [True, True, False]
    other = known.assign(image_digest="another")
    assert find_copies(alone.assign(group=alone.guid), other.assign(group=other.guid)).sum() == 0
    assert find_copies(alone, other).tolist() == [True, True, False]  # a group that is not called after its post


def test_a_group_called_after_another_post_of_the_same_name_says_nothing(root):
    posts = read_split(root / "outputs/splits/train.csv").head(6)
    posts = renumbered(with_content(posts, Workspace(root))[0]).assign(text_key="", image_hash="")
    one, other = posts.head(3), posts.tail(3).assign(guid=["0", "1", "2"])
    assert find_copies(one.assign(group="0"), other.assign(group="0")).sum() == 0


def test_seeds_count_whichever_class_the_settings_have(root):
    for config in (TrainConfig, VariantConfig):
        own, dry = {"project_root": root, "epochs": 1, "model_name": "tiny_clip"}, Execution(dry_run=True)
        assert recipes(config(**own), seeds=[1, 2, 3], execution=dry).count("balanced") == 3
        assert recipes(config(**own), execution=dry).count("balanced") == 5
        assert recipes(config(**own, seed=7), execution=dry).count("balanced") == 1
        assert recipes(config(**own, seed=7), seeds=[1, 2], execution=dry).count("balanced") == 2
        assert heads(config(**own), variants="mlp", execution=dry).count("mlp") == 3


@pytest.mark.parametrize("step", ["baseline", "heads", "preprocess", "retrain"])
@pytest.mark.parametrize(
    ("preset", "message"), [("quik", "quik unknown; did you mean quick"), ("balanced", "each tower has its own flag")]
)
def test_a_preset_that_cannot_be_used_is_said_before_the_first_step(tmp_path, step, preset, message):
    root = make_sample(tmp_path / "sample")
    more = "trainable_blocks = 1\n" if preset == "balanced" else ""
    (root / "s.toml").write_text(f'[train]\nmodel_name = "tiny_clip"\n[{step}]\npreset = "{preset}"\n{more}')
    with pytest.raises(ClipsentError, match=rf"\[{step}\] .*{message}"):
        run_stage(settings=root / "s.toml", workspace=Workspace(root), only="splits,baseline,heads,preprocess,retrain")
    assert not (root / "outputs/splits").exists()


@pytest.mark.parametrize("command", ["heads", "preprocess"])
def test_a_preset_stands_below_what_is_given_for_variants_too(root, command):
    own = {"project_root": str(root), "model_name": "tiny_clip", "seeds": "1"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()]
    typed = parse(command, [*words, "--preset", "quick", "--epochs", "3"])
    given = VariantConfig(project_root=root, model_name="tiny_clip", epochs=3)
    plan = {"heads": plan_heads, "preprocess": plan_preprocess}[command]
    more = {"heads": {"variants": "mlp"}, "preprocess": {"rules": "none", "rules_file": None}}[command]
    [config] = plan(given, seeds="1", preset="quick", **more)
    for one in (typed.keywords["config"], config):
        assert (one.epochs, one.trainable_blocks, one.class_weights, one.lr) == (3, 0, "sqrt", 1e-3)
    with pytest.raises(ClipsentError, match="--preset quik: unknown; did you mean quick"):
        plan(given, seeds="1", preset="quik", **more)


@pytest.mark.parametrize("hole", [None, float("nan"), pd.NA])
@pytest.mark.parametrize("column", ["text_path", "image_path", "encoding", "label"])
def test_a_hole_in_a_table_is_no_value(root, column, hole):
    posts = read_split(root / "outputs/splits/val.csv").head(4).astype(object)
    posts.loc[1, column] = hole
    model, workspace = Classifier.load(root / RUN), Workspace(root, max_bad="50%")
    assert len(model.predict_posts(posts, workspace)[0]) == (3 if "path" in column else 4)
    with pytest.raises(ClipsentError, match="--batch-size 0"):
        model.predict_posts(posts, workspace, batch_size=0)


def test_rows_of_several_tables_keep_their_index(root):
    parts = [read_split(root / f"outputs/splits/{name}.csv").drop(columns="image_digest") for name in ("val", "train")]
    posts = pd.concat([part.head(3) for part in parts])
    found, problems = with_content(posts, Workspace(root))
    assert found.index.tolist() == posts.index.tolist() == [0, 1, 2, 0, 1, 2] and problems == []
    assert found.guid.tolist() == posts.guid.tolist() and found.image_digest.ne("").all()


def test_folds_do_not_part_copies_that_a_list_has_parted(root):
    train = read_split(root / "outputs/splits/train.csv")
    copies = train.group.duplicated(keep=False)
    assert copies.any()
    write_csv(train.assign(group=train.guid), root / "own.csv")
    config = sample_config(root, train_csv=Path("own.csv"), output_dir=Path("outputs/folds"), epochs=1, lr=1e-4)
    mine(config, folds=2, report=False)
    assert not any(Run.load(root / f"outputs/folds/fold_{fold}_of_2").metrics["leaked"] for fold in (0, 1))


def test_confidences_of_posts_that_were_trained_on_promise_nothing(root, caplog):
    model = Classifier.load(root / RUN)
    model.confidence_at(0.9)
    assert "do not hold" not in caplog.text
    metrics = root / RUN / "metrics.json"
    write_json(metrics, read_json(metrics) | {"leaked": True})
    record_parts(root / RUN)
    picture = next((root / "data").glob("*.jpg"))
    for ask in (lambda: model.confidence_at(0.9), lambda: model.predict_sets(["so good"], [picture])):
        caplog.clear()
        ask()
        assert "trained on, or copies of them: shares and sets that rest on them do not hold" in caplog.text
    caplog.clear()
    predict_file(root / RUN, Workspace(root), coverage=0.9)
    assert "do not hold" in caplog.text


@pytest.mark.parametrize("part", ["tokenizer.json", "preprocessor_config.json", None])
def test_weights_beside_another_tokenizer_or_image_processor_warn(root, caplog, part):
    "Of the same shape: a vocabulary in another order, pixels scaled otherwise."
    other, alone = root / "other_clip", root / "alone"
    shutil.copytree(root / "tiny_clip", other)
    alone.mkdir()
    shutil.copy(root / RUN / "best.pt", alone)
    if part == "tokenizer.json":
        values = read_json(other / part)
        words = list(values["model"]["vocab"])[10:-10]
        numbers = [values["model"]["vocab"][word] for word in words]
        values["model"]["vocab"] |= dict(zip(words, np.roll(numbers, 1).tolist(), strict=True))
        write_json(other / part, values)
    elif part:
        write_json(other / part, read_json(other / part) | {"image_mean": [0.1, 0.2, 0.3]})
    Classifier.load(alone / "best.pt", model_name=other)
    assert ("trained with another tokenizer or image processor" in caplog.text) == bool(part)


@pytest.mark.parametrize("made", ["by hand", "by a command"])
def test_the_stage_does_not_undo_splits_that_it_has_not_made(tmp_path, made, monkeypatch):
    monkeypatch.setattr(stage, "write_index", lambda workspace: None)  # the page takes ten seconds
    root = make_sample(tmp_path / "sample")
    make_splits(Workspace(root), val_ratio=0.3)
    folder = root / "outputs/splits"
    if made == "by hand":
        write_csv(read_split(folder / "val.csv").head(9), folder / "val.csv")
    before = {path: path.read_bytes() for path in [*folder.glob("*.csv"), root / "outputs/duplicates.csv"]}
    for killed in (False, False, True):
        if killed:
            record = {"splits": {"state": "begun", "inputs": {}, "outputs": {}}}
            write_json(root / "outputs/reports/steps.json", record)
        with pytest.raises(
            ClipsentError, match="splits: splits made otherwise are there, and .* change sides; nothing"
        ):
            run_stage(workspace=Workspace(root), only="splits")
        assert {path: path.read_bytes() for path in before} == before
    if made == "by a command":
        (root / "s.toml").write_text("[splits]\nval_ratio = 0.3\n")
        run_stage(settings=root / "s.toml", workspace=Workspace(root), only="splits")
    run_stage(workspace=Workspace(root), only="splits", overwrite=True)
    ours = (folder / "val.csv").read_bytes()
    assert ours != before[folder / "val.csv"]
    (root / "s.toml").write_text("[splits]\nval_ratio = 0.2\n")  # what the stage made it may make anew
    run_stage(settings=root / "s.toml", workspace=Workspace(root), only="splits")
    assert (folder / "val.csv").read_bytes() != ours


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"nuetral": 28, "neutral": 1, "positive": 9, "negative": 9}, "'nuetral' .28. for 'neutral' .1."),
        ({"neutrall": 26, "positive": 9, "negative": 9}, "'neutrall' .26. for 'neutral' .0."),
        ({"natural": 26, "positive": 9, "negative": 9}, None),
        ({"neutralize": 26, "keep": 9}, None),
        ({"positiv": 26, "neutral": 9, "negativ": 20}, None),  # German
        ({"postive": 26, "neutral": 9, "negative": 20, "positive": 3}, "'postive' .26. for 'positive' .3."),
    ],
)
def test_a_common_name_close_to_a_rare_default_is_a_slip(tags, found):
    values = pd.Series([tag for tag, count in tags.items() for _ in range(count)])
    if found:
        with pytest.raises(ClipsentError, match=f"look like slips .*{found}"):
            choose_labels(values)
    else:
        assert set(choose_labels(values)[0]) >= set(tags) - {"positive", "negative"}


def test_a_misspelt_name_of_labels_is_said_before_any_post_is_left_out(tmp_path):
    root = make_sample(tmp_path / "sample")
    with pytest.raises(ClipsentError, match="--labels .*postive: no post is 'postive', but .* are 'positive'; write"):
        make_splits(Workspace(root), labels="negative,neutral,postive")


def test_a_head_alone_at_the_rate_of_an_encoder_is_warned_of(trained, root, caplog):
    for settings, warned in (
        ({"head_lr": None}, True),
        ({"head_lr": 1e-3}, False),
        ({"head_lr": None, "lr": 1e-3}, False),
    ):
        caplog.clear()
        sample_run(
            root,
            output_dir=Path("outputs/head"),
            trainable_blocks=0,
            epochs=1,
            overwrite=True,
            **({"lr": TrainConfig.lr} | settings),
        )
        assert ("meant for a whole encoder" in caplog.text) == warned


def test_what_one_post_lacks_is_named_by_its_flag(root):
    for given, lacking in (({"text": "so good"}, "--image: is missing"), ({"image": Path("data/1.jpg")}, "--text: is")):
        with pytest.raises(ClipsentError, match=lacking):
            predict_file(RUN, Workspace(root), **given)


def test_a_run_that_is_not_there_names_one_that_is(root):
    for name in ("outputs/optimize/clp", "outputs/optimize/clp/best.pt", "outputs/optimise/clip/best.pt", "clip"):
        with pytest.raises(ClipsentError, match=f"{name}: no such file; did you mean .*outputs/optimize(/clip)?[?]"):
            Classifier.load(name, Workspace(root))


def test_the_folder_of_an_export_says_what_reads_it(tmp_path):
    (tmp_path / "onnx.json").write_text("{}")
    with pytest.raises(ClipsentError, match="no such file; its folder holds an exported graph, which .*OnnxClassifier"):
        Classifier.load(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_how_an_encoder_reads_is_the_same_from_its_folder_in_a_run(tmp_path, family):
    own = load_processors(write_encoder(tmp_path / "own", family))
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    for part in own:
        part.save_pretrained(tmp_path / "copy")
    assert digest_processors(*load_processors(tmp_path / "copy")) == digest_processors(*own)


def test_a_preset_for_all_trainings_stands_below_what_is_written(tmp_path):
    (tmp_path / "s.toml").write_text(
        '[train]\npreset = "quick"\nepochs = 7\n[retrain]\nbatch_size = 4\n[heads]\nseeds = "1"\n'
    )
    settings = steps.read_settings(tmp_path / "s.toml")
    assert settings["train"].items() >= {"epochs": 7, "trainable_blocks": 0, "lr": 1e-3, "batch_size": 32}.items()
    assert "preset" not in settings["train"] and settings["baseline"].keys() == {"head_variant"}
    assert settings["retrain"]["batch_size"] == 4 and settings["heads"] == {"seeds": "1"}
    (tmp_path / "s.toml").write_text('[train]\npreset = "quik"\n')
    with pytest.raises(ClipsentError, match=r"s.toml: \[train\] preset = 'quik': unknown; did you mean quick"):
        steps.read_settings(tmp_path / "s.toml")


def test_posts_that_change_sides_are_counted(root, caplog):
    workspace = Workspace(root)
    val = set(read_split(root / "outputs/splits/val.csv").guid)
    make_splits(workspace, val_ratio=0.5)
    moved = len(set(read_split(root / "outputs/splits/val.csv").guid) ^ val)
    assert f"{moved} posts change sides" in caplog.text
    caplog.clear()
    make_splits(workspace, val_ratio=0.5)
    (root / "outputs/splits/val.csv").write_text("no table")
    make_splits(workspace, val_ratio=0.2)  # damaged files are replaced all the same
    assert len(read_split(root / "outputs/splits/val.csv")) and not caplog.text.count("change sides")


def test_texts_alone_can_be_asked(root):
    model = Classifier.load(root / RUN)
    with pytest.raises(ClipsentError, match="picture 0: is missing; the model was trained on posts with both"):
        model.predict(["a text"])
    with pytest.raises(ClipsentError, match="images: are one str"):
        model.predict(["a text"], "picture.jpg")
    with pytest.raises(ClipsentError, match="texts: are one NoneType"):
        model.predict(None)
    run = fit(sample_config(root, output_dir=Path("outputs/both"), modality_dropout=0.2, epochs=1))
    both = Classifier.load(run.folder)
    pd.testing.assert_frame_equal(both.predict(["a text", "b"]), both.predict(["a text", "b"], [None, None]))
    assert len(both.predict(iter(["a text"]))) == 1


def test_an_accuracy_that_guessing_reaches_is_said(root):
    run = Run.load(root / RUN)
    share = np.bincount(run.labels).max() / len(run.labels)
    for accuracy, said in ((share, True), (share + 0.02, True), (0.99, False)):
        poor = replace(run, metrics=run.metrics | {"best_val_acc": accuracy})
        object.__setattr__(poor, "predictions", run.predictions)
        assert ("not clearly above that of always answering positive" in str(poor)) == said


def test_a_run_is_called_by_its_folder_where_many_settings_vary(root):
    values = {name: False for name in ("fix_mojibake", "unescape_html", "replace_urls", "replace_emoji", "image_aug")}
    config = sample_config(root, output_dir=Path("outputs/rules/improved_seed43"))
    assert PlannedRun(config, {}, values).name == "improved_seed43"
    assert PlannedRun(config, {}, {"lr": 1e-3}).name == "lr 0.001"
