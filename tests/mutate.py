"""Small changes made on purpose in the package: do the tests notice?

    .venv/bin/python tests/mutate.py                     # 100 mutants, about two hours on a quiet machine; the table is outputs/mutants.csv
    .venv/bin/python tests/mutate.py --modules stats     # those of one module
    .venv/bin/python tests/mutate.py --only stats:120    # those of one line
    .venv/bin/python tests/mutate.py --list              # what would be changed

A mutant is a copy of the package with one change: another operator, comparison or number, `or` for `and`, a condition
turned round, a statement or an argument left out. It is caught if a fast test of its module or an assert of its notebook
fails, or if they take three times as long as usual. The sample depends on the seed and on the module's own code alone.
Changes in messages, annotations and the looks of plots do not count. A survivor that changes nothing that anybody could
notice is explained in `EQUIVALENT`; any other one asks for an assert. On 2026-11-27, of 100 mutants 82 were caught,
and 3 more by the tests that survivors asked for; 14 are explained, and one ran out of time on a busy machine.
"""

import argparse
import ast
import csv
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 8.0  # Seconds; what a longer test notices counts as unnoticed
# The module's notebook and the files of its tests; the frozen part of a run is tried by the tests of training.
JUDGES = {
    "stats": ("03a_stats", "stats"),
    "objective": ("03_objective", "objective"),
    "data": ("00_data", "data"),
    "posts": ("00f_posts", "data tables"),
    "copies": ("00g_copies", "data"),
    "train": ("04_train", "train levers promises"),
    "state": ("04e_state", "train levers promises"),
    "features": ("04b_features", "train levers promises"),
    "trained": ("04g_trained", "predict levers promises"),
    "badcases": ("09_badcases", "badcases"),
    "errors": ("10_errors", "errors"),
    "compare": ("12_compare", "compare"),
}
# (module, changed line, without blanks at its ends) -> why nobody could notice
EQUIVALENT = {
    ("train", '(folder / "last.pt").unlink()'): "the file is there, since every epoch writes it",
    (
        "features",
        "torch.manual_seed(((seed) - (state.process_index)))  # of the encoder's dropout: no two posts get the same",
    ): "any seed of its own does",
    ("features", "return torch.zeros(len(inputs), width, )"): "there is one device here",
    (
        "features",
        "store = RowStore(folder / digest(json.dumps(how, default=str).encode())[:17], shape, np.float32)",
    ): "a name of any length does",
    (
        "features",
        "found = dict(zip(TOWERS, encode(self.model, *where, around=around, ), strict=True))",
    ): "what a frozen tower makes of posts is computed in vain, and replaced by what is kept",
    (
        "features",
        'widths = -(((-inputs.lengths[rows]) / (16))) if tower == "text" else np.zeros(len(rows))',
    ): "more and smaller batches with the same features",
    (
        "train",
        "shares = np.bincount(train_labels, ) / len(train_labels)",
    ): "no class is without training posts, which is refused before",
    (
        "objective",
        'best = minimize_scalar(nll, bounds=tuple(np.log([0.05, 20])), options={"xatol": 1e-6})',
    ): "scipy takes this method by itself where there are bounds",
    (
        "copies",
        'details = pd.DataFrame(details, pairs.index[readable], [*CONTENT, "start"], )',
    ): "all details are texts; the type matters to pandas alone, where no post is left",
    (
        "errors",
        "table = pd.DataFrame(buckets, )",
    ): "all buckets have the index of the posts, and there is always one",
    (
        "errors",
        "samples: int = 10001,  # How often to deal",
    ): "nobody needs to know whether luck was tried once more",
    (
        "badcases",
        'return quality, find_label_issues(labels, calibrated, n_jobs=2, filter_by="both") & (quality < UNLIKELY)',
    ): "the number of processes changes no result",
    (
        "badcases",
        'groups = {name: group for name, group in posts.groupby("group") if ((group.label.nunique()) >= (1))}',
    ): "groups with one label have no conflicts to list; leaving them out saves time",
    (
        "data",
        "part[np.argsort(part - exact, )[: round(exact.sum()) - part.sum()]] += 1",
    ): "NumPy sorts up to sixteen numbers stably by any method, and beyond, equal remainders may be rounded up in any order",
    (
        "posts",
        'file = first.file if ((len(first.file)) < (200)) else f"{first.file[:80]!r}…"',
    ): "where a message is cut",
    (
        "copies",
        'return "" if ((levels.std()) <= (FLATTEST)) else str(imagehash.phash(grey))',
    ): "no picture has exactly this spread",
    (
        "copies",
        "return dict(zip(CONTENT, found, strict=True), start=text[:201]), _text_problems(pair, text, raw, encoding)",
    ): "how much of a text a message can show",
    (
        "train",
        "if processes.is_main_process and time.monotonic() - saved >= 61 * config.save_minutes:",
    ): "a state is saved a little later",
    (
        "badcases",
        'short = html.escape(text if len(text) <= 161 else f"{text[:159]}…")',
    ): "where a text on a card is cut",
    ("errors", "figure.savefig(file, dpi=120)"): "matplotlib writes PNG where nothing else is asked for",
    (
        "compare",
        'prompts, blank = [prompt.format(label) for label in labels for prompt in PROMPTS], Image.new("RGB", (8, 9))',
    ): "nobody looks at this picture",
    (
        "badcases",
        "labels = np.array(run.classes)[cross_fit_answers(run.labels, epochs, predictions.group, halvings=2)[0]]",
    ): "the first halving is the same, however many follow",
    (
        "badcases",
        "logits = np.log(np.clip(probabilities, 2e-12, None))",
    ): "how far below all that matters a probability may be",
    (
        "posts",
        "return pairs[pairs.part.notna() & ~bare].reset_index(drop=False), problems",
    ): "the columns of a split are taken by name",
    (
        "posts",
        "return pairs.assign(**filled)[kept].reset_index(drop=False), problems",
    ): "the columns of a split are taken by name",
    (
        "trained",
        "if not encoder or ((len(inputs)) <= (ENCODING_BATCH)):  # fewer are computed as many",
    ): "features that are kept and features that are computed are the same",
    (
        "errors",
        "min_count: AtLeastOne = 21,  # Posts that a bucket or slice needs before something is concluded from it",
    ): "how many are enough is a choice",
    ("badcases", 'image.save(buffer, "JPEG", )'): "how finely a thumbnail is kept",
    ("state", "epochs=13,"): "settings for the sample; others near them do as well",
    ("state", "early_stop=0,"): "settings for the sample; others near them do as well",
    (
        "features",
        "share = slice(state.process_index, None, state.num_processes) if (not (shared)) else slice(None)",
    ): "there is one process here; the slow test of two notices",
}
# Arguments whose effect cannot be tried here (a fault in zip, the code pages of other systems) or is a matter of looks
NEUTRAL = {None, "strict", "encoding", "figsize", "layout", "height", "width"}
PATHS = re.compile(r"(root|folder|path|home|splits|directory)$")  # What stands before a / that divides nothing
MESSAGES = {"ClipsentError", "Problem", "info", "warning", "debug", "tqdm", "progress"}
COMPARISONS = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"},
}
OPERATORS = {
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*"},
    **{ast.BitAnd: "|", ast.BitOr: "&"},
}


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    kind: str
    start: int  # Place in the text of the module, in bytes
    end: int
    new: str

    def apply(self, text: str) -> str:
        raw = text.encode()
        return (raw[: self.start] + self.new.encode() + raw[self.end :]).decode()

    def lines(self, text: str) -> tuple[str, str]:
        "The line as it was and as it is."
        return tuple(t.splitlines()[self.line - 1].strip() for t in (text, self.apply(text)))


