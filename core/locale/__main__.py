"""`python -m core.locale`: create or update the catalogues from the code and list the sentences without translation.

Every language in `core.languages.LANGUAGES` has a catalogue, except English, whose sentences are the message ids.

Every translatable sentence is the literal template in a call to `_`, `n_`, `mark` or `msg`. They are collected from the
syntax tree, because Babel's extractor does not see calls inside f-strings before Python 3.12.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from core.i18n import DOMAIN, catalogue_path
from core.languages import ENGLISH, LANGUAGES

_ROOT = Path(__file__).parents[2]
_MARKS = {"_": 1, "mark": 1, "msg": 1, "n_": 2}  # function → number of leading template arguments


@dataclass(frozen=True, slots=True)
class CollectedMessage:
    """A message in the code: its id, plural id and position."""

    message: str
    plural: str | None
    where: str
    line: int


def collect(root: Path) -> list[CollectedMessage]:
    """All messages in the project folder, sorted by file and line."""
    paths = sorted([root / "app.py", *root.glob("pages/**/*.py"), *root.glob("core/**/*.py")])
    return [found for path in paths if path.is_file() for found in _in_file(path, path.relative_to(root).as_posix())]


def _in_file(path: Path, where: str) -> Iterator[CollectedMessage]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=where)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MARKS:
            count = _MARKS[node.func.id]
            texts = [a.value for a in node.args[:count] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if len(texts) == count and texts[0]:
                yield CollectedMessage(texts[0], texts[1] if count == 2 else None, where, node.lineno)


def template(root: Path) -> Catalog:
    """A catalogue of all messages in the code, untranslated."""
    catalogue = Catalog(domain=DOMAIN, project="Fabula", fuzzy=False)
    for found in collect(root):
        message = (found.message, found.plural) if found.plural else found.message
        catalogue.add(message, locations=[(found.where, found.line)])
    return catalogue


def update(root: Path, language: str) -> list[str]:
    """Rewrite one language's catalogue: keep translations, drop unused sentences. Returns the untranslated ids.

    A catalogue that does not exist is created, untranslated.

    Raises:
        babel.UnknownLocaleError: `language` is not a language code that Babel knows.
    """
    path = catalogue_path(language)
    if path.is_file():
        with path.open("rb") as file:
            catalogue = read_po(file, locale=language, domain=DOMAIN)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        catalogue = Catalog(locale=language, domain=DOMAIN, project="Fabula", fuzzy=False)
    catalogue.update(template(root), no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    catalogue.last_translator = catalogue.language_team = "Fabula"
    catalogue.msgid_bugs_address = ""
    catalogue.header_comment = f"# Fabula's sentences: {LANGUAGES[language]}. `make messages` keeps this in step."
    with path.open("wb") as file:
        write_po(file, catalogue, width=120, no_location=True, sort_output=True, omit_header=False)
    missing = (m.id for m in catalogue if m.id and not (all(m.string) if isinstance(m.string, tuple) else m.string))
    return [key if isinstance(key, str) else key[0] for key in missing]


def main() -> int:
    missing = {language: update(_ROOT, language) for language in LANGUAGES if language != ENGLISH}
    for language, ids in missing.items():
        print(f"{language}: {len(ids)} without translation")
        for message in ids:
            print(f"  {message}")
    return 1 if any(missing.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
