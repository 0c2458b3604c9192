"""Stories that a fake client streams."""

from __future__ import annotations

from dataclasses import replace

from core.actor import LOCAL
from core.db.store import Store
from core.pricing.price_book import PriceBook
from core.providers import CompletionRequest, Provider
from core.stories import arena, stream
from core.stories.arena import RoundEntry
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fakes import FakeRegistry, FakeStream

STORY_REQUEST = CompletionRequest(model="writer", prompt="宋,发射激光,艰难 ->", endpoint="completion", stop=(".",))


class StoryClient:
    def __init__(self, *pieces: object, provider: str = "engine") -> None:
        self.provider = Provider(provider, "engine", "The engine", "http://127.0.0.1:1/v1", "")
        self.made = FakeStream(pieces, "writer-2026")

    def stream(self, _request: CompletionRequest) -> FakeStream:
        return self.made


def write_story(store: Store, client: StoryClient) -> stream.StoryStream:
    return StoryStream(LOCAL, StreamRequest(store, client, STORY_REQUEST, PriceBook.load()))  # type: ignore[arg-type]  # a fake client


ROUND_REQUEST = CompletionRequest(model="writer", prompt="讲一个故事", endpoint="completion")
BOOK = PriceBook.load()


def round_entries(*models: str) -> list[RoundEntry]:
    return [RoundEntry(model, replace(ROUND_REQUEST, model=model)) for model in models]


def start_round(store: Store, *clients: StoryClient, blind: bool = False, seed: int | None = None) -> arena.Round:
    registry = FakeRegistry({f"m{i}": client for i, client in enumerate(clients)})
    entries = round_entries(*registry.clients)
    for client, name in zip(clients, registry.clients, strict=True):
        client.made.facts = replace(client.made.facts, model=name)
    return arena.start_round(store, LOCAL, registry, entries, BOOK, blind=blind, seed=seed)  # type: ignore[arg-type]  # a fake


def finished_round(store: Store, *texts: str, blind: bool = True) -> arena.Round:
    round_ = start_round(store, *(StoryClient(text) for text in texts), blind=blind, seed=1)
    for _ in arena.updates(round_.stories, round_.subscribers):
        pass
    return round_
