"""Stored chat completions of tuned models: archived as a training file, one conversation with its answer per line.

They are the model's own answers in use, so they can stand for a training file that is lost. Calls of tools are kept,
with the tools. A completion without an answer, such as a refusal, keeps its messages; the import leaves out what it
can't train on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from sqlalchemy import select

from core.db.tables import ArchivedFile, ArchivedTune, utcnow
from core.errors import BadRequest, ProviderError, Refused, Transient
from core.message import msg
from core.migrate import accounts
from core.migrate.calls import Calls
from core.migrate.workspace import Workspace
from core.providers.account_reader import Page, all_pages

PURPOSE: Final = "stored-completions"
"""The purpose of these files in an archive."""
MAX_COMPLETIONS: Final = 2_000
"""Of one model, the newest; each needs a request of its own, several minutes together."""
_PARAMETERS = ("model", "temperature", "top_p", "seed", "response_format", "tools", "metadata")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")


def file_id(model: str) -> str:
    """The id of a model's file in the archive."""
    return f"{PURPOSE}:{model}"[:200]


def stored_of(files: Mapping[str, ArchivedFile], tune: ArchivedTune) -> ArchivedFile | None:
    """The file with a model's stored completions; None if there are none."""
    return files.get(file_id(tune.model)) if tune.model else None


def take(calls: Calls, workspace: Workspace) -> None:
    """Archive the stored completions of each model that is not settled yet. A key that may not read them is no error.

    Raises:
        Stopped: the work should stop.
        StorageFull: the disk is full; nothing is lost.
    """
    of_account = ArchivedTune.archive_id == calls.archive_id
    with calls.store.reading() as session:
        known = set(
            session.scalars(
                select(ArchivedFile.remote_id).where(
                    ArchivedFile.archive_id == calls.archive_id, ArchivedFile.purpose == PURPOSE
                )
            )
        )
        models = session.scalars(
            select(ArchivedTune.model).where(of_account, ArchivedTune.state == "found", ArchivedTune.model.is_not(None))
        ).all()
    for model in dict.fromkeys(one for one in models if one and file_id(one) not in known):
        try:
            _take_model(calls, workspace, model)
        except Transient:
            raise
        except (Refused, BadRequest, ProviderError):  # not every account stores them, or lets a key read them
            return


def _take_model(calls: Calls, workspace: Workspace, model: str) -> None:
    listed = (
        one
        for page in all_pages(lambda after: calls(lambda: calls.reader.completions(model, after)))
        for one in page.objects
    )
    first = next(listed, None)
    if first is None:
        return

    def write_all(write: Callable[[bytes], object], _start: int) -> None:
        for one in islice(_chain(first, listed), MAX_COMPLETIONS):
            if (row := _row(one, _messages(calls, str(one.get("id"))))) is not None:
                write(f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "replace"))

    accounts.note(calls.store, calls.archive_id, msg("Reading the stored chat completions of {model}…", model=model))
    stored = workspace.store(file_id(model), write_all)
    accounts.note(calls.store, calls.archive_id, None)
    with calls.store.session() as session:
        session.add(
            ArchivedFile(
                archive_id=calls.archive_id,
                remote_id=file_id(model),
                purpose=PURPOSE,
                filename=f"{model} stored completions.jsonl"[-300:],
                state="stored",
                size=stored.size,
                sha256=stored.sha256,
                stored_bytes=stored.size,
                stored_at=utcnow(),
            )
        )


def _chain(first: Mapping[str, Any], rest: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield first
    yield from rest


def _messages(calls: Calls, completion_id: str) -> list[Mapping[str, Any]]:
    def read(after: str | None) -> Page:
        return calls(lambda: calls.reader.completion_messages(completion_id, after))

    try:
        return [one for page in all_pages(read) for one in page.objects]
    except BadRequest:  # deleted since it was listed
        return []


def _row(completion: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A conversation with its answer and the parameters of its request; None if a part is missing."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    answer = choice.get("message") if isinstance(choice, Mapping) else None
    if not messages or not isinstance(answer, Mapping):
        return None
    asked = [
        {
            key: value
            for key, value in {**one, "content": _content(one)}.items()
            if key in _MESSAGE_KEYS and value is not None
        }
        for one in messages
    ]
    said = {"role": "assistant", **{key: answer[key] for key in ("content", "tool_calls") if answer.get(key)}}
    parameters = {key: completion[key] for key in _PARAMETERS if completion.get(key) is not None}
    return {"messages": [*asked, said], **parameters}


def _content(message: Mapping[str, Any]) -> Any:
    return message.get("content") if message.get("content") is not None else message.get("content_parts")
