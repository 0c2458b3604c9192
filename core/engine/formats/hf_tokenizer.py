"""Writes a Hugging Face tokenizer (`tokenizer.json`) into a GGUF file.

llama.cpp has three kinds of byte-pair tokenizers: "gpt2" works on bytes and splits the text with a regular expression
first; "llama" and "gemma4" work on characters and fall back to bytes, and "llama" has scores instead of merges.
llama.cpp identifies its regular expressions by name, so the tokenizer's must be one of them; `core.engine.bases.check`
compares the ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ANY = r"[^\r\n\p{L}\p{N}]?"
_OUTSIDE_MARKS = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = rf"{_ANY}{_UPPER}*{_LOWER}+", rf"{_ANY}{_UPPER}+{_LOWER}*"
_POSSESSIVE = r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_PATTERNS = {
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}": "qwen2",
    rf"{_CONTRACTIONS}|{_ANY}[\p{{L}}\p{{M}}]+|\p{{N}}|{_OUTSIDE_MARKS}": "qwen35",
    rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_SLASH}": "gpt-4o",
    rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_REST_SLASH}": "tekken",
    rf"'(?i:[sdmt]|ll|ve|re)|{_ANY}+\p{{L}}+|\p{{N}}{{1,3}}|{_POSSESSIVE}": "dbrx",
}
"""Regular expression of a `Split` in tokenizer.json → llama.cpp's name for it (`src/llama-vocab.cpp`)."""

_CHARACTER_MERGES = "gemma4"  # the architecture, and llama.cpp's tokenizer for it
_SPACE = "\u2581"  # SentencePiece's marker for a space


def write(writer: GGUFWriter, folder: Path, rows: int, architecture: str) -> None:
    """Write `folder`'s tokenizer.

    Args:
        rows: number of rows of the embedding; ids beyond the vocabulary become unused tokens.
        architecture: llama.cpp's name for the architecture.

    Raises:
        UnusableModel: llama.cpp has no such tokenizer.
    """
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = raw.get("model", {})
    if model.get("type") != "BPE":
        raise _unsupported(msg("its type is {type}", type=repr(model.get("type"))))
    by_characters = bool(model.get("byte_fallback"))
    texts, types = _vocabulary(raw, rows, by_characters)
    by_scores = by_characters and architecture != _CHARACTER_MERGES
    if by_scores:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(model, texts, types))
        writer.add_add_space_prefix(_adds_space(raw))
    elif by_characters:
        writer.add_tokenizer_model(_CHARACTER_MERGES)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pattern_name(raw.get("pre_tokenizer") or {}))
    writer.add_token_list(texts)
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=not by_scores, n_vocab=rows)
    special.add_to_gguf(writer, quiet=True)


def _vocabulary(raw: Mapping[str, Any], rows: int, by_characters: bool) -> tuple[list[str], list[TokenType]]:
    """Text and type of every token, in the order of their ids."""
    texts = [f"[PAD{number}]" for number in range(rows)]
    types = [TokenType.UNUSED] * rows
    for text, number in raw["model"]["vocab"].items():
        if number < rows:
            is_byte = by_characters and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            texts[number], types[number] = text, TokenType.BYTE if is_byte else TokenType.NORMAL
    unknown = raw["model"].get("unk_token")
    for added in raw.get("added_tokens") or ():
        number, text = int(added["id"]), str(added["content"])
        if number >= rows:
            continue
        if by_characters and text == unknown:
            texts[number], types[number] = text, TokenType.UNKNOWN
        elif added.get("special"):
            texts[number], types[number] = text, TokenType.CONTROL
        else:  # llama.cpp looks for these literally in the text
            texts[number], types[number] = text.replace(_SPACE, " "), TokenType.USER_DEFINED
    return texts, types


def _scores(model: Mapping[str, Any], texts: list[str], types: list[TokenType]) -> list[float]:
    """A token's score is minus the rank of its first merge; llama.cpp merges the pair with the highest score."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model.get("merges") or ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    last = len(ranks) + 1
    return [
        -float(ranks.get(text, last)) if kind == TokenType.NORMAL else -1000.0 * (kind != TokenType.BYTE)
        for text, kind in zip(texts, types, strict=True)
    ]


def _adds_space(raw: Mapping[str, Any]) -> bool:
    """Whether a space is added before a text."""
    normalizer = raw.get("normalizer") or {}
    parts = [normalizer, *normalizer.get("normalizers", ())]
    if any(part.get("type") == "Prepend" for part in parts):
        return True
    pre = raw.get("pre_tokenizer") or {}
    pres = [pre, *pre.get("pretokenizers", ())]
    return any(part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never" for part in pres)


def _pattern_name(pre_tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for a byte-level tokenizer's regular expression."""
    parts = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    patterns = [str((part.get("pattern") or {}).get("Regex", "")) for part in parts if part.get("type") == "Split"]
    digits = [part for part in parts if part.get("type") == "Digits" and part.get("individual_digits")]
    byte_level = next((part for part in parts if part.get("type") == "ByteLevel"), None)
    if byte_level is None:
        raise _unsupported(msg("it neither works on bytes nor falls back to them"))
    if not patterns and byte_level.get("use_regex", True):
        return "smollm" if digits else "gpt-2"
    if len(patterns) == 1 and not digits and patterns[0] in _PATTERNS:
        return _PATTERNS[patterns[0]]
    raise _unsupported(msg("its regular expression is {pattern}", pattern=repr(", ".join(patterns)[:80])))


def _unsupported(detail: str) -> UnusableModel:
    return UnusableModel(
        "tokenizer_type",
        msg("The tokenizer cannot be used here: {detail}.", detail=detail),
        msg("Use a GGUF file of this model: it can be served, and its family decides whether it can be trained."),
    )
