"""Writes grammars in llama.cpp's format (GBNF): named rules, literals, repetitions, and the rules of JSON itself.

Pure; does not know JSON Schema (`schema.py`) or regular expressions (`regex.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby

from core.message import msg

_MAX_CHARS = 1 << 20  # of a whole grammar; llama.cpp reads it again for each request
_MAX_REPEATS = 100_000
_MAX_ELEMENTS = 100_000  # of all repetitions together, written out
_MAX_BRANCHINGS = 50  # of rules within rules
_BLOCK = 500  # llama.cpp writes a repetition out element by element, so long ones are built from blocks
_JSON_RULES = {
    # no more white space: a model that does not know how to go on would write it up to its limit
    "ws": '"" | " " | "\\n" " "{0,20}',
    "hex": "[0-9a-fA-F]",
    # without lone surrogates, which are not text; all of JSON's own escapes
    "plain": "[\\x20-\\x21\\x23-\\x5B\\x5D-\\x7E\\u0080-\\uD7FF\\uE000-\\U0010FFFF]",
    "escaped": '"\\\\" (["\\\\bfnrt] | "u" ([0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2}))',
    "char": "plain | escaped",
    "string": '"\\"" char* "\\""',
    "whole": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": 'whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "string | number | boolean | null | array | object",
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "object": '"{" ws (member (ws "," ws member)*)? ws "}"',
    "member": 'string ":" ws value',
}


class GrammarTooLarge(ValueError):
    """A grammar would be longer than llama.cpp should read; the message is a sentence for the user."""

    def __init__(self) -> None:
        super().__init__(msg("The schema is too large to be turned into a grammar."))


class GrammarBuilder:
    """Collects rules. Equal rules are written once."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._chars = self._elements = 0

    def rule(self, body: str) -> str:
        """Return the name of a rule with this body.

        Raises:
            GrammarTooLarge: the grammar is too long.
        """
        if body not in self._names:
            name = self.reserve()
            self._names[body] = name
            self.define(name, body)
        return self._names[body]

    def reserve(self) -> str:
        """Return a new name for a rule that is defined later, because it refers to itself."""
        name = f"r{len(self._rules)}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Define a reserved rule. Raises the same error as `rule`."""
        self._rules[name] = body
        self._chars += len(name) + len(body) + 6
        if self._chars > _MAX_CHARS:
            raise GrammarTooLarge

    def any_of(self, bodies: Iterable[str]) -> str:
        """The name of a rule that accepts any of these bodies."""
        return self.rule(" | ".join(dict.fromkeys(bodies)))

    def repeat(self, item: str, least: int, most: int | None) -> str:
        """An expression for `least` to `most` times the rule `item`; None means without limit.

        Raises:
            GrammarTooLarge: more repetitions than a grammar can express.
        """
        self._elements += min(least, _BLOCK) + min((most or 0) - least, _BLOCK) if most else min(least, _BLOCK)
        if max(least, most or 0) > _MAX_REPEATS or self._elements > _MAX_ELEMENTS:
            raise GrammarTooLarge
        parts = []
        if least >= _BLOCK:
            parts.append(f"{self._block(item)}{{{least // _BLOCK}}}")
        if least % _BLOCK:
            parts.append(f"{item}{{{least % _BLOCK}}}")
        if most is None:
            parts.append(f"{item}*")
        elif most > least:
            parts.append(self._up_to(item, most - least))
        return " ".join(parts) or '""'

    def text(self, root: str) -> str:
        """The whole grammar; `root` is the body of its first rule."""
        rules = {"root": root, **self._rules, **_JSON_RULES}
        return "\n".join(f"{name} ::= {body}" for name, body in rules.items())

    def _block(self, item: str) -> str:
        return self.rule(f"{item}{{{_BLOCK}}}")

    def _up_to(self, item: str, most: int) -> str:
        """At most `most` items: whole blocks, then a part of one."""
        if most < _BLOCK:
            return f"{item}{{0,{most}}}"
        name, block = self.rule(self.repeat(item, 0, most % _BLOCK)), self._block(item)
        part = self.rule(f"{item}{{0,{_BLOCK - 1}}}")
        for _ in range(most // _BLOCK):
            name = self.rule(f"{block} {name} | {part}")
        return name

    def any_literal(self, texts: Iterable[str]) -> str:
        """The name of a rule that matches any of these texts. What several begin with is written once: llama.cpp
        follows all alternatives at the same time, for every token of its vocabulary.
        """
        return self._continuations(sorted(set(texts)), 0, 0)

    def _continuations(self, texts: Sequence[str], start: int, depth: int) -> str:
        """A rule for the rest of each of these sorted texts, which are equal up to `start`."""
        if depth == _MAX_BRANCHINGS:
            return self.rule(" | ".join(literal(text[start:]) for text in texts))
        bodies = []
        for _, group in groupby(texts, lambda text: text[start : start + 1]):
            alike = list(group)
            end = _shared_length(alike[0], alike[-1])
            rest = "" if len(alike) == 1 else self._continuations(alike, end, depth + 1)
            bodies.append(f"{literal(alike[0][start:end])} {rest}".strip())
        return self.rule(" | ".join(bodies))


def literal(text: str) -> str:
    """A GBNF literal that matches exactly this text."""
    escaped = "".join(_escaped(character) for character in text)
    return f'"{escaped}"'


def json_literal(value: object) -> str:
    """A GBNF literal that matches the JSON form of a value."""
    return literal(json_text(value))


def json_text(value: object) -> str:
    """The JSON form of a value, written without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shared_length(one: str, other: str) -> int:
    """The number of characters that both texts begin with."""
    differing = (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differing, min(len(one), len(other)))


def code_point(value: int) -> str:
    """A code point as GBNF writes it in literals and classes."""
    return f"\\U{value:08X}"


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else code_point(ord(character))
