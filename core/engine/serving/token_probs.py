"""Log-probabilities of tokens, as llama.cpp computes them before temperature, penalties and grammars apply."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from core.engine.serving import llama_http
from core.engine.serving.llama import Backend

_RUN = 256  # prompt tokens whose probabilities are computed by one request to llama.cpp
MARKUP = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")
"""What control tokens look like."""
_CERTAIN = 1e6  # a bias that makes a token certain
_LIKELY = 1000  # tokens among which one is looked for first: the whole vocabulary's list has 260,000 in Gemma
_BIAS = 300.0  # more than logits differ by, and little enough for float32 to add a logit to
_LEAST = -100.0  # of a token whose probability is too small for a float32
_LIST = '"top_logprobs":['
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class TokenProb:
    """A token and its log-probability; None for the first token of a prompt, which depends on nothing.

    Attributes:
        raw: its bytes. A character that the model writes as several tokens is one here, with the last one's
            log-probability.
        top: the most likely tokens at its place, or at least one if log-probabilities are wanted at all.
    """

    text: str
    raw: bytes
    logprob: float | None
    top: tuple[TokenProb, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A token of a prompt. One that is part of a character, or that controls the model, cannot be in a grammar."""

    token: int
    raw: bytes
    ordinary: bool


def of_event(event: Mapping[str, Any]) -> tuple[TokenProb, ...]:
    """The tokens of one of llama.cpp's events, without the one that ends a text."""
    found = (_token(entry) for entry in event.get("completion_probabilities") or ())
    return tuple(token for token in found if token.raw)


def _token(entry: Mapping[str, Any]) -> TokenProb:
    top = tuple(_token(one) for one in entry.get("top_logprobs") or ())
    raw = bytes(entry.get("bytes") or ())
    return TokenProb(shown(raw), raw, float(entry["logprob"]), top)


def _is_text(raw: bytes) -> bool:
    try:
        return "\ufffd" not in raw.decode()
    except UnicodeDecodeError:
        return False


def shown(raw: bytes) -> str:
    """A token's text; one that is part of a character is shown as OpenAI shows it."""
    return raw.decode() if _is_text(raw) else "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


async def of_prompt(backend: Backend, prompt: str | list[int], n_top: int) -> list[TokenProb]:
    """The tokens of a prompt with their log-probabilities.

    llama.cpp reports them only for tokens that it writes, so it is made to write the prompt.

    Raises:
        ServerRefused, ConnectionBroken: llama.cpp failed.
    """
    pieces = await _pieces(backend, prompt)
    bos = backend.base.card.bos
    before = [] if bos is None or isinstance(prompt, list) else [bos]
    probs = [TokenProb(shown(piece.raw), piece.raw, None) for piece in pieces[:1]]
    for run in _runs(pieces[1:]):
        read = [*before, *(piece.token for piece in pieces[: len(probs)])]
        entries = await _forced(backend, read, run, n_top) if run[0].ordinary else []
        for piece in run[len(entries) :]:
            seen = [one.token for one in run[: len(entries)]]
            entries.append(await _looked_up(backend, [*read, *seen], piece.token, max(1, n_top)))
        for piece, entry in zip(run, entries, strict=True):
            top = tuple(_token(one) for one in entry["top_logprobs"][: max(1, n_top)])
            probs.append(TokenProb(shown(piece.raw), piece.raw, float(entry["logprob"]), top))
    return probs


async def text_of(backend: Backend, tokens: Sequence[int]) -> str:
    """The text of token ids. Raises the same errors as `of_prompt`."""
    return str((await _post(backend, "/detokenize", {"tokens": list(tokens)}))["content"])


async def _pieces(backend: Backend, prompt: str | list[int]) -> list[_Piece]:
    control = frozenset(backend.base.card.control)
    pairs: list[tuple[int, bytes]] = []
    if isinstance(prompt, str):
        body = {"content": prompt, "add_special": False, "with_pieces": True}
        for one in (await _post(backend, "/tokenize", body))["tokens"]:
            piece = one["piece"]
            pairs.append((int(one["id"]), piece.encode() if isinstance(piece, str) else bytes(piece)))
    else:
        pairs = [(token, (await text_of(backend, [token])).encode()) for token in prompt]
    return [
        _Piece(token, raw, _is_text(raw) and raw.decode() not in control and not MARKUP.fullmatch(raw.decode()))
        for token, raw in pairs
    ]


