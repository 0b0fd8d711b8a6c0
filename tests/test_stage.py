"""The order of the stage, what is repeated, what is blocked, and what is left when a step fails or is killed."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from clipsent_nb import stage, steps
from clipsent_nb.cli import load, parse, settable
from clipsent_nb.config import TrainConfig
from clipsent_nb.files import ClipsentError, Workspace, digest, read_json, read_table, write_csv, write_json
from clipsent_nb.predict import ANSWERS
from clipsent_nb.stage import choose_steps, judge_final, read_scores, run_stage
from clipsent_nb.steps import STEPS, Plan, make_calls, read_settings


class Broken(Exception):
    "Stands for a kill."


class Project:
    "A project whose commands only write what they would leave; `done` names them, `failing` has errors."

    def __init__(self, folder: Path) -> None:
        self.root, self.settings = folder / "project", folder / "settings.toml"
        self.done, self.failing, self.overwritten = [], {}, []
        (self.root / "data").mkdir(parents=True)
        for guid in range(4):
            (self.root / f"data/{guid}.txt").write_text(f"post {guid}")
            (self.root / f"data/{guid}.jpg").write_bytes(bytes([guid]))
        (self.root / "train.txt").write_text("0,positive\n1,negative\n2,neutral\n")
        (self.root / "test_without_label.txt").write_text("3,null\n")

    def run(self, **flags: object) -> list[str]:
        "What a call of the stage does."
        before = len(self.done)
        run_stage(self.settings if self.settings.is_file() else None, Workspace(self.root), **flags)
        return self.done[before:]

    def make_calls(self, plan: Plan) -> list[dict[str, object]]:
        known = TrainConfig.__dataclass_fields__
        config = TrainConfig(project_root=self.root, **{key: plan.values[key] for key in plan.values if key in known})
        return [{"config": config} | {key: plan.values[key] for key in plan.values if key not in {*known, "jobs"}}]

    def call_command(self, plan: Plan, owned: list[str], more: dict) -> list[str]:
        self.done.append(plan.name)
        self.overwritten += [plan.name] * bool(owned)
        if error := self.failing.get(plan.name):
            raise error
        seen = digest(f"{stage.step_inputs(plan)} {plan.values}".encode())
        for path in plan.files:
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in (steps.TRAIN, steps.VAL, steps.TEST, steps.BAD_CASES, steps.TRAIN_AUG):
                guids = {steps.VAL: "2", steps.TEST: "3"}.get(path, "0 1").split()
                posts = pd.DataFrame({"guid": guids, "seen": [seen] * len(guids)})
                if path in (steps.TRAIN, steps.VAL, steps.TEST):  # decides nothing about these
                    posts = posts.assign(seen="")
                posts = posts.assign(text_path="data/" + posts.guid + ".txt", image_path="data/" + posts.guid + ".jpg")
                write_csv(posts, target)
            elif target.name == "metrics.json":
                write_json(target, {"best_val_f1_macro": 0.5, "leaked": False, "seen": seen})
            else:
                target.write_text(f"{plan.name} {seen}")
        return [plan.name]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    own = Project(tmp_path)
    monkeypatch.setattr(steps, "make_calls", own.make_calls)
    monkeypatch.setattr(stage, "call_command", own.call_command)
    monkeypatch.setattr(stage, "refuse_lacking", lambda plan: None)
    monkeypatch.setattr(stage, "refuse_unready", lambda plan: None)
    monkeypatch.setattr(stage, "refuse_idle_shared", lambda plan: None)
    page = own.root / "outputs/reports/index.html"
    monkeypatch.setattr(stage, "write_index", lambda workspace: page.write_text(stage.list_steps(workspace)))
    return own


def test_everything_is_done_once_in_order(project):
    assert project.run() == list(STEPS)
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert page.count(">report</a>") == sum(bool(step.folder) for step in STEPS.values())
    assert project.run() == []


def test_the_page_is_left_alone_where_nothing_was_done(project, monkeypatch):
    project.run()
    monkeypatch.setattr(stage, "write_index", lambda workspace: pytest.fail("made again"))
    project.run()


def test_a_lost_file_is_made_again_with_what_depends_on_it(project):
    project.run()
    (project.root / steps.BAD_CASES).unlink()
    assert project.run() == ["mine"]  # its content is the same, so nothing else changes


def test_a_changed_setting_repeats_its_step_and_what_follows(project):
    project.run()
    project.settings.write_text("[mine]\nmin_confidence = 0.3\n")
    repeated = project.run()
    assert repeated[0] == "mine" and {"merge", "retrain", "predict", "errors", "compare"} <= set(repeated)
    assert not {"splits", "baseline", "grid", "heads", "preprocess", "robustness"} & set(repeated)


def test_speed_and_place_are_no_settings(project, tmp_path):
    project.run()
    project.settings.write_text("[batch]\njobs = 2\n[train]\nnum_workers = 3\nlr = '0.000008'\n")
    assert project.run() == []
    project.root = project.root.rename(tmp_path / "moved")
    assert project.run() == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/3.txt", {"splits", "predict"}),  # of the test list
        ("data/2.jpg", {"splits", "baseline", "grid", "heads", "preprocess", "robustness", "retrain"}),  # of validation
        ("data/0.txt", set(STEPS)),  # of training, and a bad case
        ("train.txt", {"splits"}),  # which finds that the tables are the same
    ],
)
def test_a_changed_text_or_picture_repeats_what_reads_it_and_no_more(project, file, expected):
    project.run()
    path = project.root / file
    path.write_bytes(path.read_bytes() + b" ")
    repeated = set(project.run())
    later = {"predict", "compare", "robustness"}  # start from runs that were made again
    assert expected <= repeated and repeated - later <= expected
    assert project.run() == []


@pytest.mark.parametrize(
    "changed, weights", [("data/2.jpg", "outputs/other"), ("outputs/asked/metrics.json", "outputs/asked")]
)
def test_mining_of_validation_is_repeated_when_a_post_or_the_run_that_it_asks_changed(project, changed, weights):
    write_json(project.root / "outputs/asked/metrics.json", {"leaked": False})
    project.settings.write_text(f'[mine]\nsource = "val"\nweights = "{weights}/best.pt"\n')
    project.run()
    path = project.root / changed
    path.write_bytes(path.read_bytes() + b" ")
    assert "mine" in project.run()
    assert project.run() == []


def test_a_text_that_changed_after_the_splits_is_seen_by_a_single_step(project):
    project.run()
    (project.root / "data/0.txt").write_text("another")
    assert project.run(only="baseline") == ["baseline"]


def test_a_failed_step_stops_only_what_needs_it(project):
    project.failing["heads"] = ClipsentError("guid 7", "broken picture")
    with pytest.raises(
        ClipsentError, match="heads failed, guid 7: broken picture; robustness blocked, needs the step heads"
    ):
        project.run()
    assert set(project.done) == set(STEPS) - {"robustness"}
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert "guid 7: broken picture" in page
    project.failing["heads"] = ModuleNotFoundError("No module named 'cleanlab'", name="cleanlab")
    with pytest.raises(ClipsentError, match="heads failed, cleanlab: cannot be imported .* robustness blocked"):
        project.run()
    project.failing.clear()
    assert project.run() == ["heads", "robustness", "compare"]


def test_a_batch_with_failed_runs_is_not_complete():
    class Result:
        failed = pd.DataFrame({"folder": ["b", "c"]})

    outcome = stage.perform(lambda: [Result()])
    assert outcome["state"] == "incomplete" and "2 of its runs failed" in outcome["reason"]


def test_a_console_that_cannot_show_a_result_fails_no_step(monkeypatch):
    class Result:
        def __str__(self) -> str:
            raise UnicodeEncodeError("cp1252", "数", 0, 1, "no such sign")

    assert stage.perform(lambda: [Result()])["state"] == "done"


def test_killed_in_any_step_it_goes_on_there(project):
    for name in STEPS:
        project.failing[name] = Broken()
        with pytest.raises(Broken):
            project.run()
        assert read_json(project.root / stage.RECORD)[name]["state"] == "begun"
        project.failing.clear()
    project.run()
    assert sorted(project.done) == sorted([*STEPS, *STEPS])  # each once in vain and once for good


def test_a_repeated_step_replaces_its_own_runs_and_nobody_elses(project):
    (project.root / steps.HEADS).mkdir(parents=True)  # somebody has been there
    project.run()
    assert "baseline" in project.overwritten and "heads" not in project.overwritten
    project.overwritten.clear()
    project.settings.write_text("[train]\nseed = 7\n")
    project.run()
    assert "baseline" in project.overwritten and "heads" not in project.overwritten
    project.settings.write_text("[train]\nseed = 8\n")
    project.run(overwrite=True)
    assert "heads" in project.overwritten


def test_reasons_are_escaped_in_the_page(project):
    project.failing["grid"] = ClipsentError("<script>", "alert(1)</script>")
    with pytest.raises(ClipsentError):
        project.run(only="splits,grid")
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_missing_need_names_the_step_that_makes_it(project):
    with pytest.raises(ClipsentError, match=r"needs outputs/splits/train.csv, which splits makes"):
        project.run(only="heads")


@pytest.mark.parametrize("flags", [{"only": "grit"}, {"start": "grit"}, {"skip": "grit"}])
def test_unknown_steps_are_guessed(flags):
    with pytest.raises(ClipsentError, match="grit: no such step; did you mean grid"):
        choose_steps(**flags)


def test_what_a_later_step_lacks_is_said_before_the_first(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(steps, "make_calls", lambda plan: [])
    monkeypatch.setattr(stage, "do_steps", lambda *rest: pytest.fail("begun"))
    with pytest.raises(ClipsentError, match="step predict: needs .*test_without_label.txt"):
        run_stage(workspace=Workspace(tmp_path), only="splits,predict")
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    (tmp_path / "settings.toml").write_text('[grid]\nsearch = "optuna"\n[batch]\nengine = "ray"\n')
    for only, absent in (("splits,grid", "optuna"), ("splits,heads", "ray")):
        with pytest.raises(ClipsentError, match=f"needs {absent}, which is not installed"):
            run_stage(tmp_path / "settings.toml", Workspace(tmp_path), only=only)


def write_inputs(root: Path) -> None:
    "What the steps below start from, beside the posts."
    (root / "clip").mkdir()
    (root / "clip/model.safetensors").write_bytes(b"weights")
    (root / "new").mkdir()
    (root / "mine").mkdir()
    (root / "mine/metrics.json").write_text("{}")
    (root / "saved/train").mkdir(parents=True)
    (root / "saved/train/data.arrow").write_bytes(b"rows")
    for name in ("new/9.jpg", "9.jpg"):
        (root / name).write_bytes(b"picture")
    (root / "own.csv").write_text("id,text,image\n9,a day,9.jpg\n")


@pytest.mark.parametrize(
    ("table", "value", "name", "file"),
    [
        ("train", {"model_name": "clip"}, "baseline", "clip/model.safetensors"),
        ("predict", {}, "predict", "test_without_label.txt"),
        ("predict", {"test_file": "own.csv"}, "predict", "9.jpg"),
        ("predict", {"test_file": "new"}, "predict", "new/9.jpg"),
        ("splits", {"table": "own.csv"}, "splits", "9.jpg"),
        ("splits", {"table": "saved"}, "splits", "saved/train/data.arrow"),
        ("compare", {"runs": "new, mine"}, "compare", "mine/metrics.json"),
        ("compare", {"runs": ["new", "mine"]}, "compare", "mine/metrics.json"),
    ],
)
def test_a_step_notices_a_change_of_whatever_its_settings_name(tmp_path, table, value, name, file):
    root = Project(tmp_path).root
    write_inputs(root)
    plan = Plan(name, read_settings(None) | {table: value}, Workspace(root))
    before = stage.step_inputs(plan)
    assert stage.step_inputs(plan) == before
    (root / file).write_bytes((root / file).read_bytes() + b"!")
    assert stage.step_inputs(plan) != before


def test_a_folder_of_posts_to_label_is_there(tmp_path):
    root = Project(tmp_path).root
    write_inputs(root)
    for source, there in (("new", True), ("own.csv", True), ("gone", False)):
        plan = Plan("predict", read_settings(None) | {"predict": {"test_file": source}}, Workspace(root))
        with nullcontext() if there else pytest.raises(ClipsentError, match="needs .*gone; put it there"):
            steps.refuse_lacking(plan)


def test_defaults_are_not_shown_as_if_they_were_those_of_a_file(tmp_path):
    with pytest.raises(ClipsentError, match="--show-defaults: says nothing of --settings"):
        run_stage(tmp_path / "own.toml", show_defaults=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_settings_from_windows_are_read(tmp_path, encoding):
    (tmp_path / "settings.toml").write_text(steps.DEFAULTS.replace("\n", "\r\n"), encoding=encoding)
    assert read_settings(tmp_path / "settings.toml") == read_settings(None)


def leave_run(root: Path, folder: str, **metrics: object) -> None:
    "A metrics.json."
    (root / folder).mkdir(parents=True, exist_ok=True)
    write_json(root / folder / "metrics.json", {"best_val_f1_macro": 0.9, "leaked": False} | metrics)


def test_a_run_that_has_met_every_validation_post_breaks_no_page(tmp_path):
    leave_run(tmp_path, steps.BASELINE, best_val_f1_macro_interval=[0.8, 0.95])
    leave_run(tmp_path, steps.FINAL, leaked=True, unseen_val_posts=0)
    scores = read_scores(Workspace(tmp_path))
    assert scores.believable.tolist() == [True, False]
    assert "Leaked:** final model" in judge_final(Workspace(tmp_path))


def test_the_verdict_of_the_comparison_is_quoted(tmp_path):
    leave_run(tmp_path, steps.FINAL)
    row = {"model": "final_clip_aug", "leaked": False, "verdict": "one seed: not judged", "difference": 0.1}
    write_csv(pd.DataFrame([row]), tmp_path / f"{steps.COMPARED}.csv")
    assert "**one seed: not judged**, macro-F1 +0.100" in judge_final(Workspace(tmp_path))


def test_a_difference_of_means_is_told_from_the_scores_of_one_seed(tmp_path):
    leave_run(tmp_path, steps.FINAL)
    row = {"model": "final_clip_aug", "leaked": False, "verdict": "worse", "difference": -0.1, "seeds": 3}
    write_csv(pd.DataFrame([row]), tmp_path / f"{steps.COMPARED}.csv")
    assert "-0.100, a difference of means over seeds; the scores below are those of" in judge_final(Workspace(tmp_path))


def test_seeds_of_other_models_are_not_those_of_the_difference(tmp_path):
    leave_run(tmp_path, steps.FINAL)
    rows = [["baseline", "baseline", 1, 0.0], ["final_clip_aug", "run", 1, 0.1], ["heads: ln", "run", 3, 0.2]]
    table = pd.DataFrame(rows, columns=["model", "kind", "seeds", "difference"]).assign(
        leaked=False, verdict="one seed"
    )
    write_csv(table, tmp_path / f"{steps.COMPARED}.csv")
    assert "+0.100." in judge_final(Workspace(tmp_path)) and "means" not in judge_final(Workspace(tmp_path))


def test_a_preset_says_how_long_the_baseline_is_trained_too(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[train]\npreset = "quick"\n')
    assert read_settings(path)["baseline"] == {"head_variant": "base"}
    path.write_text('[train]\npreset = "spec"\nlr = 1e-5\n')
    assert read_settings(path)["baseline"] == read_settings(None)["baseline"]  # it stands for the defaults
    path.write_text('[train]\npreset = "quick"\n[baseline]\nearly_stop = 0\nepochs = 7\n')
    assert read_settings(path)["baseline"] == {"head_variant": "base", "early_stop": 0, "epochs": 7}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[trian]\nlr = 1", "no table .trian.; did you mean train[?]"),
        ("[train]\nmodel_nme = 1", "has no setting model_nme; did you mean model_name[?]"),
        ("[train]\npreset = quick", "put text in quotes"),
        ('[train]\npreset = "quik"', "unknown; did you mean quick[?]"),
    ],
)
def test_slips_in_a_file_of_settings_are_guessed(tmp_path, text, what):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(ClipsentError, match=what):
        make_calls(Plan("baseline", read_settings(tmp_path / "settings.toml")))


def test_several_seeds_are_runs_beside_each_other():
    settings = read_settings(None)
    settings["retrain"]["seeds"] = [1, 2]
    plan = Plan("retrain", settings)
    assert plan.folders == [steps.FINAL, f"{steps.FINAL}_seed2"]
    assert [call["config"].seed for call in plan.calls] == [1, 2]
    assert {call["config"].output_dir.as_posix() for call in plan.calls} == set(plan.folders)


def test_the_limits_for_unreadable_posts_hold_in_every_step(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[train]\nmax_bad = "5%"\n[errors]\nmax_bad = "7%"\n')
    limits = {name: Plan(name, read_settings(path)).values["max_bad"] for name in STEPS}
    assert limits.pop("errors") == "7%" and set(limits.values()) == {"5%"}


def test_a_flag_that_was_typed_wins_over_the_file_even_if_it_is_the_default(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[train]\nmax_bad = "5%"\nstrict = true\n[errors]\nmax_bad = "7%"\n')
    typed = parse("run", ["--settings", str(path), "--max-bad", "1%", "--no-strict"]).keywords
    values = Plan("errors", read_settings(path), typed["workspace"]).values
    assert values["max_bad"] == "1%" and not values["strict"]


@pytest.mark.parametrize("name", STEPS)
def test_commands_understand_the_default_settings(name):
    plan = Plan(name, read_settings(None), Workspace(Path("posts"), Path("raw")))
    [call] = plan.calls
    places = [value for value in call.values() if isinstance(value, Workspace)]
    assert [place.posts_root for place in places] == [Path("raw")]
    known, tables = settable(load(plan.step.command)), plan.step.tables
    assert ("train" in tables) == ("epochs" in known and name != "compare")  # whose baseline is there
    assert ("batch" in tables) == ("dry_run" in known)


@pytest.mark.parametrize("name", STEPS)
def test_commands_leave_their_files_where_the_stage_looks_for_them(name):
    step, known = STEPS[name], settable(load(STEPS[name].command)) | STEPS[name].paths
    for key in ("output_csv", "output", "train_csv", "badcase_csv"):
        if key in known and key not in ("train_csv",) * (name != "merge"):
            assert Path(known[key] or ANSWERS).as_posix() in (*step.makes, *step.needs), key


def test_a_value_of_the_wrong_kind_names_the_table(tmp_path):
    file = tmp_path / "settings.toml"
    (tmp_path / "data").mkdir()
    for table, text in (
        ("train", "[train]\nlr = 'many'"),
        ("train", "[train]\nlr = 'many'\n[baseline]\nepochs = 2"),
        ("baseline", "[train]\nlr = 1e-5\n[baseline]\nlr = 'many'"),
        ("baseline", "[train]\nlr = 'few'\n[baseline]\nlr = 'many'"),
    ):
        file.write_text(text)
        with pytest.raises(ClipsentError, match=rf"settings.toml: \[{table}\] --lr many must be a number"):
            run_stage(file, Workspace(tmp_path), only="baseline")


def test_a_call_that_finds_all_complete_imports_no_torch(project):
    project.run()
    code = f"""
import sys
from pathlib import Path
from clipsent_nb import Workspace, run_stage
print(run_stage(None, Workspace(Path({str(project.root)!r}))))
assert not {{"torch", "transformers", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "all 14 steps are done" in done.stdout, done.stderr


def test_split_tables_are_what_a_test_here_takes_them_for(project):
    project.run(only="splits")
    assert read_table(project.root / steps.VAL).guid.tolist() == ["2"]


def test_a_misspelt_file_of_settings_and_a_flag_of_a_step_say_what_to_do(tmp_path):
    (tmp_path / "small.toml").write_text("")
    with pytest.raises(ClipsentError, match="smal.toml: no such file; did you mean .*small.toml[?]"):
        read_settings(tmp_path / "smal.toml")
    with pytest.raises(ClipsentError, match="--val-ratio: no such flag; settings of a step stand in the file"):
        parse("run", ["--val-ratio", "0.3"])
    with pytest.raises(ClipsentError, match="--weights: is needed; name a run folder"):
        parse("robustness", [])
