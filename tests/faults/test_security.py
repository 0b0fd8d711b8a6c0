"""What somebody writes into a post, a file name or a setting stays text: in pages, in tables, and in files that are loaded."""

import ast
import csv
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import clipsent_nb
from clipsent_nb import stage, steps
from clipsent_nb.augment import augment_images, augment_text, merge, read_cases, rewrite_text
from clipsent_nb.badcases import gallery, mine
from clipsent_nb.batches import Execution, collect, connect_ray
from clipsent_nb.compare import compare, conclude_ranking, rank_contenders, render_ranking
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.decoding import read_text
from clipsent_nb.encoders import load_encoder, load_processors
from clipsent_nb.errors import errors
from clipsent_nb.files import ClipsentError, Workspace, write_json
from clipsent_nb.grid import write_comparison
from clipsent_nb.heads import make_contender, validation_posts
from clipsent_nb.model import read_weights
from clipsent_nb.posts import Problem, audit_table
from clipsent_nb.report import execute, write_page
from clipsent_nb.runs import Run
from clipsent_nb.state import sample_config
from clipsent_nb.train import fit

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no file can be called <img> there")
torch.set_num_threads(1)
OPTIMIZE = Path("outputs/optimize")
PACKAGE = Path(clipsent_nb.__file__).parent

MARK = "CSS1Compat"  # what the mode of a page is called
# Without quotes, commas, slashes and blanks, so that neither Markdown, nor a file name, nor a list of values breaks it.
BEACON = "document.title=document.compatMode;document.documentElement.id=document.compatMode"
TEXT_PAYLOADS = [
    f"<script>{BEACON}</script>",
    f'<img src=x onerror="{BEACON}">',
    f"<img src=x onerror={BEACON}>",
    f"<svg onload='{BEACON}'>",
    f"<svg><script>{BEACON}</script></svg>",
    f'"><a href=javascript:{BEACON}>press</a>',
    f"' onmouseover='{BEACON}' x='",
    f"</style></textarea></title></pre></details><script>{BEACON}</script><style>",
    f"--></script><iframe srcdoc='<script>parent.{BEACON}</script>'></iframe>",
    f"<iframe src=javascript:parent.{BEACON}></iframe>",
    f"<details open ontoggle='{BEACON}'>x</details>",
    f"[press](javascript:{BEACON}) <javascript:{BEACON}>",
    f"```mermaid\n<img src=x onerror={BEACON}>\n```",
    f"&lt;script&gt;{BEACON}&lt;/script&gt; &amp;lt;img src=x onerror={BEACON}&amp;gt;",
    f"{{{{ 7*7 }}}} {{% raw %}} $x$ $$\\href{{javascript:{BEACON}}}{{y}}$$ <b/onclick={BEACON}>b",
    f"<base href=//example.org><meta http-equiv=refresh content=0;url=data:text/html,<script>{BEACON}</script>>",
    f"<form action=javascript:{BEACON}><input autofocus onfocus={BEACON}></form>",
]
# Without a separator, so that each can be the name of a folder or of a file.
NAME_PAYLOADS = [
    f"<img src=x onerror='{BEACON}'>",
    f'`<details open ontoggle="{BEACON}">`',
    f"[press](javascript:{BEACON})",
    "![x](attachment:none)",
    "$\\frac$ and {{ 7*7 }}",
]


class Seen(HTMLParser):
    "What a browser would obey in a page: scripts, handlers, addresses that run code, pages within the page."

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.obeyed: list[str] = []
        self.words: list[str] = []
        self.policies: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "base", "form", "link", "frame"):
            self.obeyed.append(f"<{tag}>")
        for name, value in attributes:
            address = re.sub(r"[\x00-\x20]", "", value or "").lower()
            if name.startswith("on") or name in ("srcdoc", "formaction", "action", "ping"):
                self.obeyed.append(f"<{tag} {name}>")
            if name in ("href", "src", "xlink:href", "data", "content") and re.match(
                r"(javascript|vbscript|data:text|data:image/svg)", address
            ):
                self.obeyed.append(f"<{tag} {name}={address[:40]}>")
            if name == "src" and not address.startswith("data:image/"):
                self.obeyed.append(f"<{tag} fetches {address[:40]}>")
        if tag == "meta" and dict(attributes).get("http-equiv", "").lower() == "content-security-policy":
            self.policies.append(dict(attributes)["content"])
        elif tag == "meta" and "http-equiv" in dict(attributes):
            self.obeyed.append("<meta http-equiv>")

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data)


