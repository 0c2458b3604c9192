"""A chain: outline → story → title. Each step streams and uses the text of the steps before it.

for step in chain.stream_chain(client, CompletionRequest(model="storyteller", prompt="宋朝的一位英雄遇见奥特曼")):
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
_MAX_TOKENS: Mapping[StepName, int] = {"outline": 300, "title": 40}  # the story uses the limit of the request
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
    """Anything that streams text: a provider's client, or a fake in tests."""

    def stream(self, request: CompletionRequest) -> Iterator[str]: ...


@dataclass
class Step:
    """One step: iterate for its text; `text` is what has arrived so far."""

    name: StepName
    request: CompletionRequest
    words: Iterator[str]
    text: str = ""

    def __iter__(self) -> Iterator[str]:
        for piece in self.words:
            self.text += piece
            yield piece


def stream_chain(client: Streams, request: CompletionRequest) -> Iterator[Step]:
    """The three steps in order; `request.prompt` is the idea. The rest of a step is read before the next one starts.

    Raises:
        FabulaError: while iterating over a step; see `Client.stream`.
    """
    texts: dict[StepName, str] = {}
    for name in STEPS:
        current = step_request(request, name, texts)
        step = Step(name, current, client.stream(current))
        yield step
        for _ in step:  # read the rest if the caller stopped early
            pass
        texts[name] = step.text


def step_request(request: CompletionRequest, name: StepName, texts: Mapping[StepName, str]) -> CompletionRequest:
    """The request for a step: the idea and the texts of the earlier steps, in the language of the idea."""
    templates = _CHINESE if any("\u4e00" <= c <= "\u9fff" for c in request.prompt) else _ENGLISH
    texts_by_name = {"idea": request.prompt.strip()} | {step: text.strip() for step, text in texts.items()}
    prompt = templates[name]
    for key, text in texts_by_name.items():  # not str.format(): ideas and stories may contain braces
        before, found, after = prompt.partition(f"{{{key}}}")
        prompt = f"{before}{text}{after}" if found else prompt
    max_tokens = min(request.max_tokens, _MAX_TOKENS.get(name, request.max_tokens))
    return replace(request, prompt=prompt, max_tokens=max_tokens, stop=())
