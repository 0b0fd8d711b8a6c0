"""Commands that README and docs show can be given as they stand."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from clipsent_nb.cleaning import active_rules, clean_text
from clipsent_nb.cli import COMMANDS, parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
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


def test_every_chapter_is_linked_in_reading_order():
    chapters = [path.name for path in sorted((ROOT / "nbs").glob("[01][0-9]_*.ipynb"))]
    linked = re.findall(r"\]\(nbs/([01]\d_\w+\.ipynb)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert linked == chapters


def skeleton(page: Path) -> dict[str, list[str]]:
    "What a page and its translation share: levels of headings, code without remarks, links, printed lines, commands."
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    names = [name for name in re.findall(r"`([^`\n]+)`", prose) if name.isascii()]
    return {
        "headings": re.findall(r"^#+", prose, re.MULTILINE),
        "code": [re.sub(r" +# .*", "", block) for block in code],
        "links": [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith("README")],
        "printed": re.findall(r"^    .*", prose, re.MULTILINE),
        "rows": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        "names": sorted(names),
    }


def test_the_chinese_readme_says_what_the_english_one_says():
    english, chinese = (skeleton(ROOT / name) for name in ("README.md", "README.zh.md"))
    for part in english:
        assert chinese[part] == english[part], part


def test_the_messages_that_are_explained_in_chinese_are_those_of_the_code():
    sys.path.insert(0, str(ROOT / "docs"))
    from pages import messages_page

    known = messages_page().replace("&lt;", "<").replace(" | ", "; ").splitlines()
    shown = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs/howto/messages-zh.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(shown) > 25
    for message in shown:
        words = [part.strip("…:; ") for part in re.split("…|: |; ", message) if part.strip("…:; ")]
        assert any(all(part in line for part in words) for line in known), message


def test_chinese_texts_are_cleaned_as_the_page_says():
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)`", (ROOT / "docs/zh.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 5
    for before, after in rows:
        assert clean_text(before, active_rules({})) == after


def test_every_link_of_the_chinese_readme_has_its_page_on_the_site():
    sys.path.insert(0, str(ROOT / "docs"))
    from pages import chinese_page

    made = {"outputs.md": ROOT / "outputs/README.md"} | {
        f"notebooks/{path.name}": path for path in ROOT.glob("nbs/*.ipynb")
    }
    links = [link for link in re.findall(r"\]\(([^)#]+)", chinese_page()) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if link not in made and not (ROOT / "docs/made" / link).resolve().exists()] == []