def obeyed(page: Path) -> list[str]:
    return Seen(page.read_text(encoding="utf-8")).obeyed


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(page: Path, folder: Path) -> str:
    "What a real browser makes of a page, as HTML; skips if there is no browser."
    if (browser := chromium()) is None:
        pytest.skip("no chromium on this machine; the pages were parsed, not opened")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    flags = ["--headless", "--no-sandbox", *quiet.split(), "--disable-sync", f"--user-data-dir={folder}"]
    shutil.rmtree(folder, ignore_errors=True)
    command = [browser, *flags, "--virtual-time-budget=3000", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "</html>" in done.stdout, done.stderr[-500:]
    return done.stdout


def ran(dom: str) -> bool:
    "Whether a payload has run in the page."
    return f'id="{MARK}"' in re.search(r"<html[^>]*>", dom)[0] or f"<title>{MARK}</title>" in dom


def without_policy(page: Path) -> Path:
    "A copy of a page whose head does not forbid anything."
    bare = re.sub("<meta[^>]*Content-Security-Policy[^>]*>", "", page.read_text(encoding="utf-8"))
    assert not Seen(bare).policies
    copy = page.with_name("bare.html")
    copy.write_text(bare, encoding="utf-8")
    return copy


def plant(root: Path) -> dict[str, str]:
    "Payloads instead of the texts of posts; returns them by guid."
    planted = {}
    for part in ("val", "train"):
        rows = read_split(root / f"outputs/splits/{part}.csv")
        for number, row in enumerate(rows.itertuples()):
            planted[row.guid] = f"{row.guid} {TEXT_PAYLOADS[number % len(TEXT_PAYLOADS)]}"
            (root / row.text_path).write_text(planted[row.guid], encoding="utf-8")
    return planted


@pytest.fixture(scope="module")
def root(tmp_path_factory, fresh_sample) -> Path:
    "A project whose texts are payloads, with a trained run and runs that are named by payloads."
    root = fresh_sample(tmp_path_factory.mktemp("security") / "sample")
    plant(root)
    run = fit(sample_config(root, epochs=1, output_dir=OPTIMIZE / "clip"))
    fit(sample_config(root, epochs=1, head_variant="base", output_dir=OPTIMIZE / "baseline"))
    for number, name in enumerate(NAME_PAYLOADS):
        folder = shutil.copytree(run.folder, root / OPTIMIZE / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = {"dropout": 0.1 + number / 100, "train_csv": f"outputs/splits/{name}.csv"}
        identity = config["identity"] | {"dropout": own["dropout"], "content of train_csv": name}
        write_json(folder / "config.json", config | own | {"identity": identity})
    return root


def page_of(folder: Path, *outputs: dict) -> Path:
    "A report page as `execute` leaves it, with outputs that were put out by nobody."
    cells = [new_markdown_cell("# A report"), *(new_code_cell("", outputs=[output]) for output in outputs)]
    folder.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), folder / "report.ipynb")
    return write_page(folder / "report.ipynb")


def said(kind: str, text: str) -> dict:
    return new_output("display_data", data={kind: text})


def everything_said(root: Path) -> list[dict]:
    "Outputs with all texts and names in the ways in which the templates put them out."
    posts = read_split(root / "outputs/splits/val.csv").head(len(TEXT_PAYLOADS))
    cases = posts.assign(true_label="neutral", pred_label="positive", confidence=0.5, kind=TEXT_PAYLOADS[0])
    runs = [Run.load(root / OPTIMIZE / name) for name in ("baseline", "clip", *NAME_PAYLOADS)]
    truth = validation_posts(runs[0])
    rivals = [make_contender(run.folder.name, [run], truth) for run in runs]
    table = rank_contenders(truth, rivals)
    texts = pd.DataFrame({"text": [read_text(root / path)[0] for path in posts.text_path]}, index=TEXT_PAYLOADS)
    names = [said("text/markdown", text) for text in (*TEXT_PAYLOADS, *NAME_PAYLOADS)]
    fenced = [said("text/markdown", f"Highest is `{text}` and **{text}**.\n\n{text}") for text in NAME_PAYLOADS]
    return [
        said("text/markdown", conclude_ranking(table, truth, rivals)),
        said("text/html", render_ranking(table)),
        said("text/html", gallery(cases, Workspace(root))),
        said("text/html", texts.to_html()),
        said("text/html", table.set_index("model").to_html()),
        said("text/plain", "\n".join(TEXT_PAYLOADS)),
        new_output("stream", text="\n".join(TEXT_PAYLOADS)),
        *names,
        *fenced,
    ]


