"""Commands that README and docs show can be given as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from clipsent_nb.cli import COMMANDS, parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs/howto").glob("*.md"))
COMMAND = re.compile(r"(?:^|`)(?:\w+=\S+ )*(clipsent [a-z-]+[^`#|\n>]*)", re.MULTILINE)


def shown_commands() -> list[tuple[str, str]]:
    "Page and command; what is left to the reader, in capitals or as dots, is no flag."
    found = []
    for page in PAGES:
        for line in COMMAND.findall(page.read_text(encoding="utf-8")):
            words = [word.strip(",.;") for word in shlex.split(line) if word not in ("…", "...")]
            if words[1] in COMMANDS and not {"-h", "--help"}.intersection(words):
                found.append((page.relative_to(ROOT).as_posix(), " ".join(words)))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_a_command_that_is_shown_can_be_given(page, command):
    _, name, *words = command.split()
    if words or name not in (
        "sample",
        "predict",
        "robustness",
        "export",
        "ensemble",
    ):  # which need more than their name
        parse(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "made/" not in link and not (page.parent / link).exists()] == []
