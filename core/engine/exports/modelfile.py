"""An Ollama Modelfile: the GGUF file, the prompt template, and where an answer stops.

Ollama's templates are Go's. Ours is derived from texts that the engine renders, so prompts are the same in both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from core.engine.chat_messages import BadLine, ChatMessage
from core.engine.serving.chat import ChatFormat

_SYSTEM, _USER, _ANSWER, _NEXT = "fabulasystemq", "fabulauserq", "fabulaanswerq", "fabulanextq"


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """The texts between the messages of a conversation.

    Attributes:
        first: before a first user message.
        answer: after the last user message, where the model begins to answer.
        earlier: between an earlier user message and its answer (Qwen 3 has no empty thoughts there).
        following: between an answer and the next user message.
        system: before a system text; None if the model has none.
        after_system: between a system text and the user message.
    """

    first: str
    answer: str
    earlier: str
    following: str
    system: str | None
    after_system: str

    def prompt(self, messages: list[tuple[str, str]]) -> str:
        """What Ollama's template renders for (role, text) pairs."""
        out, before = "", self.first
        for number, (role, text) in enumerate(messages, start=1):
            if role == "system" and self.system is not None:
                out, before = out + self.system + text, self.after_system
            elif role == "user":
                out += before + text + (self.answer if number == len(messages) else self.earlier)
            elif role == "assistant":
                out, before = out + text, self.following
        return out


def turn_texts(chat_format: ChatFormat) -> TurnTexts | None:
    """The texts of a chat format; None if they depend on more than roles and order."""
    user, answer, following = (
        ChatMessage("user", _USER),
        ChatMessage("assistant", _ANSWER),
        ChatMessage("user", _NEXT),
    )
    try:
        first, _, rest = chat_format.prompt([user, answer, following]).partition(_USER)
        earlier, _, rest = rest.partition(_ANSWER)
        between, _, end = rest.partition(_NEXT)
        system, _, rest = chat_format.prompt([ChatMessage("system", _SYSTEM), user]).partition(_SYSTEM)
        after_system, _, system_end = rest.partition(_USER)
    except BadLine:
        return None
    return TurnTexts(first, end, earlier, between, system, after_system) if end == system_end else None


def of_chat(model: str, texts: TurnTexts, stop: str) -> str:
    """The Modelfile of a model for conversations."""
    go = json.dumps  # Go's strings have the same escapes for what templates contain
    system = (
        f'{{{{- if eq .Role "system" }}}}{{{{ {go(texts.system)} }}}}{{{{ .Content }}}}'
        f"{{{{- $before = {go(texts.after_system)} }}}}\n"
        f"{{{{- else if"
    )
    begin = "{{- if" if texts.system is None else system
    template = (
        f"{{{{- $before := {go(texts.first)} }}}}\n"
        f"{{{{- range $i, $_ := .Messages }}}}\n"
        f'{begin} eq .Role "user" }}}}{{{{ $before }}}}{{{{ .Content }}}}'
        f"{{{{- if eq (len (slice $.Messages $i)) 1 }}}}{{{{ {go(texts.answer)} }}}}"
        f"{{{{- else }}}}{{{{ {go(texts.earlier)} }}}}{{{{- end }}}}\n"
        f'{{{{- else if eq .Role "assistant" }}}}{{{{ .Content }}}}{{{{- $before = {go(texts.following)} }}}}\n'
        f"{{{{- end }}}}\n"
        f"{{{{- end }}}}"
    )
    return f'{model}TEMPLATE """{template}"""\n{_stop(stop)}'


def of_completion(model: str, stop: str) -> str:
    """The Modelfile of a model that continues its prompt."""
    return f'{model}TEMPLATE """{{{{ .Prompt }}}}"""\n{_stop(stop)}'


def _stop(stop: str) -> str:
    return f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}\n" if stop else ""
