"""Removes thinking that servers leave in the text: `<think>Okay, the user wants …</think>` before the answer.

vLLM, SGLang, llama.cpp, LM Studio, Ollama and many gateways do so unless they are configured for the model's tags
(DeepSeek-R1, QwQ, Qwen3: `<think>`; Seed-OSS: `<seed:think>`; Magistral: `[THINK]`). Like `reasoning_content`, it is
billed but not part of the text.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

_TAGS = {"<think>": "</think>", "<thinking>": "</thinking>", "<seed:think>": "</seed:think>", "[THINK]": "[/THINK]"}
_END = "</think>"


@dataclass(slots=True)
class ThinkingFilter:
    """Removes thinking from the start of a text that arrives in chunks.

    Args:
        prompt: the prompt; if it ends with an opening tag, the text starts with thinking.

    Attributes:
        has_thinking: whether non-empty thinking was removed.
    """

    prompt: InitVar[str] = ""
    has_thinking: bool = False
    _buffer: str = ""  # text that may be thinking, including its opening tag
    _opening: str | None = None
    _in_text: bool = False  # whether the thinking is over
    _strip: bool = False  # whether to strip white space between thinking and text

    def __post_init__(self, prompt: str) -> None:
        self._opening = next((tag for tag in _TAGS if prompt.rstrip().endswith(tag)), None)

    def feed(self, chunk: str) -> str:
        """Add a chunk; return the text that is certainly not thinking."""
        if self._in_text:
            return self._text(chunk)
        self._buffer += chunk
        if self._opening is None:
            start = self._buffer.lstrip()
            self._opening = next((tag for tag in _TAGS if start.startswith(tag)), None)
            if self._opening is None:
                return "" if any(tag.startswith(start) for tag in _TAGS) else self.flush()
        head, ended, text = self._buffer.partition(_TAGS[self._opening])
        self.has_thinking = self.has_thinking or bool(head.lstrip().removeprefix(self._opening).strip())
        if not ended:
            return ""
        self._buffer, self._in_text, self._strip = "", True, True
        return self._text(text)

    def flush(self) -> str:
        """Return the buffered text at the end of the stream. Unclosed thinking is kept; there is no other text."""
        text, self._buffer, self._in_text = self._buffer, "", True
        return text

    def _text(self, chunk: str) -> str:
        if self._strip:
            chunk = chunk.lstrip()
            self._strip = not chunk
        return chunk


def without_thinking(text: str) -> str:
    """Remove the thinking at the start of a complete text, even if the text contains only the closing tag."""
    reader = ThinkingFilter()
    remaining = reader.feed(text) + reader.flush()
    if remaining != text or _END not in text or "<think" in text:
        return remaining
    return text.partition(_END)[2].lstrip()
