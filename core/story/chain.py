"""A chain: outline → story → title. Each step streams, and reads what the steps before it wrote.

for step in chain.tell(client, CompletionRequest(model="storyteller", prompt="宋朝的一位英雄遇见奥特曼")):
    print(step.name)
    for words in step:
        print(words, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from core.providers import CompletionRequest

StepName = Literal["outline", "story", "title"]
STEPS: tuple[StepName, ...] = ("outline", "story", "title")
_MOST_TOKENS: Mapping[StepName, int] = {"outline": 300, "title": 40}  # the story has what the request allows
_CHINESE: Mapping[StepName, str] = {
    "outline": "请为下面的想法写一个故事提纲，三到五句话，只写提纲：\n\n{idea}",
    "story": "请按照下面的提纲写一个完整的故事，情节跌宕起伏，只写故事。\n\n想法：{idea}\n\n提纲：\n{outline}",
    "title": "请为下面的故事起一个题目，不超过十五个字，只写题目：\n\n{story}",
}
_ENGLISH: Mapping[StepName, str] = {
    "outline": "Write an outline for a story on this idea, three to five sentences, nothing but the outline:\n\n{idea}",
    "story": "Write the whole story that follows this outline, nothing but the story.\n\n"
    "Idea: {idea}\n\nOutline:\n{outline}",
    "title": "Give this story a title of at most eight words, nothing but the title:\n\n{story}",
}


class Streams(Protocol):
    """Whatever streams text: a provider's client, or a test's."""

    def stream(self, request: CompletionRequest) -> Iterator[str]: ...


@dataclass
class Step:
    """One step: an iterator of its words; `text` is what has come so far."""

    name: StepName
    request: CompletionRequest
    words: Iterator[str]
    text: str = ""

    def __iter__(self) -> Iterator[str]:
        for piece in self.words:
            self.text += piece
            yield piece


def stream_chain(client: Streams, request: CompletionRequest) -> Iterator[Step]:
    """The three steps, one after the other; `request.prompt` is the idea. A step that was not read is read to its end.

    Raises:
        FabulaError: out of reading a step; see `Client.stream`.
    """
    texts: dict[StepName, str] = {}
    for name in STEPS:
        asked = step_request(request, name, texts)
        step = Step(name, asked, client.stream(asked))
        yield step
        for _ in step:  # whatever its reader has left
            pass
        texts[name] = step.text


def step_request(request: CompletionRequest, name: StepName, texts: Mapping[StepName, str]) -> CompletionRequest:
    """What a step asks for: the idea and the texts of the steps before it, in the language of the idea."""
    words = _CHINESE if any("\u4e00" <= c <= "\u9fff" for c in request.prompt) else _ENGLISH
    given = {"idea": request.prompt.strip()} | {step: text.strip() for step, text in texts.items()}
    prompt = words[name]
    for place, text in given.items():  # not format(): ideas and stories may have braces
        before, mark, after = prompt.partition(f"{{{place}}}")
        prompt = f"{before}{text}{after}" if mark else prompt
    most = min(request.max_tokens, _MOST_TOKENS.get(name, request.max_tokens))
    return replace(request, prompt=prompt, max_tokens=most, stop=())