@pytest.fixture(scope="module")
def said_page(root, tmp_path_factory) -> Path:
    return page_of(tmp_path_factory.mktemp("pages") / "said", *everything_said(root))


@pytest.fixture(scope="module")
def index_page(root, tmp_path_factory) -> Path:
    "The page of `clipsent run` where every text, state, reason, tag, model and verdict is a payload."
    root = shutil.copytree(root, tmp_path_factory.mktemp("index") / "root")
    shutil.copytree(root / OPTIMIZE / "clip", root / steps.FINAL)
    columns = "rank model seeds val_f1_macro cross_fitted_val_f1_macro difference p_adjusted verdict leaked".split()
    rows = [(place, text, 1, 0.5, 0.5, 0.1, 0.2, text, False) for place, text in enumerate(TEXT_PAYLOADS, 1)]
    rows.append((0, "final_clip_aug", *rows[0][2:]))
    names = {"difference_low": 0.0, "difference_high": 0.2}
    pd.DataFrame(rows, columns=columns).assign(**names).to_csv(root / f"{steps.COMPARED}.csv", index=False)
    tags = pd.DataFrame({"guid": range(len(TEXT_PAYLOADS)), "tag": TEXT_PAYLOADS})
    tags.to_csv(root / steps.LABELLED, index=False)
    record = {}
    for number, name in enumerate(steps.STEPS):
        payload = TEXT_PAYLOADS[number % len(TEXT_PAYLOADS)]
        record[name] = {"state": payload if number % 2 else "failed", "reason": payload, "seconds": payload}
    write_json(root / stage.RECORD, record)
    return stage.write_index(Workspace(root))


@pytest.mark.parametrize("name", ["said_page", "index_page"])
def test_nothing_in_a_page_is_obeyed_by_the_parser(name, request):
    page = request.getfixturevalue(name)
    assert obeyed(page) == []
    assert BEACON in "".join(Seen(page.read_text(encoding="utf-8")).words)  # it is there, as words


@pytest.mark.parametrize("name", ["said_page", "index_page"])
def test_nothing_in_a_page_runs_in_a_browser_even_without_the_policy(name, request, tmp_path):
    page = request.getfixturevalue(name)
    assert not ran(opened(without_policy(page), tmp_path / "profile"))


def test_the_browser_would_tell_if_a_payload_ran(tmp_path):
    page = tmp_path / "bad.html"
    for payload in TEXT_PAYLOADS[:3]:
        page.write_text(f"<!DOCTYPE html><html><head><title>x</title></head><body>{payload}</body></html>")
        assert obeyed(page) and ran(opened(page, tmp_path / "profile"))


def test_report_pages_forbid_scripts_and_fetch_nothing(said_page):
    [policy] = Seen(said_page.read_text(encoding="utf-8")).policies
    assert "default-src 'none'" in policy and "script-src" not in policy
    styles = re.findall(r"<style.*?</style>", said_page.read_text(encoding="utf-8"), re.DOTALL)
    assert styles and not [style for style in styles if re.search(r"@import|url\(\s*[\"']?(?!data:)\S", style)]


