"""`python -m core.locale`: update the catalogues from the code and list the sentences without translation."""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from core.i18n import DOMAIN, catalogue_path
from core.languages import LANGUAGES
from core.locale.collect import collect

_ROOT = Path(__file__).parents[2]


def template(root: Path) -> Catalog:
    """A catalogue of all messages in the code, untranslated."""
    catalogue = Catalog(domain=DOMAIN, project="Fabula", fuzzy=False)
    for found in collect(root):
        message = (found.message, found.plural) if found.plural else found.message
        catalogue.add(message, locations=[(found.where, found.line)])
    return catalogue


def update(root: Path, language: str) -> list[str]:
    """Rewrite one language's catalogue: keep translations, drop unused sentences. Returns the untranslated ids."""
    path = catalogue_path(language)
    with path.open("rb") as file:
        catalogue = read_po(file, locale=language, domain=DOMAIN)
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
    missing = {language: update(_ROOT, language) for language in LANGUAGES if catalogue_path(language).is_file()}
    for language, ids in missing.items():
        print(f"{language}: {len(ids)} without translation")
        for message in ids:
            print(f"  {message}")
    return 1 if any(missing.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
