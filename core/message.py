"""User-facing messages of core: an English sentence that keeps its template and parameters.

A page translates the template (a gettext message id) and then fills in the parameters, so values are never translated
by accident. Everything else (logs, CSV files, comparisons) treats a message as its English text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Formatter
from types import MappingProxyType
from typing import Any, NoReturn

_STRUCTURE = "\x1e"  # record separator (as in RFC 7464): marks a stored text that is a message as JSON
_KEY = "fabula"  # key of Fabula's extensions in OpenAI-shaped JSON
_MAX_DEPTH = 30  # nesting of messages; ten joined sentences are nested nine levels deep
_MAX_CHARS = 1_000_000  # limit for parsing a stored message
_ENDED = re.compile(r"[.!?…:;。！？：；][\s\"'”’»」』）)\]*_`]*$")  # a colon counts: the next sentence completes it


class Message(str):
    """An English sentence with its template and parameters; immutable.

    Create one with `msg`; add `with_cause` if it explains a failure.

    Attributes:
        template: the gettext message id, with named fields as in `str.format`.
        params: the value of each field: a string, a number, or a nested message, which is translated too.
        cause: code of the cause of a failure (`core.failures.Cause`); if None, see `cause_of`.

    Raises:
        KeyError, ValueError, IndexError: the template has a field without a parameter, or is malformed.
    """

    __slots__ = ("cause", "params", "template")
    template: str
    params: Mapping[str, str | int | float]
    cause: str | None

    def __new__(cls, template: str, params: Mapping[str, object], cause: str | None = None) -> Message:
        values = {name: _param(value) for name, value in params.items()}
        self = super().__new__(cls, template.format(**values))
        object.__setattr__(self, "template", str.__str__(template))
        object.__setattr__(self, "params", MappingProxyType(values))
        object.__setattr__(self, "cause", cause)
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)

    def __str__(self) -> str:
        """The message itself, so that `str(error)` keeps template and parameters."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Message, (self.template, dict(self.params), self.cause)


def msg(template: str, /, **params: object) -> Message:
    """Create a message: `msg("There is no run {run_id}.", run_id=7)` reads "There is no run 7.".

    Calls with a literal template are collected into the catalogues (`core.locale`).

    Raises:
        KeyError, ValueError, IndexError: see `Message`.
    """
    return Message(template, params)


def percent(share: float, digits: int = 1) -> str:
    """A share (0 to 1) as percent: "61.0 %", "100 %". 0 and 100 never have decimals.

    Used for parameters of messages and by the pages, so that a share looks the same everywhere.
    """
    text = f"{share * 100:.{digits}f}"
    return f"{int(float(text)) if float(text) in (0, 100) else text} %"


def listed(items: Sequence[str]) -> str:
    """Items in one line, "a, b, c"; a page uses the separator of its language. "" if there are none.

    The message is nested in halves, so that long lists stay below the depth limit.
    """
    if len(items) < 2:
        return "".join(items)
    middle = len(items) // 2
    return msg("{first}, {then}", first=listed(items[:middle]), then=listed(items[middle:]))


def mark(template: str) -> str:
    """Mark a template for translation; the `Message` is created elsewhere, once its values are known."""
    return template


def with_cause(text: str, cause: str) -> Message:
    """The message with the code of its cause, which is stored with it; plain text becomes a message."""
    if isinstance(text, Message):
        return Message(text.template, text.params, cause)
    return Message("{text}", {"text": text}, cause)


def cause_of(text: str) -> str | None:
    """The cause of a failure that is stated by the message, or by the first message in its parameters; None if not
    stated.
    """
    if not isinstance(text, Message):
        return None
    inner = (cause_of(value) for value in text.params.values() if isinstance(value, str))
    return text.cause or next((cause for cause in inner if cause is not None), None)


def sentences(*parts: str) -> str:
    """Join sentences, for example what happened and the next step; empty ones are skipped.

    A full stop is added to a sentence without one, such as many providers' messages. The result is a `Message` if any
    part is.
    """
    texts = [part for part in parts if part]
    if not texts:
        return ""
    joined = texts[-1]
    for part in reversed(texts[:-1]):
        if is_complete(part):
            joined = msg("{first} {then}", first=part, then=joined)
        else:
            joined = msg("{first}. {then}", first=part, then=joined)
    return joined if any(isinstance(part, Message) for part in texts) else str.__str__(joined)


def lines(*parts: str) -> str:
    """Join messages, one per line; empty ones are skipped. Pages translate the result before they split it."""
    texts = [part for part in parts if part]
    joined = texts[-1] if texts else ""
    for part in reversed(texts[:-1]):
        joined = Message("{first}\n{then}", {"first": part, "then": joined})
    return joined


def is_complete(sentence: str) -> bool:
    """Whether a sentence ends with a full stop or the like, also inside quotes, brackets or Markdown."""
    return _ENDED.search(sentence) is not None


def to_json(text: str) -> Any:
    """A message as `{"template": …, "params": {…}}`, with its `cause` if it has one; other text unchanged."""
    if not isinstance(text, Message):
        return text
    cause = {} if text.cause is None else {"cause": text.cause}
    params = {name: _value_to_json(value) for name, value in text.params.items()}
    return {"template": text.template, "params": params, **cause}


def from_json(value: object, depth: int = 0) -> str | None:
    """Read what `to_json` wrote; None for anything else.

    The input may come from a server, so only plain fields are accepted, and depth and length are limited.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return None
    template, params, cause = value.get("template"), value.get("params"), value.get("cause")
    if not isinstance(template, str) or not isinstance(params, Mapping) or not isinstance(cause, str | None):
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
        return Message(template, values, cause) if simple and length <= _MAX_CHARS else None
    except ValueError:
        return None


def extra_fields(text: str) -> dict[str, Any]:
    """Extra fields that carry a message in OpenAI-shaped JSON, next to its English text; {} for plain text."""
    return {_KEY: to_json(text)} if isinstance(text, Message) else {}


def restored(text: str, body: object) -> str:
    """The message for `text` from the `extra_fields` in `body`; `text` itself if they are missing or differ."""
    read = from_json(body.get(_KEY)) if isinstance(body, Mapping) else None
    return read if read is not None and read == text else text


def dumps(text: str) -> str:
    """Serialise a message for `loads`; plain text is returned unchanged."""
    if isinstance(text, Message) or text.startswith(_STRUCTURE):
        return _STRUCTURE + json.dumps(to_json(text), ensure_ascii=False)
    return text


def loads(text: str) -> str:
    """Read back what `dumps` wrote. Other text, for example from earlier versions, is returned unchanged."""
    if not text.startswith(_STRUCTURE):
        return text
    try:
        read = from_json(json.loads(text[1:]))
    except ValueError:
        return text
    return text if read is None else read


def _param(value: object) -> str | int | float:
    """A parameter as stored: numbers and messages unchanged, anything else as text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _value_to_json(value: str | int | float) -> Any:
    return to_json(value) if isinstance(value, str) else value
