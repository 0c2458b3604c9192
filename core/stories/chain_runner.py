"""Runs a chain for the story page: each step is a story in the library and starts when the previous one has ended."""

from __future__ import annotations

from dataclasses import replace

from core.actor import Actor
from core.db.store import Store, new_id
from core.errors import NotFound
from core.message import msg
from core.pricing.price_book import PriceBook
from core.providers import Client, CompletionRequest
from core.stories import library, stream
from core.stories.arena import RoundEntry, with_next_seed
from core.stories.chain import STEPS, StepName, step_request
from core.stories.stream import StoryPlacement, StoryStream, start_story


class Chain:
    """Outline, story, title: `advance()` starts the next step. `steps` holds the started steps in order."""

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
        placement = StoryPlacement(self.id, name, self._values)
        self.steps[name] = start_story(
            self._store,
            self._actor,
            self._client,
            request,
            self._book,
            placement=placement,
            idle_timeout_s=self._idle_timeout_s,
        )
        return self.steps[name]

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
        """Write a step again as `request`, with `client`, which also writes the steps after it.

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
        placement = StoryPlacement(self.id, name, self._values)
        self.steps[name] = start_story(
            self._store,
            self._actor,
            client,
            request,
            self._book,
            placement=placement,
            idle_timeout_s=self._idle_timeout_s,
        )

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

    def _active_step(self) -> StoryStream | None:
        return next((story for story in self.steps.values() if not story.done), None)

    def _latest_step(self) -> StoryStream | None:
        return next(reversed(self.steps.values()), None)


def _succeeded(story: StoryStream) -> bool:
    return story.error is None and not story.facts.stopped and bool(story.text.strip())
