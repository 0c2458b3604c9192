"""Training examples as token ids with a loss mask. The tokenizer is llama.cpp's, which is also used for serving."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SegmentedExample:
    """One line of a training file.

    Attributes:
        segments: (text, trained) pairs in order; the loss includes only the tokens of trained segments. Text may
            contain special tokens such as `<start_of_turn>`.
        eos: whether to append the end-of-sequence token and train on it.
    """

    segments: tuple[tuple[str, bool], ...]
    eos: bool = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example, and a loss mask of the same length."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


_BEFORE = "\n"  # never part of a longer token in tokenizers that add a space before a text


def encode(
    example: SegmentedExample,
    tokenize: Callable[[str], list[int]],
    bos: int | None,
    eos: int,
    adds_space: bool = False,
) -> Encoded:
    """Tokenise one example segment by segment, so that no token spans the end of the prompt.

    Args:
        adds_space: whether `tokenize` adds a space before every text. Only the first segment gets one, as in a request.
    """
    tokens: list[int] = [] if bos is None else [bos]
    trained = [False] * len(tokens)
    for number, (text, is_trained) in enumerate(example.segments):
        ids = _continued(text, tokenize) if adds_space and number else tokenize(text)
        tokens += ids
        trained += [is_trained] * len(ids)
    if example.eos:
        tokens.append(eos)
        trained.append(True)
    return Encoded(tuple(tokens), tuple(trained))


def _continued(text: str, tokenize: Callable[[str], list[int]]) -> list[int]:
    """Token ids of a text in the middle of another one, without the space added at the start of a text."""
    before, both = tokenize(_BEFORE), tokenize(_BEFORE + text)
    return both[len(before) :] if both[: len(before)] == before else tokenize(text)


class EncodedExamples(Sequence[Encoded]):
    """Examples stored compactly, with five bytes per token; converted to `Encoded` on access."""

    def __init__(self, lengths: NDArray[np.int64], tokens: NDArray[np.int32], trained: NDArray[np.bool_]) -> None:
        self._ends, self._tokens, self._trained = np.cumsum(lengths), tokens, trained

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start, end = int(self._ends[position - 1]) if position else 0, int(self._ends[position])
        return Encoded(tuple(self._tokens[start:end].tolist()), tuple(self._trained[start:end].tolist()))

    def __iter__(self) -> Iterator[Encoded]:
        return (self[index] for index in range(len(self)))

    @property
    def n_tokens(self) -> int:
        """Total number of tokens in all examples."""
        return len(self._tokens)


def save(path: Path, examples: Iterable[Encoded]) -> int:
    """Write examples atomically to one .npz file (without pickle); return the number of tokens."""
    lengths, tokens, trained = array("q"), array("i"), bytearray()
    for example in examples:
        lengths.append(len(example.tokens))
        tokens.extend(example.tokens)
        trained.extend(example.trained)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        np.savez(
            file,
            lengths=np.frombuffer(lengths, dtype=np.int64),
            tokens=np.frombuffer(tokens, dtype=np.int32),
            trained=np.frombuffer(trained, dtype=np.bool_),
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return len(tokens)


def load(path: Path) -> EncodedExamples:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return EncodedExamples(file["lengths"], file["tokens"], file["trained"])