def real_pages(root: Path) -> dict[str, Path]:
    "The page of every template, made from the project of payloads."
    from clipsent_nb.grid import grid, optimize
    from clipsent_nb.heads import heads
    from clipsent_nb.preprocess import preprocess
    from clipsent_nb.report import kept_kernels
    from clipsent_nb.robustness import CorruptionSettings, robustness

    config = sample_config(root, epochs=1, output_dir=OPTIMIZE / "clip")
    train = shutil.copy(root / "outputs/splits/train.csv", root / f"outputs/splits/{NAME_PAYLOADS[0]}.csv")
    with kept_kernels():
        optimize(config)
        mine(config, "val", weights=root.resolve() / OPTIMIZE / "clip")
        errors(OPTIMIZE / "clip", workspace=Workspace(root), min_count=2)
        compare(replace(config, head_variant="base", output_dir=OPTIMIZE / "baseline"))
        robustness(OPTIMIZE / "clip", settings=CorruptionSettings("keyboard", "1"), workspace=Workspace(root))
        axes = (f"train_csv={Path(train).relative_to(root)},outputs/splits/train.csv",)
        one = {"batch_sizes": "16", "lrs": "1e-4", "weight_decays": "0.01", "dropouts": "0.1"}
        grid(replace(config, output_dir=OPTIMIZE / "grid_search"), axes=axes, **one)
        heads(replace(config, output_dir=OPTIMIZE / "heads"), variants="base,ln", seeds="1")
        preprocess(replace(config, output_dir=OPTIMIZE / "rules"), rules="none,basic", seeds="1")
        stage.write_index(Workspace(root))
    pages = [*(root / OPTIMIZE).glob("*/report.html"), root / "outputs/reports/index.html"]
    found = {path.parent.name: path for path in pages}
    assert len(found) == len(list((PACKAGE.parent / "nbs/reports").glob("*.ipynb")))
    return found


@pytest.mark.slow
def test_real_reports_of_a_project_of_payloads_run_nothing(root, tmp_path):
    for name, page in real_pages(root).items():
        assert obeyed(page) == [], name
        assert not ran(opened(without_policy(page), tmp_path / "profile")), name
        assert not ran(opened(page, tmp_path / "profile")), name


FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1 day to go",
    "@SUM(1)",
    " =1+1",
    "\t=1+1",
    "'=1+1",
    "''=1",
    '=HYPERLINK("http://example.org","press")',
    "＝1+1",
]


def computed(cell: str) -> bool:
    "Whether a spreadsheet takes a cell for a formula; numbers are none."
    return re.match(r"\s*[=+\-@＝＋－＠\t\r]", cell) is not None and not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell)


def formulas_in(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row if computed(cell)]


@pytest.fixture(scope="module")
def formula_root(tmp_path_factory, fresh_run) -> Path:
    "A project whose texts are formulas."
    root = fresh_run(tmp_path_factory.mktemp("formulas") / "sample")
    for part in ("train", "val"):
        for number, path in enumerate(read_split(root / f"outputs/splits/{part}.csv").text_path):
            (root / path).write_text(f"{FORMULAS[number % len(FORMULAS)]} so happy, {number} days!", encoding="utf-8")
    for name in ("=1+1.txt", "@SUM(1).jpg", "-1.txt"):
        (root / "data" / name).write_text("a stray file")
    with open(root / "train.txt", "a", encoding="utf-8") as file:
        file.write("=1+1,positive\n@SUM(1),neutral\n+7,none\n=2,=3\n")
    make_splits(Workspace(root, max_bad="100%"), val_ratio=0.2)
    shutil.rmtree(root / OPTIMIZE)
    return root


def test_no_table_of_the_pipeline_computes_in_a_spreadsheet(formula_root):
    root = formula_root
    config = sample_config(root, epochs=1, output_dir=OPTIMIZE / "=1+1")
    run = fit(config)
    fit(replace(config, output_dir=OPTIMIZE / "baseline", head_variant="base"))
    mine(config, "val", weights=run.folder, report=False)
    augment_images(workspace=Workspace(root))
    augment_text(workspace=Workspace(root))
    merge(workspace=Workspace(root))
    errors(OPTIMIZE / "=1+1", workspace=Workspace(root), min_count=2, report=False)
    compare(replace(config, output_dir=OPTIMIZE / "baseline"), report=False)
    tables = sorted((root / "outputs").rglob("*.csv"))
    names = {path.name for path in tables}
    assert {"audit.csv", "bad_cases.csv", "badcase_text_aug.csv", "compare_opt_vs_base.csv", "posts.csv"} <= names
    found = {path.name: cells[:3] for path in tables if (cells := formulas_in(path))}
    assert found == {}


