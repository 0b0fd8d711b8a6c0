"""The order of the stage, what is skipped, what is blocked, and what is left when a step fails or is killed."""

import re
from pathlib import Path

import pandas as pd
import pytest

from clipsent_nb import stage
from clipsent_nb.files import ClipsentError, digest, read_json, write_json
from clipsent_nb.grid import Comparison
from clipsent_nb.stage import STEPS, chosen, essence, flags_of, read_settings, run_stage, words_of


class Broken(Exception):
    "Stands for a kill."


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project whose commands only write what they would leave; `done` names them, `failing` has errors."

    class Project:
        root, done, failing, settings = tmp_path / "project", [], {}, tmp_path / "settings.toml"

        def run(self, **flags):
            settings = self.settings if self.settings.is_file() else None
            return run_stage(settings, self.root, progress=False, **flags)

    own = Project()
    (own.root / "data").mkdir(parents=True)
    (own.root / "data/1.txt").write_text("a post")
    (own.root / "train.txt").write_text("1,positive")

    def perform(name, words):
        own.done.append(name)
        if error := own.failing.get(name):
            raise error
        paths = [path for earlier in STEPS[name].needs for path in STEPS[earlier].makes]
        seen = digest(b"".join((own.root / path).read_bytes() for path in paths))
        for path in (*STEPS[name].makes, STEPS[name].report):
            if path:
                target = own.root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(f"{name} {words} {seen}")
                if target.name == "metrics.json":
                    scores = {"best_val_f1_macro": 0.5, "best_val_f1_macro_interval": [0.4, 0.6]}
                    write_json(target, scores | {"leaked": False, "words": words, "seen": seen})
                if name == "compare" and target.suffix == ".csv":
                    row = {"model": "final_clip_aug", "leaked": False, "verdict": "better", "difference": 0.1}
                    pd.DataFrame([row | {"difference_low": 0.05, "difference_high": 0.15}]).to_csv(target, index=False)
                if target.suffix == ".txt":
                    target.write_text("guid,tag\n1,positive\n")

    def parse_step(name, words, overwrite, settings):
        return lambda: perform(name, words)

    monkeypatch.setattr(stage, "parse_step", parse_step)
    return own


def test_everything_is_done_once_in_order(project):
    said = project.run()
    assert project.done == list(STEPS)
    assert "all 14 steps" in said
    project.run()
    assert project.done == list(STEPS)
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert (
        "No leak" in page
        and "1 positive" in page
        and "better: +0.100" in page
        and page.count(">report</a>") == sum(step.report is not None for step in STEPS.values())
    )


def test_a_lost_file_is_made_again_with_what_depends_on_it(project):
    project.run()
    project.done.clear()
    (project.root / "outputs/optimize/bad_cases.csv").unlink()
    project.run()
    assert project.done == ["mine"]  # its content is the same, so nothing else changes


def test_a_changed_setting_repeats_its_step_and_what_follows(project):
    project.run()
    project.done.clear()
    project.settings.write_text("[mine]\nmin_confidence = 0.3\n")
    project.run()
    assert project.done[0] == "mine" and {"merge", "retrain", "predict", "errors", "compare"} <= set(project.done)
    assert not {"splits", "baseline", "grid", "heads", "preprocess", "robustness"} & set(project.done)


def test_speed_and_place_are_no_settings(project):
    project.run()
    project.done.clear()
    project.settings.write_text("[batch]\njobs = 2\n[train]\nnum_workers = 3\n")
    project.run()
    assert not project.done


def test_a_new_post_begins_anew(project):
    project.run()
    project.done.clear()
    (project.root / "data/2.txt").write_text("another")
    project.run()
    assert project.done == ["splits"]  # which finds that the tables are the same


def test_a_failed_step_stops_only_what_needs_it(project):
    project.failing["heads"] = ClipsentError("guid 7", "broken picture")
    with pytest.raises(ClipsentError, match="heads failed: guid 7: broken picture; robustness blocked: needs heads"):
        project.run()
    assert set(project.done) == set(STEPS) - {"robustness"}
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert "guid 7: broken picture" in page
    project.done.clear()
    project.failing.clear()
    project.run()
    assert project.done == ["heads", "robustness", "compare"]


def test_a_batch_with_failed_runs_is_not_complete():
    runs = pd.DataFrame({"folder": ["a", "b", "c"], "state": ["done", "failed", "failed"], "reason": "killed"})
    incomplete = stage.perform(
        "grid", lambda: Comparison(runs, Path("table.csv"), runs[runs.state == "failed"], None, ("folder",))
    )
    assert incomplete["state"] == "incomplete" and "2 of its runs failed" in incomplete["reason"]


def test_killed_in_any_step_it_goes_on_there(project):
    for name in STEPS:
        project.failing[name] = Broken()
        with pytest.raises(Broken):
            project.run()
        project.failing.clear()
    project.run()
    assert sorted(project.done) == sorted([*STEPS, *STEPS])  # each once in vain and once for good


def test_reasons_are_escaped_in_the_page(project):
    project.failing["grid"] = ClipsentError("<script>", "alert(1)</script>")
    with pytest.raises(ClipsentError):
        project.run(only="splits,grid")
    page = (project.root / "outputs/reports/index.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_missing_need_names_the_step_that_makes_it(project):
    with pytest.raises(ClipsentError, match=r"needs outputs/splits/train.csv, which splits makes"):
        project.run(only="heads")


@pytest.mark.parametrize("flags", [{"only": "grit"}, {"start": "grit"}])
def test_unknown_steps_are_listed(project, flags):
    with pytest.raises(ClipsentError, match="grit: no such step; there are splits, baseline"):
        project.run(**flags)


def test_default_settings_are_flags_of_their_commands():
    settings = read_settings(None)
    for name in STEPS:
        known = set().union(*flags_of(STEPS[name].command).values())
        assert set(settings[name]) <= known, name
        assert {flag for flag, _ in STEPS[name].paths} <= known, name


def test_default_command_lines_are_understood():
    settings = read_settings(None)
    for name in STEPS:
        command, *words = words_of(name, settings, {"project_root": "posts", "data_root": "raw", "progress": False})
        assert callable(stage.parse(command, words))


def test_a_value_of_the_wrong_kind_names_the_table(tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text("[train]\nepochs = 'many'")
    (tmp_path / "data").mkdir()
    with pytest.raises(ClipsentError, match=r"settings.toml: \[heads\] or \[train\]"):
        run_stage(file, tmp_path)
    assert "--epochs" in capsys.readouterr().err


def test_negative_flags_are_indifferent_too():
    assert essence(["grid", "--no-progress", "--lr", "1"]) == "grid --lr 1"
    assert chosen("", "") == list(STEPS)


def test_the_record_is_readable(project):
    project.run(only="splits")
    record = read_json(project.root / stage.RECORD)
    assert record["splits"]["state"] == "done" and record["splits"]["essence"].startswith("splits")


def test_the_limits_for_unreadable_posts_hold_in_every_step(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[train]\nmax_bad = "5%"\n[errors]\nmax_bad = "7%"\n')
    settings = read_settings(path)
    limits = {name: re.findall(r"--max-bad (\S+)", " ".join(words_of(name, settings, {}))) for name in STEPS}
    assert limits["errors"] == ["7%"] and {limits[name][0] for name in ("splits", "heads", "robustness")} == {"5%"}
    assert all(limits[name] for name in STEPS if "max_bad" in set().union(*flags_of(STEPS[name].command).values()))
