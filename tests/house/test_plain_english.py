"""Sentences that people read are in plain English: on pages, in messages, in documents and in the code of pages.

Each phrase in this table once confused a reader. The second column says what to write instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from core.locale.__main__ import collect

_ROOT = Path(__file__).parents[2]

# These quote other people's texts, rules for stories, or records of measurements.
_NOT_OURS = {"storyteller.md", "tour_stories.md", "sample_stories.md", "benchmarks.md", "storyteller.py", "tour.py"}

# Regular expression → what to write instead.
_INSTEAD = {
    r"\banew\b": "again",
    r"\bwhatever\b": "name the cases",
    r"\b(nobody|somebody)\b": "name who: no user, the provider, another process",
    r"\bwhether [^.;]* shows\b": "name what the reader sees",
    r"\bof (yours|ours|one's own)\b": "your, our",
    r"\btak(e|es|en|ing) away\b": "remove, export",
    r"\bhangs? on\b": "depends on",
    r"\b(lie|lies|lay) in the\b": "is in, is stored in",
    r"\b(data|files?|folder|prices|weights) (lie|lies)\b": "is stored",
    r"\bonce it has come\b": "when it arrives",
    r"\bas ever\b": "as usual, or nothing",
    r"\bbeside the (page|row|text|map|list)\b": "next to, in the background",
    r"\bkept beside\b": "stored with, next to",
    r"\brid(e|es|ing|den) out\b": "waits until",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bthe whole way\b": "the whole workflow",
    r"\bhow it goes\b": "progress",
    r"^came from\b": "base model, source",
    r"\blately\b": "recent",
    r"\bone press\b": "one click",
    r"\bwhat came of\b": "results",
    r"\bcan be without an answer\b": "say what is missing",
    r"waited for its turn\b": "queued, its place in the queue",
    r"\bgo on writing\b": "continue",
    r"\bas a sound file\b": "download audio",
    r"\bwithout a word\b": "name what is missing",
    r"\bfinished by itself\b": "complete",
    r"\bmost tokens in one\b": "max tokens",
    r"\bnever pays back\b": "never breaks even",
    r"\bis the middle\b": "is a good default",
    r"\bnot free: \d": "can't be used: it appears in",
    r"\bare welcome\b": "try …",
    r"\bno two alike\b": "original",
    r"\bit stands before\b": "overrides",
    r"\bstands? (at|in|on|behind|below|under|here|there)\b": "is",
    r"\b(is|are) told (by|to|of)\b": "the page says, the message names",
    r"\bof its own accord\b": "automatically",
    r"\bby itself again\b": "automatically",
    r"\bit is to be\b": "must, should",
    r"\bthereof|thereby|wherein|whereby|hence|thus\b": "so",
    r"\bon the shelf\b": "under Earlier stories",
    r"\b(buys?|bought|buying)\b": "request, pay for",
    r"\bbooked\b": "recorded",
    r"\bhanded (in|back)\b": "submitted, returned",
    r"\bits own words\b|\b(server|provider)'s words\b": "message",
    r"\bin place of\b": "instead of",
    r"\bfor ever\b": "permanently",
    r"\blikeness\b": "similarity",
    r"\bdo(es)? not take\b": "does not accept",
    r"\b(tokens?|rows?|requests?|answers?|objects?|nats|amount|times|updates|chunks) an? "
    r"(second|minute|hour|token|line|row|request|story|pair)\b": "per",
    r"\bin a process of its own\b": "in its own process",
    r"\bfor the length of\b": "for the duration of",
    r"\bas people (do|start)\b": "in the usual way",
    r"\bwhich no [a-z]+ has\b": "say what is wrong with it",
}


@cache
def _sentences() -> list[tuple[str, str]]:
    """(where, text) of every message of pages and core, every line of a document, every docstring and comment."""
    found = [(f"{one.where}:{one.line}", text) for one in collect(_ROOT) for text in (one.message, one.plural) if text]
    for path in [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]:
        if path.name not in _NOT_OURS:
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [(f"{path.name}:{number}", _without_code(line)) for number, line in enumerate(lines, 1)]
    for folder in ("core", "pages", "bench", "data", "tests"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if path.name not in _NOT_OURS:
                found += [(f"{path.relative_to(_ROOT)}:{line}", _without_code(text)) for line, text in _remarks(path)]
    return found


def _remarks(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings and comments of a file, with their lines."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _without_code(line: str) -> str:
    return re.sub(r"`[^`]*`", "", line)


@pytest.mark.parametrize("phrase", _INSTEAD)
def test_no_sentence_has_a_phrase_that_readers_stop_at(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    found = [f"{where}: {text}" for where, text in _sentences() if pattern.search(text)]
    assert found == [], f"write instead: {_INSTEAD[phrase]}"
