"""Languages: gettext catalogues, one `.po` file per language, compiled in memory on first use.

The message id is the English sentence itself, so English needs no catalogue and a missing translation shows English.
`make messages` collects new sentences from the code into the catalogues.
"""

from __future__ import annotations

import gettext
import io
import re
from functools import cache
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from core.languages import CHINESE, ENGLISH, LANGUAGES
from core.message import Message

DOMAIN = "fabula"
LOCALE = Path(__file__).parent / "locale"


_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_BEFORE_FIELD = re.compile(rf"(?<=[{_HAN}]) (?=[*_]*\{{(\w+)\}})")
_AFTER_FIELD = re.compile(rf"\{{(\w+)\}}[*_]* (?=[{_HAN}])")
_BEGINS_WITH_HAN = re.compile(rf"[*_\\]*[{_HAN}]")
_ENDS_WITH_HAN = re.compile(rf"[{_HAN}][*_]*$")


class ChineseTemplate(str):
    """A Chinese template with fields. Its spaces between a character and a field are for numbers and Latin letters;
    `format` removes them if the field's value is Chinese."""

    __slots__ = ()

    def format(self, *args: object, **values: object) -> str:
        """Like `str.format`, without spaces between two Chinese characters at the edges of a value."""
        fitted = _BEFORE_FIELD.sub(
            lambda space: "" if _BEGINS_WITH_HAN.match(str(values.get(space[1], ""))) else " ", str(self)
        )
        fitted = _AFTER_FIELD.sub(
            lambda field: field[0][:-1] if _ENDS_WITH_HAN.search(str(values.get(field[1], ""))) else field[0], fitted
        )
        return str.format(fitted, *args, **values)


class Translator:
    """Sentences in one language. Call it with a message, or use gettext's own method names."""

    def __init__(self, language: str, catalogue: gettext.NullTranslations) -> None:
        self.language = language
        self._catalogue = catalogue

    def __call__(self, message: str) -> str:
        return self.gettext(message)

    def gettext(self, message: str) -> str:
        """`message` in this language; unchanged if it is empty or has no translation."""
        translated = self._catalogue.gettext(message) if message else ""
        return ChineseTemplate(translated) if self.language == CHINESE and "{" in translated else translated

    def ngettext(self, singular: str, plural: str, n: int) -> str:
        """The singular or plural phrase for `n`, with its `{n}` not yet filled in."""
        return self._catalogue.ngettext(singular, plural, n)

    def translated(self, text: str) -> str:
        """A message from core in this language. Only templates are translated; values and plain text stay unchanged."""
        if not isinstance(text, Message):
            return text
        params = {
            name: self.translated(value) if isinstance(value, str) else value for name, value in text.params.items()
        }
        return self.gettext(text.template).format(**params)


@cache
def translator(language: str) -> Translator:
    """The translator for a language code; English for an unsupported one."""
    known = language if language in LANGUAGES else ENGLISH
    return Translator(known, _catalogue(known))


@cache
def messages(language: str) -> tuple[str, ...]:
    """Ids of all messages with a translation in `language`; for plurals, the singular."""
    path = catalogue_path(language)
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        catalogue = read_po(file, locale=language, domain=DOMAIN)
    ids = ((message.id, message.string) for message in catalogue if message.id and not message.fuzzy)
    return tuple(key if isinstance(key, str) else key[0] for key, string in ids if _is_translated(string))


def catalogue_path(language: str) -> Path:
    """Path of the `.po` file of a language."""
    return LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def _catalogue(language: str) -> gettext.NullTranslations:
    path = catalogue_path(language)
    if not path.is_file():
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language, domain=DOMAIN))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def _is_translated(string: str | list[str] | tuple[str, ...] | None) -> bool:
    return bool(string) if string is None or isinstance(string, str) else all(string)
