"""Thinking that a server leaves inside the text: `<think>Okay, the user wants …</think>` before the answer.

vLLM, SGLang, llama.cpp, LM Studio, Ollama and many gateways do so unless they are told how the model marks its thinking
(DeepSeek-R1, QwQ, Qwen3: `<think>`; Seed-OSS: `<seed:think>`; Magistral: `[THINK]`). It is billed like text and is no
part of it, as `reasoning_content` is not.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

_MARKS = {"<think>": "</think>", "<thinking>": "</thinking>", "<seed:think>": "</seed:think>", "[THINK]": "[/THINK]"}
_END = "</think>"


@dataclass(slots=True)
class ThinkingFilter:
    """Takes a text piece by piece, and gives it back without the thinking at its beginning.

    Args:
        prompt: what the model continues. Where it ends with an opening mark, the text begins with thinking.

    Attributes:
        thought: there is some thinking in what came.
    """

    prompt: InitVar[str] = ""
    thought: bool = False
    _held: str = ""  # what may be thinking, with its opening mark
    _opening: str | None = None
    _over: bool = False  # the text itself has begun
    _strip: bool = False  # white space between the thinking and the text

    def __post_init__(self, prompt: str) -> None:
        self._opening = next((mark for mark in _MARKS if prompt.rstrip().endswith(mark)), None)

    def feed(self, piece: str) -> str:
        """As much of the text as is certain to be text."""
        if self._over:
            return self._text(piece)
        self._held += piece
        if self._opening is None:
            begin = self._held.lstrip()
            self._opening = next((mark for mark in _MARKS if begin.startswith(mark)), None)
            if self._opening is None:
                return "" if any(mark.startswith(begin) for mark in _MARKS) else self.flush()
        head, ended, text = self._held.partition(_MARKS[self._opening])
        self.thought = self.thought or bool(head.lstrip().removeprefix(self._opening).strip())
        if not ended:
            return ""
        self._held, self._over, self._strip = "", True, True
        return self._text(text)

    def flush(self) -> str:
        """What is held back when the text ends. Thinking that has no end is all there is, and stays."""
        held, self._held, self._over = self._held, "", True
        return held

    def _text(self, piece: str) -> str:
        if self._strip:
            piece = piece.lstrip()
            self._strip = not piece
        return piece


def without_thinking(text: str) -> str:
    """A whole text without the thinking at its beginning; also where the prompt has opened it, so that it only ends."""
    reader = ThinkingFilter()
    found = reader.feed(text) + reader.flush()
    if found != text or _END not in text or "<think" in text:
        return found
    return text.partition(_END)[2].lstrip()
