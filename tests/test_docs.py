"""README and guides say nothing that is not there: commands, options, files, Python that parses, error classes."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from wsi_seg import errors
from wsi_seg.card import ModelCard
from wsi_seg.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks/guides").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PARTS = [
    *("wsi_seg", "kernels", "benchmarks", "notebooks", "tests", ".ci"),
    *("constraints.txt", "pyproject.toml", "Makefile", "LICENSE"),
]


def _fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def _usages(text: str) -> Iterator[list[str]]:
    """Words after `wsi-seg` of indented lines (`$` or not) and of code spans; comments left out."""
    lines = re.findall(r"^ {4}(?:\$ )?wsi-seg (.+)$", text, re.MULTILINE) + re.findall(r"`wsi-seg ([^`\n]+)`", text)
    for line in lines:
        yield shlex.split(line.split("  #")[0])


def _options(command: click.Command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")} | {"--help"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_an_example(command: str) -> None:
    assert any(words[0] == command for words in _usages(README.read_text()))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_in_the_guide_under_a_heading_that_names_its_command(command: str) -> None:
    page = (ROOT / "notebooks/guides/commands.md").read_text()
    mine = "".join(
        part for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:] if f"`{command}`" in part.splitlines()[0]
    )
    explained = {
        name for row in re.findall(r"^\| (`-[^|]*) \| \S", mine, re.MULTILINE) for name in row[1:-1].split("`, `")
    }
    assert _options(COMMANDS[command]) - {"--help"} <= explained
    assert f"    wsi-seg {command} " in mine


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_usages_name_commands_and_options_that_exist(page: Path) -> None:
    for words in _usages(page.read_text()):
        rest = [word for word in words if word != "--debug"]
        if rest[0] in ("--version", "COMMAND"):
            continue
        assert rest[0] in COMMANDS, words
        given = {word for word in rest[1:] if word.startswith("-")}
        assert given <= _options(COMMANDS[rest[0]]), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_code_spans_exist(page: Path) -> None:
    known = set().union(*map(_options, COMMANDS.values())) | {"--debug", "--version"}
    spans = re.findall(r"`([^`\n]*)`", _prose(page))
    given = {word for span in spans if "pip " not in span for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", span)}
    assert given <= known, given - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    text = _prose(page)
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    heads = "|".join(map(re.escape, PARTS))
    spans = set(re.findall(rf"`((?:{heads})(?:/[\w./-]*)?)`", text))
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [span for span in spans if not (ROOT / span).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_python_parses_and_imports_what_exists(page: Path) -> None:
    for source in _cells(page) if page in NOTEBOOKS else _fences(page, "python"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsi_seg"):
                tree = ast.parse(_module_file(str(node.module)).read_text())
                text = ast.dump(tree)
                assert all(f"'{alias.name}'" in text for alias in node.names), ast.unparse(node)


def test_notebooks_are_stored_without_outputs() -> None:
    for page in NOTEBOOKS:
        cells = json.loads(page.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), page.name


def test_cards_in_the_pages_are_cards() -> None:
    cards = [text for page in PAGES for text in _fences(page, "json")]
    assert cards
    for text in cards:
        ModelCard.from_json(text, "a page")


def test_every_error_and_every_card_field_is_explained() -> None:
    leaves = [c for c in vars(errors).values() if isinstance(c, type) and not c.__subclasses__()]
    page = (ROOT / "notebooks/guides/errors.md").read_text()
    assert [c.__name__ for c in leaves if c.__module__ == errors.__name__ and f"`{c.__name__}`" not in page] == []
    page = (ROOT / "notebooks/guides/models.md").read_text()
    assert [name for name in ModelCard.__slots__ if f"`{name}`" not in page] == []


def _prose(page: Path) -> str:
    """The page without fenced blocks, whose back-ticks would pair up with others."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _cells(page: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]


def _module_file(name: str) -> Path:
    path = ROOT / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
