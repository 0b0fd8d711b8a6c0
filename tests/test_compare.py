"""Comparison with the baseline: who may be ranked, what is read, trained and written, and what is refused."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from runfolders import put_predictions

from clipsent_nb.cli import parse
from clipsent_nb.compare import (
    BASELINE,
    compare,
    compare_with_first,
    conclude_ranking,
    describe_settings,
    gather_contenders,
    group_seeds,
    name_groups,
    pick_best,
    rank_contenders,
    refuse_changed,
    render_ranking,
    repeat_command,
    slip_of,
)
from clipsent_nb.config import TrainConfig, differing, identity
from clipsent_nb.decisions import cross_fit_temperature
from clipsent_nb.files import ClipsentError, write_json
from clipsent_nb.heads import CROSS_FITTED, Contender, make_contender, validation_posts
from clipsent_nb.labels import LABELS
from clipsent_nb.references import REFERENCES, ask_zero_shot, fit_references
from clipsent_nb.runs import Run
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit, sample_run

OPTIMIZE = Path("outputs/optimize")


@pytest.fixture(scope="module")
def made(tmp_path_factory, fresh_sample):
    "A project with a baseline, a run, and one that has met half of its validation posts."
    root = fresh_sample(tmp_path_factory.mktemp("compare") / "sample")
    sample_run(root, epochs=2)
    base = sample_config(root, head_variant="base", epochs=1, output_dir=OPTIMIZE / "baseline")
    fit(base)
    train, val = (pd.read_csv(root / f"outputs/splits/{name}.csv", dtype=str) for name in ("train", "val"))
    pd.concat([train, val.iloc[::2]]).to_csv(root / "outputs/splits/half.csv", index=False)
    half = replace(base, train_csv=Path("outputs/splits/half.csv"), output_dir=OPTIMIZE / "half")
    fit(half)
    return root


@pytest.fixture
def project(made, tmp_path):
    "A copy that a test may change."
    return Path(shutil.copytree(made, tmp_path / "project"))


def baseline_of(root, **changes):
    settings = {"head_variant": "base", "epochs": 1, "output_dir": OPTIMIZE / "baseline"}
    return sample_config(root, **settings | changes)


def compared(root, runs="", **changes):
    return compare(baseline_of(root, **changes), runs, report=False)


def edit_json(path, **values):
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def copy_run(root, name, to, **metrics):
    "A copy of a run, with other metrics if they are given."
    folder = shutil.copytree(root / OPTIMIZE / name, root / OPTIMIZE / to)
    edit_json(folder / "metrics.json", **metrics)
    return folder


def test_a_leaked_run_is_struck_out_and_not_ranked_however_high_its_score(project):
    folder = project / OPTIMIZE / "half"
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    for label in ("negative", "neutral", "positive"):
        table[f"p_{label}"] = (table.true_label == label).astype(float)
    put_predictions(folder, table)
    (folder / "val_epochs.npy").unlink()
    found = compared(project).table.set_index("model")
    assert found.loc["half", "val_f1_macro"] == found.loc["half", CROSS_FITTED] == found.val_f1_macro.max() == 1
    assert found.index[-1] == "half" and pd.isna(found.loc["half", "rank"]) and pd.isna(found.loc["half", "p"])
    assert not found.loc["half", "may_be_best"]
    assert found["rank"].dropna().tolist() == [1, 2, 3, 4, 5, 6]
    metrics = Run.load(folder).metrics
    assert found.loc["half", "unseen_val_f1_macro"] == pytest.approx(metrics["unseen_val_f1_macro"])
    page = render_ranking(found.reset_index())
    assert page.count("<s>") == 4 and "<s>1.000</s>" in page
    assert f"{metrics['unseen_val_f1_macro']:.3f} on the {metrics['unseen_val_posts']} posts not in train" in page
    posts, contenders, _ = gather_contenders(baseline_of(project), "")
    words = conclude_ranking(found.reset_index(), posts, contenders)
    assert "highest of the other runs is `clip`" in words and "chosen among 2 on these posts" in words
    assert "With one seed nothing is judged" in words


def test_no_row_is_struck_out_without_a_leak(project):
    table = compared(project, str(OPTIMIZE / "clip")).table
    assert "<s>" not in render_ranking(table) and table["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_copy_of_the_baseline_has_no_difference_and_is_no_second_seed(project):
    copy_run(project, "baseline", "twin")
    table = compared(project, str(OPTIMIZE / "twin")).table.set_index("model")
    assert table.loc["twin", ["difference", "p", "verdict"]].tolist() == [0, 1, "one seed: not judged"]
    assert table.loc["baseline", "seeds"] == 1


def test_another_seed_of_the_baseline_joins_it(project):
    folder = copy_run(project, "baseline", "baseline_seed7")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit_json(folder / "config.json", seed=7, identity=config["identity"] | {"seed": 7})
    table = compared(project, str(OPTIMIZE / "baseline_seed7")).table.set_index("model")
    assert table.loc["baseline", "seeds"] == 2 and "baseline_seed7" not in table.index


def test_the_seeds_of_one_batch_are_not_parted_by_a_run_with_one_of_them(project):
    folder = copy_run(project, "baseline", "batch/one")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for seed in (7, 8):
        copy_run(project, "batch/one", f"batch/seed{seed}")
        edit_json(
            project / OPTIMIZE / f"batch/seed{seed}/config.json",
            seed=seed,
            identity=config["identity"] | {"seed": seed},
        )
    names = ("baseline", "batch/seed7", "batch/seed8", "batch/one")
    groups = group_seeds([Run.load(project / OPTIMIZE / name) for name in names])
    assert [[run.folder.name for run in group] for group in groups] == [["baseline"], ["seed7", "seed8", "one"]]


@pytest.mark.parametrize(("name", "meant"), [("baselnie", "baseline"), ("Baseline", "baseline"), ("halff", "half")])
def test_a_misspelt_baseline_is_not_trained(project, name, meant):
    with pytest.raises(ClipsentError, match=f"--output-dir .*{name}: no run is there; did you mean .*{meant}[?] "):
        compared(project, output_dir=OPTIMIZE / name)
    assert not (project / OPTIMIZE / name).exists()


def test_a_baseline_of_another_number_is_no_slip():
    assert not slip_of("baseline_2", ["baseline_1"]) and not slip_of("baseline", ["baseline2", "clip"])


def test_a_setting_that_does_nothing_parts_no_seeds_and_is_not_typed_again(project):
    folder = copy_run(project, "clip", "idle")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"seed": 7, "focal_gamma": 3.0}
    edit_json(folder / "config.json", **own, identity=config["identity"] | own)
    found = [Run.load(project / OPTIMIZE / name) for name in ("clip", "idle")]
    assert [len(group) for group in group_seeds(found)] == [2]
    _, words = repeat_command(found[1], TrainConfig(project))
    assert "gamma" not in words and "--seed 8" in words
    parse("optimize", shlex.split(words)[2:])  # takes them
    edit_json(folder / "config.json", loss="focal", identity=config["identity"] | own | {"loss": "focal"})
    found = [Run.load(project / OPTIMIZE / name) for name in ("clip", "idle")]
    assert [len(group) for group in group_seeds(found)] == [1, 1]
    assert "--focal-gamma 3.0" in repeat_command(found[1], TrainConfig(project))[1]


def test_runs_on_other_posts_are_refused_if_named_and_listed_if_found(project):
    folder = copy_run(project, "clip", "old")
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    put_predictions(folder, table.iloc[3:])
    with pytest.raises(ClipsentError, match="old: validated on other posts than the rest, 3 are not in both"):
        compared(project, str(OPTIMIZE / "old"))
    assert not (project / OPTIMIZE / "compare_opt_vs_base.csv").exists()
    result = compared(project)
    assert "old" not in result.table.model.tolist() and len(result.left_out) == 1
    assert f"left out: {folder.resolve()}: validated on other posts" in str(result)


def test_runs_with_other_labels_are_refused(project):
    folder = copy_run(project, "clip", "relabelled")
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    table.loc[0, "true_label"] = "neutral" if table.true_label[0] != "neutral" else "positive"
    put_predictions(folder, table)
    with pytest.raises(
        ClipsentError, match=f"relabelled: has other labels .* guid {table.guid[0]}; train the older one"
    ):
        compared(project, str(OPTIMIZE / "relabelled"))


def test_a_missing_baseline_is_trained_but_not_for_a_run_on_other_posts(project, caplog):
    shutil.rmtree(project / OPTIMIZE / "baseline")
    folder = copy_run(project, "clip", "old")
    table = pd.read_csv(folder / "val_predictions.csv", dtype={"guid": str})
    put_predictions(folder, table.iloc[3:])
    with pytest.raises(ClipsentError, match="old: validated on other posts"):
        compared(project, str(OPTIMIZE / "old"))
    assert not (project / OPTIMIZE / "baseline").exists()
    caplog.set_level("INFO", logger="clipsent_nb")
    compared(project, str(OPTIMIZE / "clip"))
    assert "not used" not in caplog.text
    assert "training it, the encoder is trained too, at most 1 epoch; --output-dir RUN takes a finished" in caplog.text
    written = (project / OPTIMIZE / "baseline/best.pt").stat().st_mtime_ns
    compared(project, str(OPTIMIZE / "clip"), epochs=9)
    assert "the baseline is there with other settings: --epochs\n" in caplog.text
    compared(project, str(OPTIMIZE / "clip"), val_csv=Path("outputs/splits/none.csv"))
    assert "the baseline is there with other settings: --val-csv\n" in caplog.text
    caplog.clear()
    compare(replace(BASELINE, project_root=project, model_name="tiny_clip"), references=False, report=False)
    assert "--epochs" not in caplog.text and "--head-variant" not in caplog.text  # nobody wrote these
    assert (project / OPTIMIZE / "baseline/best.pt").stat().st_mtime_ns == written


def test_a_leaked_baseline_is_refused_before_it_is_trained(project):
    with pytest.raises(ClipsentError, match="half: a leaked baseline"):
        compared(project, output_dir=OPTIMIZE / "half")
    with pytest.raises(ClipsentError, match="--train-csv outputs/splits/half.csv: holds copies of validation posts"):
        compared(project, output_dir=OPTIMIZE / "fresh", train_csv=Path("outputs/splits/half.csv"))
    assert not (project / OPTIMIZE / "fresh").exists()


def test_changed_splits_stop_the_references_only(project):
    path = project / "outputs/splits/train.csv"
    pd.read_csv(path, dtype=str).iloc[1:].to_csv(path, index=False)
    with pytest.raises(ClipsentError, match="train.csv: it or its posts changed since .* --no-references"):
        compared(project)
    result = compare(baseline_of(project), references=False, report=False)
    assert set(result.table.kind) == {"baseline", "run"}


@pytest.mark.parametrize("name", ["outputs/compare", "outputs/compare.json"])
def test_the_table_is_a_csv_file(project, name):
    with pytest.raises(ClipsentError, match=r"--output-csv .*: not the name of a table; give one that ends in \.csv"):
        compare(baseline_of(project), output_csv=Path(name), report=False)


def test_a_baseline_alone_makes_a_table(project):
    for name in ("clip", "half"):
        shutil.rmtree(project / OPTIMIZE / name)
    result = compare(baseline_of(project), references=False, report=False)
    assert result.table.model.tolist() == ["baseline"] and pd.isna(result.table.verdict[0])
    assert len(pd.read_csv(result.csv)) == 1


def test_the_best_of_a_comparison_is_chosen_by_the_mean_over_seeds_and_never_for_a_leak(project):
    batch = project / OPTIMIZE / "grid_search"
    cells = []
    for name, seed, head, score, leaked in [
        ("a", 1, "mlp", 0.9, False),
        ("a_seed2", 2, "mlp", 0.3, False),
        ("b", 1, "ln", 0.7, False),
        ("b_seed2", 2, "ln", 0.7, False),
        ("c", 1, "gated", 1.0, True),
    ]:
        folder = copy_run(project, "clip", f"grid_search/{name}", **{CROSS_FITTED: score}, leaked=leaked)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = {"seed": seed, "head_variant": head}
        edit_json(folder / "config.json", **own, identity=config["identity"] | own)
        values = {"head_variant": head, "seed": seed}
        cells.append({"name": name, "values": values, "state": "done", "reason": "", "seconds": 1.0})
    cells.append({"name": "d", "values": {}, "state": "failed", "reason": "broken", "seconds": 1.0})
    write_json(batch / "cells.json", {"axes": [], "cells": cells})
    assert sorted(run.folder.name for run in pick_best(batch)) == ["b", "b_seed2"]
    table = compared(project, str(OPTIMIZE / "grid_search")).table.set_index("model")
    assert table.loc["grid_search: head variant ln", ["seeds", f"{CROSS_FITTED}_sd"]].tolist() == [2, 0]


def test_runs_of_a_batch_are_called_by_what_varies_and_no_two_alike(project):
    for name in ("a", "b"):
        copy_run(project, "clip", f"grid_search/{name}", **{CROSS_FITTED: 0.5})
    rest = {"state": "done", "reason": "", "seconds": 1}
    cells = [{"name": name, "values": {"lr": 0.001, "seed": 1}} | rest for name in ("a", "b")]
    write_json(project / OPTIMIZE / "grid_search/cells.json", {"axes": [], "cells": cells})
    groups = [[Run.load(project / OPTIMIZE / name)] for name in ("clip", "grid_search/a", "grid_search/b")]
    assert name_groups(groups[:2], project) == ["clip", "grid_search: lr 0.001"]
    twins = [f"grid_search: lr 0.001 (grid_search/{name})" for name in ("a", "b")]
    assert name_groups(groups, project) == ["clip", *twins]
    cells[1]["values"] = dict.fromkeys("abcde", True)
    write_json(project / OPTIMIZE / "grid_search/cells.json", {"axes": [], "cells": cells})
    assert name_groups(groups, project) == ["clip", "grid_search: lr 0.001", "grid_search/b"]


def test_scores_are_those_of_the_runs(project):
    table = compared(project).table.set_index("model")
    for name in ("baseline", "clip", "half"):
        metrics = Run.load(project / OPTIMIZE / name).metrics
        for score in ("acc", "f1_macro", "precision_macro", "recall_macro", "f1_neutral"):
            assert table.loc[name, f"val_{score}"] == pytest.approx(metrics[f"best_val_{score}"], abs=1e-5)
        assert table.loc[name, CROSS_FITTED] == pytest.approx(metrics[CROSS_FITTED])


def test_a_training_file_counts_as_a_setting(project):
    runs = [Run.load(project / OPTIMIZE / name) for name in ("half", "baseline")]
    assert describe_settings(*runs) == "train_csv=half.csv"
    assert len(group_seeds(runs)) == 2


def random_contender(right, posts, seeds=5):
    "Answers of which a share is right, the same for each epoch."
    random = np.random.default_rng(round(1000 * right))
    truth = posts.label.to_numpy()
    answers = np.where(random.random((seeds, 120)) < right, truth, random.integers(0, 3, (seeds, 120)))
    return Contender(str(right), np.eye(3)[answers], answers[:, None])


@pytest.fixture(scope="module")
def posts():
    labels = np.random.default_rng(0).integers(0, 3, 120)
    return pd.DataFrame({"guid": [str(n) for n in range(120)], "label": labels, "group": range(120)})


def test_p_values_are_corrected_for_the_number_of_rows(posts):
    base, close, far = (random_contender(right, posts) for right in (0.5, 0.72, 0.98))
    alone = compare_with_first(posts, [base, close]).iloc[1]
    crowd = [base, close, far, *(replace(base, name=f"copy {n}") for n in range(20))]
    among = compare_with_first(posts, crowd)
    assert among.p[1] == alone.p == alone.p_adjusted
    assert among.p_adjusted[1] > among.p[1]
    assert among.verdict[2] == "better"


def test_copies_of_a_post_are_one_draw(posts):
    base, better = (random_contender(right, posts) for right in (0.5, 0.9))
    alone = compare_with_first(posts, [base, better]).iloc[1]
    copies = pd.concat([posts] * 4, ignore_index=True)

    def repeat(one):
        return replace(
            one, probabilities=np.tile(one.probabilities, (1, 4, 1)), predictions=np.tile(one.predictions, (1, 1, 4))
        )

    grouped = compare_with_first(copies, [repeat(base), repeat(better)]).iloc[1]
    single = compare_with_first(copies.assign(group=range(480)), [repeat(base), repeat(better)]).iloc[1]
    assert grouped.difference_low == pytest.approx(alone.difference_low, abs=1e-9)
    assert grouped.mcnemar_p == pytest.approx(alone.mcnemar_p)
    assert single.difference_low > grouped.difference_low


def test_one_seed_is_not_judged_however_large_the_difference(posts):
    base, perfect = random_contender(0.3, posts, seeds=1), random_contender(1.0, posts, seeds=1)
    assert compare_with_first(posts, [base, perfect]).verdict[1] == "one seed: not judged"
    two = [random_contender(right, posts, seeds=2) for right in (0.1, 1.0)]
    assert compare_with_first(posts, two).verdict[1] == "better"


def test_one_seed_is_not_judged_in_words_and_in_the_file(project):
    result = compared(project, str(OPTIMIZE / "clip"))
    assert str(result).count("one seed: not judged") == 1
    assert str(result).count("not judged: the baseline has one seed") == 4
    written = pd.read_csv(result.csv).set_index("model")
    assert written.seeds[["baseline", "clip", "tfidf-logistic"]].tolist() == [1, 1, 0]
    posts, contenders, _ = gather_contenders(baseline_of(project), str(OPTIMIZE / "clip"))
    assert "**one seed: not judged**" in conclude_ranking(result.table, posts, contenders)


def test_a_verdict_that_is_lacking_comes_with_the_commands_for_it(project):
    config, named = baseline_of(project), str(OPTIMIZE / "clip")
    result = compare(config, named, references=False, report=False)
    commands = [line.split()[1:] for line in result.advice if line.startswith("  clipsent ")]
    assert [words[-1] for words in commands] == [f"outputs/optimize/{name}_seed43" for name in ("baseline", "clip")]
    for (command, *words), run in zip(commands, ("baseline", "clip"), strict=True):
        settings = parse(command, words).keywords["config"]
        first = Run.load(project / OPTIMIZE / run)
        assert differing(identity(settings), first.config["identity"]) == ["seed"]
        fit(settings)
        partly = compare(config, named, references=False, report=False).advice
        assert (
            run == "clip"
            or f"--runs {named},outputs/optimize/baseline_seed43,outputs/optimize/clip_seed43" in partly[-1]
        )
    assert f"--runs {named},outputs/optimize/baseline_seed43,outputs/optimize/clip_seed43" in result.advice[-1]
    result = compare(config, named, references=False, report=False)
    others = "outputs/optimize/baseline_seed43,outputs/optimize/clip_seed43"
    words = "runs of other seeds are there and not compared; add to --runs:"
    assert result.advice == (f"{words} {others}",) and result.advice[0] in str(result)
    result = compare(config, f"{named},{others}", references=False, report=False)
    assert result.advice == () and result.table.seeds.tolist() == [2, 2]


def test_temperature_is_judged_on_posts_it_was_not_fitted_on():
    posts, probabilities = pd.DataFrame({"label": 0, "group": range(20)}), np.tile([0.6, 0.3, 0.1], (20, 1))
    probabilities[1::2] = [0.7, 0.2, 0.1]
    posts.loc[0, "label"] = 2  # only the fold that holds post 0 is fitted without it
    scaled = cross_fit_temperature(posts.label, probabilities, posts.group)
    assert scaled[0, 0] == scaled[::2, 0].max() > scaled[::2, 0].min()
    assert cross_fit_temperature(posts.label[:1], probabilities[:1]).tolist() == probabilities[:1].tolist()
    pairs = posts.assign(group=np.arange(20) // 10 * 10)  # two groups of copies: each is scaled by the other
    pairs.loc[:, "label"] = [0] * 10 + [2] * 10
    scaled = cross_fit_temperature(pairs.label, probabilities, pairs.group)
    assert len(np.unique(scaled[:10:2, 0].round(6))) == 1 and scaled[0, 0] < scaled[10, 0]


def test_an_answer_that_never_changes_has_a_calibration_too(project):
    table = compared(project, str(OPTIMIZE / "clip")).table.set_index("model")
    assert table.loc["always-majority", "val_ece_calibrated"] == table.loc["always-majority", "val_ece"]


def test_a_run_that_is_called_like_a_reference_is_a_row_of_its_own(project):
    copy_run(project, "clip", "tfidf-logistic")
    table = compared(project, str(OPTIMIZE / "tfidf-logistic")).table
    assert len(table) == 6 and table.model.is_unique
    kinds = table.set_index("model").kind
    assert kinds["tfidf-logistic"] == "reference" and kinds["tfidf-logistic (run)"] == "run"


def test_a_post_that_became_unreadable_after_the_splits_is_left_out_of_the_comparison(project, monkeypatch):
    val = pd.read_csv(project / "outputs/splits/val.csv", dtype=str)
    (project / val.image_path[0]).write_bytes(b"torn")
    for name in ("baseline", "clip", "half"):
        shutil.rmtree(project / OPTIMIZE / name)
    lenient = dict(max_bad="50%")
    fit(sample_config(project, epochs=1, output_dir=OPTIMIZE / "clip", **lenient))
    result = compared(project, str(OPTIMIZE / "clip"), **lenient)  # before and after a baseline exists
    assert set(result.table.model) == {"baseline", "clip", *REFERENCES}
    assert len(Run.load(project / OPTIMIZE / "baseline").predictions) == len(val) - 1


@pytest.mark.parametrize(
    "scale, kind", [(None, "siglip-without-scale"), (torch.tensor(1.0), "vision-text-dual-encoder")]
)
def test_towers_that_were_not_trained_together_are_not_asked_without_training(scale, kind):
    encoder = SimpleNamespace(logit_scale=scale, config=SimpleNamespace(model_type=kind))
    assert ask_zero_shot(SimpleNamespace(encoder=encoder), (), np.zeros((2, 3)), LABELS) is None


def test_texts_without_words_are_named():
    with pytest.raises(ClipsentError, match="a bag of words: cannot be fitted"):
        fit_references(["", " ", ""], np.array([0, 1, 2]), [""], LABELS)


def test_names_are_escaped(project):
    runs = [Run.load(project / OPTIMIZE / name) for name in ("baseline", "clip")]
    posts = validation_posts(runs[0])
    contenders = [make_contender(name, [run], posts) for name, run in zip(("base", "<script>"), runs, strict=True)]
    page = render_ranking(rank_contenders(posts, contenders))
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.slow
def test_the_report_is_written_beside_the_table(project):
    result = compare(baseline_of(project))
    page = (project / OPTIMIZE / "compare_opt_vs_base/report.html").read_text(encoding="utf-8")
    assert result.report == project / OPTIMIZE / "compare_opt_vs_base/report.html"
    assert page.count("<s>") == 4 and "met validation posts in training" in page


def test_a_group_of_seeds_has_the_shortest_of_their_names(project):
    groups = [[Run.load(project / OPTIMIZE / "clip")], [Run.load(project / OPTIMIZE / "baseline")]]
    assert name_groups([groups[0] + groups[1]], project) == ["clip"]  # the shortest name of a group


def test_only_a_soup_is_flattered_by_the_posts_that_chose_it(project):
    base = Run.load(project / OPTIMIZE / "baseline")
    for method, flattered in (("soup", True), ("average", False)):
        made = replace(base, config=base.config | {"members": ["a", "b"], "method": method})
        assert ("whose epochs these posts chose" in describe_settings(made, base)) is flattered


@pytest.mark.parametrize("form", [1, 2])  # 1: of version 0.1.0, whose digests differ from ours and not among themselves
def test_a_run_that_answered_posts_with_other_content_is_refused(project, form):
    run = Run.load(project / OPTIMIZE / "clip")
    run = replace(run, config=run.config | {"format": form})
    own = run.config["identity"]["content of val_csv"]
    refuse_changed(run, own, "first"), refuse_changed(run, None, "first")
    with pytest.raises(ClipsentError, match="answered other labels, texts or pictures than first"):
        refuse_changed(run, "0" * 32, "first")