def test_reasons_and_names_in_the_table_of_a_batch_do_not_compute(tmp_path):
    cells = [
        {"name": "=1+1", "values": {"train_csv": "@SUM(1)"}, "state": "done", "reason": "", "seconds": 1.0},
        {"name": "b", "values": {"train_csv": "x"}, "state": "failed", "reason": "--lr 0: must be", "seconds": 1.0},
    ]
    write_json(tmp_path / "cells.json", {"axes": ["train_csv"], "cells": cells})
    runs = collect(tmp_path)
    write_comparison(runs, runs, tmp_path / "grid.csv", ["run"], None)
    assert formulas_in(tmp_path / "grid.csv") == []


def test_altered_texts_come_back_from_their_table_as_they_were(formula_root):
    root = formula_root
    posts = read_split(root / "outputs/splits/train.csv").head(2 * len(FORMULAS))
    cases = posts.rename(columns={"label": "true_label"}).assign(pred_label="neutral", kind="model", reason="wrong")
    (root / OPTIMIZE).mkdir(exist_ok=True)
    cases.to_csv(root / OPTIMIZE / "bad_cases.csv", index=False)
    expected = []
    for post in posts.itertuples():
        text, _ = read_text(root / post.text_path)
        expected += rewrite_text(text, 2, random.Random(f"7 {post.guid}"))
    augment_images(workspace=Workspace(root))
    augment_text(seed=7, workspace=Workspace(root))
    merged = read_split(merge(workspace=Workspace(root)))
    paths = merged.text_path[merged.guid.str.contains("_ta")]
    assert expected and sorted((root / path).read_text(encoding="utf-8") for path in paths) == sorted(expected)
    copies = read_cases(root / OPTIMIZE / "badcase_text_aug.csv", ["guid", "text_aug"], once=False)
    assert copies.guid.isin(posts.guid).all()


def test_names_in_the_audit_do_not_compute():
    audit = audit_table(Problem(name, f"data/{name}.txt", "in neither list", "not used") for name in FORMULAS)
    assert not [cell for row in audit.to_numpy() for cell in row if computed(cell)]


WATCHED = """
import time
time.sleep(2)
"""


def test_a_report_listens_on_no_address_of_the_network(tmp_path):
    cells = [new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}), new_code_cell(WATCHED)]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "toy.ipynb")
    listening, done = {}, threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                try:
                    found = process.net_connections(kind="inet")
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                own = listening.setdefault(process.pid, set())
                own.update(found.laddr for found in found if found.status == psutil.CONN_LISTEN)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        execute(tmp_path / "toy.ipynb", tmp_path / "out", {})
    finally:
        done.set()
        watcher.join()
    assert len(listening) > 1  # the kernel was seen
    assert {address.ip for own in listening.values() for address in own} <= {"127.0.0.1", "::1"}
    if sys.platform == "linux":  # the five channels of the kernel are files; one port takes what its children print
        assert max(map(len, listening.values())) <= 1


def test_a_local_ray_cluster_listens_on_this_machine_only(monkeypatch):
    asked = {}
    fake = types.ModuleType("ray")
    fake.init = lambda address, **options: asked.update(options)
    fake.remote = lambda **options: lambda worker: worker
    monkeypatch.setitem(sys.modules, "ray", fake)
    connect_ray(Execution(engine="ray"))
    assert asked["_node_ip_address"] == "127.0.0.1" and asked["include_dashboard"] is False