def _runs(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Split into runs of ordinary tokens, and single other ones."""
    run: list[_Piece] = []
    for piece in pieces:
        if run and (not piece.ordinary or not run[-1].ordinary or len(run) == _RUN):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


async def _forced(backend: Backend, read: list[int], run: Sequence[_Piece], n_top: int) -> list[dict[str, Any]]:
    """Entries for the tokens of a run, up to the first one that llama.cpp did not write as a token of its own."""
    grammar = "root ::= " + " ".join(f"<[{piece.token}]>" for piece in run)
    try:
        entries = await _written(backend, read, {"grammar": grammar, "n_predict": len(run)}, max(1, n_top))
    except llama_http.ServerRefused:  # one of them ends a text in this model
        return []
    n_right = 0
    while n_right < min(len(entries), len(run)) and entries[n_right]["id"] == run[n_right].token:
        n_right += 1
    return entries[:n_right]


async def _looked_up(backend: Backend, read: list[int], token: int, n_top: int) -> dict[str, Any]:
    """The entry of any token: found in the list of the most likely ones at the place of another token, or measured.

    Only the entries that are wanted are parsed, because parsing occupies the engine.
    """
    options = {"logit_bias": [[backend.base.card.eos, _CERTAIN]], "n_predict": 1, "temperature": 0.0}
    text = (await _written_raw(backend, read, options, _LIKELY)).decode()
    if (place := text.find(f'{{"id":{token},', text.index(_LIST))) >= 0:
        found: dict[str, Any] = _DECODER.raw_decode(text, place)[0]
    else:
        entries = json.loads(text)["completion_probabilities"]
        found = {"logprob": await _measured(backend, read, token, float(entries[0]["logprob"]))}
    return {**found, "top_logprobs": _first(text, n_top)}


async def _measured(backend: Backend, read: list[int], token: int, end_logprob: float) -> float:
    """The log-probability of an unlikely token; a list that is long enough to contain it takes llama.cpp seconds.

    Both the token and the one that ends a text get so much bias that the probabilities of all others vanish, and the
    latter's is lowered by its own log-probability (`end_logprob`). What remains is 1 for the end, which is written, and
    the token's own probability.
    """
    bias = [[backend.base.card.eos, _BIAS], [token, _BIAS + end_logprob]]
    options = {"logit_bias": bias, "n_predict": 1, "temperature": 1.0, "post_sampling_probs": True}
    entries = json.loads(await _written_raw(backend, read, options, 2))["completion_probabilities"]
    by_id = {one["id"]: float(one["prob"]) for one in entries[0]["top_probs"]}
    share = by_id.get(token, 0.0)
    return math.log(share / (1 - share)) if 0 < share < 1 else _LEAST


def _first(text: str, n_top: int) -> list[dict[str, Any]]:
    """The first entries of a list of likely tokens."""
    place = text.index(_LIST) + len(_LIST)
    entries = []
    for _ in range(n_top):
        entry, end = _DECODER.raw_decode(text, place)
        entries.append(entry)
        place = end + 1  # after the comma
    return entries


async def _written(backend: Backend, read: list[int], options: Mapping[str, Any], n_top: int) -> list[dict[str, Any]]:
    body = json.loads(await _written_raw(backend, read, options, n_top))
    entries: list[dict[str, Any]] = body.get("completion_probabilities") or []
    return entries


async def _written_raw(backend: Backend, read: list[int], options: Mapping[str, Any], n_top: int) -> bytes:
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "cache_prompt": True, "n_probs": n_top}
    async with backend.slots.one():
        return await _raw(backend, "/completion", {**plain, **options, "prompt": read})


async def _post(backend: Backend, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await _raw(backend, path, body))
    return answer


async def _raw(backend: Backend, path: str, body: Mapping[str, Any]) -> bytes:
    async with aclosing(llama_http.post(backend.address, path, body)) as blocks:
        return b"".join([block async for block in blocks])
