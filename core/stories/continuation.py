"""Builds the request that continues a partial text. Pure."""

from __future__ import annotations

from dataclasses import replace

from core.providers import CompletionRequest

_CHINESE = "\n\n下面是已经写好的开头。请从它中断的地方直接接着写完，不要重复已有的文字，也不要解释：\n\n"
_ENGLISH = (
    "\n\nHere is how it begins. Go on exactly where it stops and bring it to its end; do not repeat any of it, and do "
    "not explain:\n\n"
)


def continuation(request: CompletionRequest, text: str) -> CompletionRequest:
    """The request for the rest of `text`, which `request` produced.

    A completion model gets its own text appended to the prompt. A chat model gets an instruction in the language of
    the prompt, because not every endpoint accepts the beginning of an answer.
    """
    if request.endpoint == "completion":
        return replace(request, prompt=request.prompt + text)
    chinese = any("\u4e00" <= character <= "\u9fff" for character in request.prompt + text)
    return replace(request, prompt=request.prompt + (_CHINESE if chinese else _ENGLISH) + text)
