"""A chain as it is written on the page: each step is a story in the library, and begins when the one before has
ended."""

from __future__ import annotations

from dataclasses import replace

from core.actor import Actor
from core.cost.price_book import PriceBook
from core.db.store import Store, new_id
from core.errors import NotFound
from core.message import msg
from core.providers import Client, CompletionRequest
from core.story import library, stream
from core.story.arena import RoundEntry, reseeded
from core.story.chain import STEPS, StepName, step_request
from core.story.stream import StoryPlacement, StoryStream, write


class Chain:
    """Outline, story, title: `advance()` begins the next step. `steps` are those that have begun, in order."""

    def __init__(
        self,
        store: Store,
        actor: Actor,
        client: Client,
        request: CompletionRequest,
        book: PriceBook,
        *,
        column_values: dict[str, str] | None = None,
        leave_s: float | None = None,
    ) -> None:
        self.id = new_id()
        self.steps: dict[StepName, StoryStream] = {}
        self._store, self._actor, self._client, self._book = store, actor, client, book
        self._request, self._values, self._leave_s = request, column_values, leave_s
        self._stopped = False

    @property
    def done(self) -> bool:
        """Whether no step is being written and none can follow."""
        last = self._last()
        if self._writing() is not None or last is None:
            return False
        return self._stopped or len(self.steps) == len(STEPS) or not _good(last)

    def advance(self) -> StoryStream | None:
        """The step that is being written, or the next one, begun now; None when the chain is over.

        A step that was stopped, cut, or brought no word ends the chain; what was written stays, and can `go_on`.
        """
        writing = self._writing()
        if writing is not None or self.done:
            return writing
        name = STEPS[len(self.steps)]
        asked = step_request(self._request, name, {step: story.text for step, story in self.steps.items()})
        place = StoryPlacement(self.id, name, self._values)
        self.steps[name] = write(
            self._store, self._actor, self._client, asked, self._book, place=place, leave_s=self._leave_s
        )
        return self.steps[name]

    def again(self) -> RoundEntry:
        """The entry that writes the same idea with the same settings once more, with another seed."""
        return RoundEntry(self._client.provider.id, reseeded(self._request), self._values)

    def rests(self, name: StepName) -> bool:
        """Whether the chain was stopped after this step had ended by itself, before the next one began."""
        return self._stopped and self.steps[name] is self._last() and self.steps[name].done and _good(self.steps[name])

    def go_on(self, name: StepName) -> None:
        """Have the rest of a step written; where it was the last one, the steps after it follow.

        Raises:
            NotFound: its words are not in the library any more.
        """
        whole, self._stopped = self.rests(name), False
        if whole:
            return
        kept = library.get(self._store, self.steps[name].id)
        if kept is None:
            raise NotFound(msg("This story no longer exists."), msg("Write the chain again."))
        self.steps[name] = stream.go_on(self._store, self._actor, self._client, kept, self._book, leave_s=self._leave_s)

    def retry(self, name: StepName, asked: CompletionRequest, client: Client) -> None:
        """Have a step written again as `asked`, by `client`, which then writes the steps after it too.

        Texts of those steps so far stay in the library. Nothing happens while a step is being written.
        """
        if self._writing() is not None:
            return
        limit = asked.max_tokens if name == "story" else self._request.max_tokens  # other steps have their own
        self._client, self._request = (
            client,
            replace(
                self._request,
                model=asked.model,
                endpoint=asked.endpoint,
                temperature=asked.temperature,
                max_tokens=limit,
            ),
        )
        for later in STEPS[STEPS.index(name) :]:
            self.steps.pop(later, None)
        self._stopped = False
        place = StoryPlacement(self.id, name, self._values)
        self.steps[name] = write(
            self._store, self._actor, client, asked, self._book, place=place, leave_s=self._leave_s
        )

    @property
    def stopping(self) -> bool:
        """Whether it was stopped while a step is being written that has not ended yet."""
        return self._stopped and not self.done

    def cancel(self) -> None:
        """`stop`, without waiting until the words are saved."""
        self._stopped = True
        writing = self._last()
        if writing is not None:
            writing.cancel()

    def stop(self) -> None:
        """End it here and keep its words; between two steps, the next one does not begin."""
        self._stopped = True
        writing = self._writing()
        if writing is not None:
            writing.stop()

    def _writing(self) -> StoryStream | None:
        return next((story for story in self.steps.values() if not story.done), None)

    def _last(self) -> StoryStream | None:
        return next(reversed(self.steps.values()), None)


def _good(story: StoryStream) -> bool:
    return story.error is None and not story.facts.stopped and bool(story.text.strip())
