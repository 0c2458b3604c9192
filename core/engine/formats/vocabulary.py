"""A GGUF model's vocabulary: the bytes of every token, as llama.cpp writes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.engine.formats.gguf_file import BYTE, NORMAL, USER_DEFINED, QuickReader, scalar, token_texts, token_types

_HEX = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # SentencePiece's


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        raw: the bytes of each token, by id.
        silent: ids of tokens that write nothing, such as control tokens; their bytes are the text of their name.
    """

    raw: Sequence[bytes]
    silent: frozenset[int]

    def bytes_of(self, token: int, shown: Container[int] = ()) -> bytes:
        """What a token writes: nothing if it is silent and not in `shown`, or only pads an embedding."""
        if token >= len(self.raw) or (token in self.silent and token not in shown):
            return b""
        return self.raw[token]

    def named(self, names: Collection[str]) -> frozenset[int]:
        """The silent tokens with these names."""
        wanted = {name.encode() for name in names}
        return frozenset(token for token in self.silent if self.raw[token] in wanted) if wanted else frozenset()


def read(path: Path) -> Vocabulary:
    """Read a model file's vocabulary, which takes about half a second for 260,000 tokens.

    Raises:
        ValueError: the file is damaged.
    """
    reader = QuickReader(path)
    types = token_types(reader)
    by_bytes = scalar(reader, "tokenizer.ggml.model") == "gpt2"
    raw: list[bytes] = []
    silent: set[int] = set()
    for number, text in enumerate(token_texts(reader)):
        kind = NORMAL if types is None else int(types[number])
        raw.append(_written(bytes(text), kind, by_bytes))
        if kind not in (NORMAL, USER_DEFINED, BYTE):
            silent.add(number)
    return Vocabulary(raw, frozenset(silent))


def _written(text: bytes, kind: int, by_bytes: bool) -> bytes:
    if kind == NORMAL and by_bytes:
        return b"".join(_BYTES.get(letter) or letter.encode() for letter in text.decode("utf-8", "replace"))
    if kind == NORMAL:
        return text.replace(_SPACE.encode(), b" ")
    if kind == BYTE and (found := _HEX.fullmatch(text.decode("utf-8", "replace"))):
        return bytes([int(found[1], 16)])
    return text


def _letters() -> dict[str, bytes]:
    """The letter that stands for each byte in a byte-level vocabulary, as in GPT-2's `bytes_to_unicode`."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    pairs = [(chr(byte), byte) for byte in shown] + [(chr(256 + n), byte) for n, byte in enumerate(others)]
    return {letter: bytes([byte]) for letter, byte in pairs}


_BYTES = _letters()
