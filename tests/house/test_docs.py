"""README and docs stay up to date: every page, setting, command and endpoint is mentioned, and no link is broken."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DOCUMENTS = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_TEXT = "\n".join(path.read_text(encoding="utf-8") for path in _DOCUMENTS)
_VARIABLE = re.compile(
    r"\b(?:FABULA_[A-Z_]+[A-Z]|DATABASE_URL|(?:AZURE_|TOGETHER_|OPENAI_|WANDB_)[A-Z_]*(?:KEY|URL|ENDPOINT))\b"
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ROUTE = re.compile(r"/[a-z{}:/_0-9]*")


def _strings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _variables() -> set[str]:
    sources = [_ROOT / "app.py", *_ROOT.glob("pages/**/*.py"), *_ROOT.glob("core/**/*.py")]
    return {name for path in sources for text in _strings(path) for name in _VARIABLE.findall(text)}


def _pages() -> list[str]:
    return sorted(path.stem for path in (_ROOT / "pages").glob("*.py") if path.stem != "frame")


def _targets() -> list[str]:
    return re.findall(r"^([a-z]+):", (_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def _route_words() -> set[str]:
    """The words in the paths of the engine's API, from its route table."""
    table = _ROOT / "core" / "engine" / "api" / "routes.py"
    paths = [text for text in _strings(table) if len(text) > 1 and _ROUTE.fullmatch(text)]
    return {word for path in paths for word in path.split("/") if word and not word.startswith("{")}


def test_readme_starts_with_the_two_commands() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["make run", "make test"]
    assert len(readme[: block.start()].splitlines()) < 10


def test_every_page_has_its_document_and_stands_in_the_readme() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    assert _pages() == ["cost", "dataset", "home", "move", "settings", "story", "training"]
    for page in _pages():
        assert f"docs/{page}.md" in readme, page
        assert page == "home" or f"`/{page}`" in readme, page


def test_every_variable_is_documented_and_every_documented_one_exists() -> None:
    documented = set(_VARIABLE.findall((_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))
    assert documented == _variables()
    assert set(_VARIABLE.findall(_TEXT)) <= _variables()


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_every_make_target_is_named(document: str) -> None:
    text = (_ROOT / document).read_text(encoding="utf-8")
    assert _targets()
    assert [target for target in _targets() if f"make {target}" not in text] == []


def test_every_make_target_that_is_named_exists() -> None:
    assert set(re.findall(r"`make ([a-z]+)", _TEXT)) <= set(_targets())


def test_every_endpoint_of_the_engine_is_documented() -> None:
    text = (_ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    assert {"health", "models", "completions", "checkpoints"} <= _route_words()
    assert [word for word in sorted(_route_words()) if word not in text] == []


def test_every_requirement_has_its_reason() -> None:
    decisions = (_ROOT / "docs" / "decisions.md").read_text(encoding="utf-8").lower()
    for path in sorted(_ROOT.glob("requirements*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                name = re.split(r"[\[<>=~ ]", line)[0]
                assert name in decisions, f"{path.name}: {name}"


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_no_link_is_broken(document: Path) -> None:
    broken = []
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub generates from a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _used_names(text: str) -> Iterator[tuple[str, str, str]]:
    """Every project import in a Python block of a document, as (module, name, ""), and every attribute that the block
    uses of it, as (module, name, attribute)."""
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        nodes = list(ast.walk(ast.parse(block)))
        imported: dict[str, tuple[str, str]] = {}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "core":
                imported |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        yield from ((*source, "") for source in imported.values())
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
                yield (*imported[node.value.id], node.attr)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_imports_and_calls_is_there(document: Path) -> None:
    missing = []
    for module, name, attribute in _used_names(document.read_text(encoding="utf-8")):
        with suppress(ModuleNotFoundError):  # then it is no module but a name in one
            importlib.import_module(f"{module}.{name}")
        found = getattr(importlib.import_module(module), name, None)
        if found is None or (attribute and not hasattr(found, attribute)):
            missing.append(f"{module}.{name}.{attribute}")
    assert missing == []


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_is_there(document: Path) -> None:
    named = re.findall(
        r"\b((?:core|pages|bench|data|tests)/[\w/.]+\.(?:py|csv|json|gguf|md))\b", document.read_text("utf-8")
    )
    assert [path for path in named if not (_ROOT / path).exists()] == []


def test_the_picture_of_the_architecture_shows_todays_imports() -> None:
    done = subprocess.run(
        [sys.executable, str(_ROOT / "docs" / "import_diagram.py"), "--check"], timeout=120, check=False
    )
    assert done.returncode == 0, "run: python docs/import_diagram.py"


def test_every_path_in_the_map_exists() -> None:
    """`name.py` without a folder is in the folder of the preceding path."""
    missing, folder = [], _ROOT
    for line in (_ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines():
        for path in re.findall(r"`((?:[a-z_]+/)*[\w]+\.(?:py|csv|json)|(?:core|pages|data)/[\w/]+/)`", line):
            found = _ROOT / path if "/" in path or path == "app.py" else folder / path
            folder = found if found.is_dir() else found.parent
            missing += [] if found.exists() else [path]
    assert missing == []


def _decisions() -> list[tuple[str, str]]:
    text = (_ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    sections = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
    return [
        (heading, re.split(r"^## ", body, flags=re.MULTILINE)[0])
        for heading, body in zip(sections[::2], sections[1::2], strict=True)
    ]


def test_every_decision_has_context_decision_and_alternatives() -> None:
    parts = ["Context", "Decision", "Alternatives"]
    found = {heading: re.findall(r"^\*\*(\w+)\.\*\* \S", body, re.MULTILINE) for heading, body in _decisions()}
    assert found
    assert {heading: marks for heading, marks in found.items() if marks != parts} == {}


def test_the_contents_list_every_decision_in_order() -> None:
    text = (_ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^ *- \[(.+)\]\(#.+\)$", text, re.MULTILINE)
    assert listed == re.findall(r"^###? (.+)$", text, re.MULTILINE)


def test_no_paragraph_is_written_twice() -> None:
    """A bad merge can leave two versions of a paragraph."""
    beginnings = [
        line[:60]
        for path in _DOCUMENTS
        for line in path.read_text(encoding="utf-8").splitlines()
        if len(line) >= 80 and not line.startswith((">", "|"))
    ]
    assert {line for line in beginnings if beginnings.count(line) > 1} == set()
