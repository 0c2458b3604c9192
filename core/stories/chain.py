"""A chain: outline → story → title. Each step uses the text of the steps before it, and is a story in the library.

`Chain` runs one for the story page. To run one without the library, with your own client:

for step in chain.stream_chain(client, CompletionRequest(model="storyteller", prompt="宋朝的一位英雄遇见奥特曼")):
    print(step.name)
    for words in step:
        print(words, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from core.actor import Actor, requires
from core.db.store import Store, new_id
from core.errors import NotFound
from core.message import msg
from core.ownership import reads
from core.pricing.price_book import PriceBook
from core.providers import Client, CompletionRequest
from core.stories import library, stream
from core.stories.arena import RoundEntry, with_next_seed
from core.stories.story_record import StoryPlacement
from core.stories.stream import StoryStream, StreamRequest

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
    """One step. Iterate over it to receive the text; `text` is what has arrived so far."""

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


class Chain:
    """Outline, story, title: `advance()` starts the next step. `steps` holds the started steps in order."""

    @requires("viewer")
    @reads(model="request.model")
    def __init__(
        self,
        store: Store,
        actor: Actor,
        client: Client,
        request: CompletionRequest,
        book: PriceBook,
        *,
        column_values: dict[str, str] | None = None,
        idle_timeout_s: float | None = None,
    ) -> None:
        self.id = new_id()
        self.steps: dict[StepName, StoryStream] = {}
        self._store, self._actor, self._client, self._book = store, actor, client, book
        self._request, self._values, self._idle_timeout_s = request, column_values, idle_timeout_s
        self._stopped = False

    @property
    def done(self) -> bool:
        """Whether no step is running and no step can follow."""
        latest = self._latest_step()
        if self._active_step() is not None or latest is None:
            return False
        return self._stopped or len(self.steps) == len(STEPS) or not _succeeded(latest)

    def advance(self) -> StoryStream | None:
        """The running step, or the next step, which is started; None when the chain has ended.

        A step that was stopped, failed or is empty ends the chain. Its text is kept; `continue_step` resumes it.
        """
        active = self._active_step()
        if active is not None or self.done:
            return active
        name = STEPS[len(self.steps)]
        request = step_request(self._request, name, {step: story.text for step, story in self.steps.items()})
        return self._start(name, request)

    def rerun_entry(self) -> RoundEntry:
        """An entry that repeats the same idea and settings with a new seed."""
        return RoundEntry(self._client.provider.id, with_next_seed(self._request), self._values)

    def paused_after(self, name: StepName) -> bool:
        """Whether the chain was stopped between this completed step and the next one."""
        return (
            self._stopped
            and self.steps[name] is self._latest_step()
            and self.steps[name].done
            and _succeeded(self.steps[name])
        )

    def continue_step(self, name: StepName) -> None:
        """Continue a partial step. If it is the latest one, the remaining steps follow.

        Raises:
            NotFound: the step is no longer in the library.
        """
        already_complete, self._stopped = self.paused_after(name), False
        if already_complete:
            return
        saved = library.get(self._store, self.steps[name].id)
        if saved is None:
            raise NotFound(msg("This story no longer exists."), msg("Write the chain again."))
        self.steps[name] = stream.continue_story(
            self._store, self._actor, self._client, saved, self._book, idle_timeout_s=self._idle_timeout_s
        )

    def retry(self, name: StepName, request: CompletionRequest, client: Client) -> None:
        """Write a step again with `request` and `client`; the client also writes the steps after it.

        The earlier texts of those steps stay in the library. Does nothing while a step is running.
        """
        if self._active_step() is not None:
            return
        limit = request.max_tokens if name == "story" else self._request.max_tokens  # other steps have their own limits
        self._client, self._request = (
            client,
            replace(
                self._request,
                model=request.model,
                endpoint=request.endpoint,
                temperature=request.temperature,
                max_tokens=limit,
            ),
        )
        for later_step in STEPS[STEPS.index(name) :]:
            self.steps.pop(later_step, None)
        self._stopped = False
        self._start(name, request)

    @property
    def stopping(self) -> bool:
        """Whether the chain was asked to stop and a step is still running."""
        return self._stopped and not self.done

    def cancel(self) -> None:
        """Ask the chain to stop without waiting until its text is saved."""
        self._stopped = True
        active = self._latest_step()
        if active is not None:
            active.cancel()

    def stop(self) -> None:
        """Stop the chain and keep its text. Between two steps, the next one does not start."""
        self._stopped = True
        active = self._active_step()
        if active is not None:
            active.stop()

    def _start(self, name: StepName, request: CompletionRequest) -> StoryStream:
        placement = StoryPlacement(self.id, name, self._values)
        self.steps[name] = StoryStream(
            self._actor,
            StreamRequest(
                self._store,
                self._client,
                request,
                self._book,
                placement=placement,
                idle_timeout_s=self._idle_timeout_s,
            ),
        )
        return self.steps[name]

    def _active_step(self) -> StoryStream | None:
        return next((story for story in self.steps.values() if not story.done), None)

    def _latest_step(self) -> StoryStream | None:
        return next(reversed(self.steps.values()), None)


def _succeeded(story: StoryStream) -> bool:
    return story.error is None and not story.facts.stopped and bool(story.text.strip())