def calls_in(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    "Calls with the dotted names of what they call."
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def constant(call: ast.Call, name: str, tree: ast.AST | None = None) -> object:
    "The value of a keyword that is written out, in the call or in a dictionary of the module that it takes, or nothing."
    shared = {word.value.id for word in call.keywords if word.arg is None and isinstance(word.value, ast.Name)}
    words = [(word.arg, word.value) for word in call.keywords]
    for node in ast.walk(tree) if tree and shared else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            if {target.id for target in node.targets if isinstance(target, ast.Name)} & shared:
                pairs = zip(node.value.keys, node.value.values, strict=True)
                words += [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]
    values = [value for key, value in words if key == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


FORBIDDEN = re.compile(
    r"(?:builtins\.)?(?:eval|exec|compile|__import__)$|os\.(?:system|popen|exec\w*|spawn\w*)$|(?:pickle|dill|cloudpickle|"
    r"marshal|shelve|joblib)\.|.*\.read_pickle$|yaml\.(?:load|unsafe_load|full_load)$|tempfile\.mktemp$|torch\.hub\."
)
MODULES = sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_package_runs_no_code_from_files_and_no_shell(path):
    wrong, tree = [], ast.parse(path.read_text(encoding="utf-8"))
    for name, call in calls_in(tree):
        loads = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}.get(name)
        if loads and constant(call, loads[0], tree) is not loads[1]:
            wrong.append(f"{name} without {loads[0]}={loads[1]}, line {call.lineno}")
        of_auto = re.fullmatch(r"(?:\w+\.)*Auto\w+\.from_(?:pretrained|config)", name)
        if of_auto and constant(call, "trust_remote_code", tree) is not False:
            wrong.append(f"{name} without trust_remote_code=False, line {call.lineno}")
        if FORBIDDEN.match(name):
            wrong.append(f"{name}, line {call.lineno}")
        if constant(call, "shell", tree) is True or constant(call, "trust_remote_code", tree) is True:
            wrong.append(f"{name} with shell or trust_remote_code, line {call.lineno}")
        if constant(call, "strict", tree) is False and name != "zip":
            wrong.append(f"{name} with strict=False, line {call.lineno}")
    wrong += [
        f"bare except, line {n.lineno}" for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and not n.type
    ]
    assert wrong == []


SAFE = ("gallery", "render_ranking", "list_steps", "ranking.to_html")  # what they make is looked at in pages above
SAFE += ("'<p>The errors that the model is surest of:</p>' + ''.join",)


def test_templates_put_out_no_text_that_is_not_escaped():
    wrong = []
    for path in sorted((PACKAGE.parent / "nbs/reports").glob("*.ipynb")):
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        for name, call in (found for source in code for found in calls_in(ast.parse(source))):
            if constant(call, "escape") is False or name.endswith(("Javascript", "SVG", "IFrame")):
                wrong.append(f"{path.stem}: {name}")
            if name == "HTML" and ast.unparse(call.args[0]).split("(")[0] not in SAFE:
                wrong.append(f"{path.stem}: {ast.unparse(call)}")
    assert wrong == []


class Bomb:
    "Writes a file when it is unpickled."

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_weights_that_hold_code_are_refused_and_the_code_does_not_run(tmp_path):
    torch.save({"model_state": Bomb(tmp_path / "ran"), "config": {}}, tmp_path / "best.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("best.pt", "plain.pt"):
        with pytest.raises(ClipsentError, match=name):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_brings_code_is_refused_and_the_code_does_not_run(root, tmp_path):
    folder = shutil.copytree(root / "tiny_clip", tmp_path / "encoder")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name, extra in (
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}),
        ("preprocessor_config.json", {"AutoImageProcessor": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", None]}),
    ):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if not key.endswith(("_type", "_class"))}
        write_json(folder / name, content | {"auto_map": extra, "model_type": "evil"})
    started = time.monotonic()
    for load in (load_encoder, lambda path: load_encoder(path, weights=False), load_processors):
        with pytest.raises(ClipsentError, match="--model-name"):
            load(folder)
    assert not (tmp_path / "ran").exists() and time.monotonic() - started < 30  # and nobody was asked


def test_parameters_of_a_report_are_values_and_no_code(tmp_path):
    cells = [new_code_cell("text: str = ''", metadata={"tags": ["parameters"]}), new_code_cell("print(text)")]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "toy.ipynb")
    ran = tmp_path / "ran"
    text = (
        f'"\n__import__("os").mkdir({str(ran)!r})\n\\" + str(__import__("os").mkdir({str(ran)!r})) + "{{x}}\u2028\u2029'
    )
    execute(tmp_path / "toy.ipynb", tmp_path / "out", {"text": text})
    told = nbformat.read(tmp_path / "out/report.ipynb", 4).cells[-1].outputs[0].text
    assert told == text + "\n" and not ran.exists()
