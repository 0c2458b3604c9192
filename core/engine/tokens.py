"""Training examples as token ids, with a mask of what is learned. The tokenizer is llama.cpp's: the one that serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a training file.

    Attributes:
        segments: (text, trained) pairs in order; the loss counts the tokens of trained segments only. Text may hold
            special tokens such as `<start_of_turn>`.
        eos: whether the end-of-sequence token follows (and is learned).
    """

    segments: tuple[tuple[str, bool], ...]
    eos: bool = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example and, of the same length, whether each is learned."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


def encode(example: Example, tokenize: Callable[[str], list[int]], bos: int | None, eos: int) -> Encoded:
    """Tokenise one example, segment by segment, so that the border of the prompt is a token border."""
    tokens: list[int] = [] if bos is None else [bos]
    trained = [False] * len(tokens)
    for text, learned in example.segments:
        ids = tokenize(text)
        tokens += ids
        trained += [learned] * len(ids)
    if example.eos:
        tokens.append(eos)
        trained.append(True)
    return Encoded(tuple(tokens), tuple(trained))


def save(path: Path, examples: Sequence[Encoded]) -> None:
    """Write examples as one .npz (no pickle), beside and renamed."""
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    tokens = np.array([token for example in examples for token in example.tokens], dtype=np.int32)
    trained = np.array([flag for example in examples for flag in example.trained], dtype=np.bool_)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, lengths=lengths, tokens=tokens, trained=trained)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def load(path: Path) -> list[Encoded]:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        lengths, tokens, trained = file["lengths"], file["tokens"].tolist(), file["trained"].tolist()
    examples, at = [], 0
    for length in lengths.tolist():
        examples.append(Encoded(tuple(tokens[at : at + length]), tuple(trained[at : at + length])))
        at += length
    return examples
