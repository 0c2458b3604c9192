"""What core tells people: an English sentence that keeps its template and parameters.

A page translates the template (a gettext message id) and fills in the parameters, so a value is never taken for words
of the catalogue. Everything else (logs, CSV files, the SDK's answers, comparisons) treats a message as its English
text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from typing import Any, NoReturn

_STRUCTURE = "\x1e"  # a record separator begins JSON in a text, as in RFC 7464
_KEY = "fabula"  # in JSON of OpenAI's shape, what OpenAI does not have is under this name
_DEEPEST = 30  # messages inside messages; ten sentences one after the other are nine deep
_LONGEST = 1_000_000  # characters of a message that is read


class Message(str):
    """An English sentence with its template and parameters; immutable.

    `msg` makes one.

    Attributes:
        template: the gettext message id, with named fields as in `str.format`.
        params: the value of each field: a text, a number, or another message, which is translated too.

    Raises:
        KeyError, ValueError, IndexError: the template has a field without a parameter, or is malformed.
    """

    __slots__ = ("params", "template")
    template: str
    params: Mapping[str, str | int | float]

    def __new__(cls, template: str, params: Mapping[str, object]) -> Message:
        values = {name: _plain(value) for name, value in params.items()}
        self = super().__new__(cls, template.format(**values))
        object.__setattr__(self, "template", str.__str__(template))
        object.__setattr__(self, "params", MappingProxyType(values))
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)

    def __str__(self) -> str:
        """The message itself: `str(error)` keeps the template and the parameters."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Message, (self.template, dict(self.params))


def msg(template: str, /, **params: object) -> Message:
    """A message: `msg("There is no run {run_id}.", run_id=7)` is the text "There is no run 7.".

    Calls with a literal template are collected into the catalogues (`core.locale`).

    Raises:
        KeyError, ValueError, IndexError: as `Message`.
    """
    return Message(template, params)


def mark(template: str) -> str:
    """Say that `template` is collected into the catalogues: it becomes a `Message` elsewhere, where its values are."""
    return template


def sentences(*parts: str) -> str:
    """Sentences one after the other, for example what happened and the next step; empty ones are left out.

    The result is a message where one of the parts is.
    """
    texts = [part for part in parts if part]
    if not any(isinstance(part, Message) for part in texts):
        return " ".join(texts)
    joined = texts[-1]
    for part in reversed(texts[:-1]):
        joined = msg("{first} {then}", first=part, then=joined)
    return joined


def to_json(text: str) -> Any:
    """A message as JSON: `{"template": …, "params": {…}}`; any other text as it is."""
    if not isinstance(text, Message):
        return text
    return {"template": text.template, "params": {name: _value_to_json(value) for name, value in text.params.items()}}


def from_json(value: object, depth: int = 0) -> str | None:
    """A message or text that `to_json` has written; None for anything else.

    It may come from a server, so templates have plain fields only, and neither depth nor length grows out of bounds.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return None
    template, params = value.get("template"), value.get("params")
    if not isinstance(template, str) or not isinstance(params, Mapping):
        return None
    values = {str(k): v if isinstance(v, int | float) else from_json(v, depth + 1) for k, v in params.items()}
    if None in values.values():
        return None
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
        simple = all(
            name in values and str(name).isidentifier() and not spec and not conversion
            for _, name, spec, conversion in fields
        )
        length = len(template) + sum(len(str(values[name])) for _, name, _, _ in fields if name in values)
        return Message(template, values) if simple and length <= _LONGEST else None
    except ValueError:
        return None


def structure(text: str) -> dict[str, Any]:
    """What stands next to the English text of a message in JSON of OpenAI's shape; {} for text that is no message."""
    return {_KEY: to_json(text)} if isinstance(text, Message) else {}


def restored(text: str, holder: object) -> str:
    """The message that `text` is according to the `structure` in `holder`; `text` itself where there is none."""
    read = from_json(holder.get(_KEY)) if isinstance(holder, Mapping) else None
    return read if read is not None and read == text else text


def dumps(text: str) -> str:
    """A text that `loads` reads back as the message it was; text that is no message stays as it is."""
    if isinstance(text, Message) or text.startswith(_STRUCTURE):
        return _STRUCTURE + json.dumps(to_json(text), ensure_ascii=False)
    return text


def loads(text: str) -> str:
    """What `dumps` was given. Text written by other means, by earlier versions for example, stays as it is."""
    if not text.startswith(_STRUCTURE):
        return text
    try:
        read = from_json(json.loads(text[1:]))
    except ValueError:
        return text
    return text if read is None else read


def _plain(value: object) -> str | int | float:
    """A parameter as it is kept: numbers and messages as they are, anything else as its text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _value_to_json(value: str | int | float) -> Any:
    return to_json(value) if isinstance(value, str) else value
