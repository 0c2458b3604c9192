"""Extracts from an endpoint's error which request parameters it rejects. Pure.

Each family of servers has its own wording; these are quoted from public bug reports:

- OpenAI, Azure: `"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'
  instead."`, `"Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is
  supported."` with `param` and `code`; older versions: `"Unrecognized request argument supplied: stream_options"`
  without them.
- Mistral, vLLM and others built with pydantic: `{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra
  inputs are not permitted"}`, also as JSON in a string; Fireworks: `"Extra inputs are not permitted, field: 'seed'"`.
- Anthropic and its gateways: `"temperature is deprecated for this model."`, `"temperature and top_p cannot both be
  specified for this model. Please use only one."`
- Moonshot: `"invalid temperature: only 1 is allowed for this model"`. xAI: `"Model grok-4.6 does not support parameter
  stop."`, `"Argument not supported on this model: stop"`. Gemini: `Unknown name "seed": Cannot find field.` LiteLLM:
  `"openai does not support parameters: ['temperature'], for model=gpt-5"`. Groq: `"property 'seed' is unsupported"`.

An error about a *value* (out of range, too large) does not reject the parameter itself; it is shown to the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

ADJUSTABLE = ("max_completion_tokens", "max_tokens", "stream_options", "temperature", "top_p", "seed", "stop", "n")
"""Parameters that may be omitted. The token limit is only ever renamed, never omitted, because it limits the cost."""

_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter", "unrecognized_parameter"})
_CAPS = frozenset({"max_tokens", "max_completion_tokens"})
_MAX_CHARS = 20_000  # how much of one text is examined
_MAX_DEPTH = 6  # levels of nested errors; a gateway behind a gateway has three

_REJECTION = re.compile(
    r"unsupported|(?:not|n't|no longer) (?:an? |yet |currently )?support|unrecogni[sz]ed|cannot find field"
    r"|extra_forbidden|mutually exclusive|only (?:the )?default"
    r"|(?:unknown|unexpected|extra) (?:\w+ )?(?:parameter|argument|keyword|field|propert|name|input|key|option)"
    r"|not (?:permitted|allowed|accepted|recogni[sz]ed|available)|deprecated|(?:may|can) only be set"
    r"|(?:not|n't) recogni[sz]e|not an? valid (?:\w+ )?(?:parameter|argument|field|property|option)"
    r"|was unexpected|invalid (?:for|with) this model"
    r"|only \S+ (?:is|are) allowed|不支持|不被支持|未知参数|已弃用",
    re.I,
)
_ABOUT_A_VALUE = re.compile(
    r"between|range|at (?:most|least)|(?:greater|less|more|fewer|larger|smaller) than|exceed"
    r"|too (?:large|high|long|many)|maximum|minimum|范围|超过|大于|小于",
    re.I,
)
_SUPPORTED_LIST = re.compile(
    r"(?:\bexpected|did you mean"
    r"|\b(?<!not )(?<!not a )(?:supported|allowed|valid|available) (?:parameter|argument|field|key)s?\b).*",
    re.I | re.S,
)
_EITHER_OR = re.compile(
    r"temperature\W+(?:and|or)\W+top_p\W+(?:\w+ )?(?:cannot|can not|can't|may not|are mutually)"
    r"|top_p\W+(?:\w+ )?(?:cannot|can not|can't|may not) be .{0,20}(?:with|and) \W?temperature",
    re.I,
)
_FIELD = re.compile(r"\n[ \t]+")  # pydantic 1 puts the field's error on an indented line below the field
_INSTEAD = re.compile(r"\buse ['\"`]?(max_tokens|max_completion_tokens)\b['\"`]?", re.I)
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+|[。；\n]|\}\s*,\s*\{")
# `stop` and `n` are also ordinary words, so they count only in quotes or after a word for "parameter"
_NAME = re.compile(
    r"(?<![A-Za-z0-9_.\-])(?:body\.)?(max_completion_tokens|max_tokens|stream_options|temperature|top_p|seed)(?![A-Za-z0-9_\-])"
    r"|['\"`](stop|n)['\"`]"
    r"|(?:parameters?|arguments?|fields?|supplied|model|supported)[:\s]+(stop|n)(?![\w\-])"
)


def refused_parameters(error: object) -> frozenset[str]:
    """Names of the parameters that are rejected according to an error (JSON or text); empty if there are none."""
    if isinstance(error, Mapping) and str(error.get("code") or "").lower() in _CODES:
        named = str(error.get("param") or "").split(".")[0]
        if named in ADJUSTABLE:
            return frozenset({named})
    return frozenset(name for text in _texts(error) for name in _refused_in(text))


def _texts(error: object, depth: int = 0) -> Iterator[str]:
    """Yield every string in an error, including JSON inside strings; for pydantic errors, field and message."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(error, Mapping):
        location = error.get("loc")
        if isinstance(location, Sequence) and not isinstance(location, str) and len(location) > 1:
            yield f"'{location[1]}': {error.get('type')}, {error.get('msg')}"
            return
        for value in error.values():
            yield from _texts(value, depth + 1)
    elif isinstance(error, list | tuple):
        for value in error:
            yield from _texts(value, depth + 1)
    elif isinstance(error, str):
        inner = _json(error)
        if inner is None:
            yield _FIELD.sub(" ", error[:_MAX_CHARS].replace("\\n", "\n").replace("\\", ""))
        else:
            yield from _texts(inner, depth + 1)


def _json(text: str) -> object:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _refused_in(text: str) -> Iterator[str]:
    instead = {name.lower() for name in _INSTEAD.findall(text)}
    if len(instead) == 1:
        yield from _CAPS - instead
    for sentence in _SENTENCE_END.split(_INSTEAD.sub("", text)):
        if _EITHER_OR.search(sentence):
            yield "top_p"  # only one of the two is allowed; keep the temperature
        elif _REJECTION.search(sentence) and not _ABOUT_A_VALUE.search(sentence):
            for groups in _NAME.findall(_SUPPORTED_LIST.sub("", sentence)):
                yield "".join(groups)