def is_message(node: ast.AST) -> bool:
    "Whether a call writes for the reader of a screen."
    called = getattr(node, "func", None)
    return getattr(called, "id", getattr(called, "attr", "")) in MESSAGES


def counted_nodes(node: ast.AST) -> Iterator[ast.AST]:
    "The nodes that do something: no annotations, decorators, messages and plots."
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            silent = (isinstance(child, ast.FunctionDef) and child.name.startswith("plot_")) or (
                isinstance(child, ast.keyword) and child.arg in NEUTRAL
            )
            if isinstance(child, ast.AST) and not (silent or is_message(child) or isinstance(child, ast.JoinedStr)):
                yield from counted_nodes(child)


def find_changes(node: ast.AST, code: Callable[[ast.AST], str]) -> Iterator[tuple[str, ast.AST, str]]:
    "Each change of one node: its kind, the node to replace, and the new code."

    def join(first: ast.AST, operator: str, *others: ast.AST) -> str:
        return "(" + f" {operator} ".join(f"({code(part)})" for part in (first, *others)) + ")"

    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", node, join(node.left, COMPARISONS[type(node.ops[0])], node.comparators[0])
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        text = any(
            isinstance(s, ast.JoinedStr) or isinstance(getattr(s, "value", None), str) for s in (node.left, node.right)
        )
        if not text and not (isinstance(node.op, ast.Div) and PATHS.search(code(node.left))):
            yield "operator", node, join(node.left, OPERATORS[type(node.op)], node.right)
    elif isinstance(node, ast.BoolOp):
        yield "boolean", node, join(node.values[0], "or" if isinstance(node.op, ast.And) else "and", *node.values[1:])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "boolean", node, f"({code(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", node, str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield "constant", node, str(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "condition", node.test, f"(not ({code(node.test)}))"
    elif isinstance(node, ast.comprehension):
        yield from (("condition", test, f"(not ({code(test)}))") for test in node.ifs)
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg not in NEUTRAL and keyword.value.end_lineno == keyword.lineno:
                yield "argument", keyword, ""
    if isinstance(node, ast.Raise | ast.Continue | ast.Break | ast.AugAssign):
        yield "statement", node, "pass"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not is_message(node.value):
        yield "statement", node, "pass"


def find_mutants(module: str) -> list[Mutant]:
    "All mutants of a module, in the order of its lines."
    text = (ROOT / f"clipsent_nb/{module}.py").read_text(encoding="utf-8")
    raw, starts = text.encode(), [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))

    def place(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def code(node: ast.AST) -> str:
        start, end = place(node)
        return raw[start:end].decode()

    found = {}
    for node in counted_nodes(ast.parse(text)):
        for kind, target, new in find_changes(node, code):
            start, end = place(target)
            if kind == "argument":  # with the comma behind it
                end += len(re.match(rb"\s*,?\s*", raw[end:])[0])
            mutant = Mutant(module, target.lineno, kind, start, end, new)
            changed = mutant.apply(text)
            try:
                ast.parse(changed)
            except SyntaxError:  # e.g. inside of an f-string of an older Python
                continue
            if mutant.lines(text)[0] != mutant.lines(text)[1] or "\n" in raw[start:end].decode():
                found[(start, end, new)] = mutant
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def draw_mutants(modules: list[str], count: int, seed: int) -> list[Mutant]:
    "As many of each module, give or take one."
    drawn = []
    for number, module in enumerate(JUDGES):
        mutants, share = find_mutants(module), count // len(JUDGES) + (number < count % len(JUDGES))
        drawn += random.Random(f"{seed} {module}").sample(mutants, min(share, len(mutants)))
    return sorted((m for m in drawn if m.module in modules), key=lambda m: (list(JUDGES).index(m.module), m.start))


def run_notebook(copy: Path, notebook: str, module: str) -> int:
    "The cells of a notebook in one namespace; exported cells are those of the copy's module."
    text = (copy / f"clipsent_nb/{module}.py").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^# %% .*\.ipynb #(\w+)\n", text)
    exported = {
        key: body.replace("from .", "from clipsent_nb.") for key, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    os.chdir(copy / "nbs")
    names = {"__name__": "__main__"}
    for cell in json.loads(Path(f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = exported.get(cell["id"], "".join(cell["source"]))
        if cell["cell_type"] == "code" and not re.match(r"#\| *slow", source):
            exec(compile(source, f"<{notebook} {cell['id']}>", "exec"), names)
    return 0


class QuickFirst:
    "Tests in the order of the time that they took without a change, without those that took longest."

    def __init__(self, file: Path) -> None:
        self.file, self.times = file, json.loads(file.read_text()) if file.exists() else None
        self.measured: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self.times:  # a slow or skipped test has none
            quick = [item for item in items if self.times.get(item.nodeid, LONGEST) < LONGEST]
            items[:] = sorted(quick, key=lambda item: self.times[item.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call":
            self.measured[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        if self.times is None:
            self.file.write_text(json.dumps(self.measured))


def run_tests(copy: Path, tests: str) -> int:
    import pytest

    os.chdir(copy)
    options = ["-x", "-n", "0", "-p", "no:cacheprovider", "--tb", "line"]
    files = [f"tests/test_{name}.py" for name in tests.split()]
    status = int(pytest.main([*options, *files], plugins=[QuickFirst(copy / f"{tests}.json")]))
    if "INTERNALERROR" in (copy / "log.txt").read_text(errors="replace"):
        (copy / "broken").touch()  # pytest itself, which says nothing of the mutant
    return status


def run_apart(work: Callable[[], int], limit: float, copy: Path) -> tuple[str, float]:
    "Does work in a process of its own: `passed`, `failed` or `slow`, and the seconds that it took."
    begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="mutant"))
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            with open(copy / "log.txt", "w") as log:
                os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
            os.environ |= {"PYTHONPATH": str(copy), "TMPDIR": str(folder)}
            tempfile.tempdir = None
            sys.path.insert(0, str(copy))
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(bool(status))
    verdict = "slow"
    while time.monotonic() - begun < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            verdict = "failed" if status else "passed"
            break
        time.sleep(0.05)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if verdict == "slow":
        os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    return verdict, time.monotonic() - begun


def judge_of(module: str, copy: Path) -> dict[str, Callable[[], int]]:
    notebook, tests = JUDGES[module]
    return {
        "notebook": lambda: run_notebook(copy, notebook, module),
        "tests": lambda: run_tests(copy, tests),
    }


def import_ahead() -> None:
    "What each mutant would import again; nothing of the package."
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    import fastcore.test  # noqa: F401
    import hypothesis  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytest  # noqa: F401
    import seaborn  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests")]
    assert not any(name.startswith("clipsent_nb") for name in sys.modules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="+", choices=JUDGES, default=list(JUDGES))
    parser.add_argument("--only", nargs="+", help="module:line")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--csv", type=Path, default=ROOT / "outputs/mutants.csv")
    given = parser.parse_args()
    mutants = draw_mutants(given.modules, given.count, given.seed)
    if given.only:
        mutants = [m for m in mutants if f"{m.module}:{m.line}" in given.only]
    texts = {m: (ROOT / f"clipsent_nb/{m}.py").read_text(encoding="utf-8") for m in JUDGES}
    if given.list:
        for m in mutants:
            print(f"{m.module}:{m.line} {m.kind}", *m.lines(texts[m.module]), sep="\n    ")
        return
    import_ahead()
    copy = Path(tempfile.mkdtemp(prefix="mutate"))
    for name in ("clipsent_nb", "tests", "nbs", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "sample"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    usual: dict[tuple[str, str], float] = {}
    for module in dict.fromkeys(m.module for m in mutants):
        for name, work in judge_of(module, copy).items():
            judge = JUDGES[module][name == "tests"], name
            if judge not in usual:
                verdict, usual[judge] = run_apart(work, 900, copy)
                print(f"{module}: {name} {verdict} without a change in {usual[judge]:.0f} s", flush=True)
                if verdict != "passed":
                    sys.exit((copy / "log.txt").read_text()[-3000:])
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with open(given.csv, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow("module line kind before after verdict by seconds reason".split())
        caught = 0
        for number, mutant in enumerate(mutants, 1):
            module, target = mutant.module, copy / f"clipsent_nb/{mutant.module}.py"
            target.write_text(mutant.apply(texts[module]), encoding="utf-8")
            judges = {(JUDGES[module][name == "tests"], name): work for name, work in judge_of(module, copy).items()}
            seconds, by, last = 0.0, "", ""
            for judge, work in sorted(judges.items(), key=lambda item: usual[item[0]]):
                verdict, took = run_apart(work, 3 * usual[judge] + 30, copy)
                if (copy / "broken").exists():
                    sys.exit((copy / "log.txt").read_text(errors="replace")[-3000:])
                seconds += took
                if verdict != "passed":
                    by, last = (
                        judge[1],
                        (copy / "log.txt").read_text(errors="replace").strip()[-300:].replace("\n", " | "),
                    )
                    break
            target.write_text(texts[module], encoding="utf-8")
            reason = EQUIVALENT.get((module, mutant.lines(texts[module])[1]), "")
            result = "caught" if by else "explained" if reason else "SURVIVED"
            caught += bool(by)
            table.writerow(
                [
                    module,
                    mutant.line,
                    mutant.kind,
                    *mutant.lines(texts[module]),
                    result,
                    by,
                    f"{seconds:.1f}",
                    reason or last,
                ]
            )
            file.flush()
            print(
                f"{number}/{len(mutants)} {result:9} {module}:{mutant.line} {mutant.kind} ({seconds:.0f} s)", flush=True
            )
    shutil.rmtree(copy)
    print(f"{caught} of {len(mutants)} caught; {given.csv}")


if __name__ == "__main__":
    main()
