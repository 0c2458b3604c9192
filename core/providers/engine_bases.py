"""An engine's base models, for pages: list, add, retry, remove. Only our engine has this API.

The engine keeps them, so an entry of the audit log is written once the engine has carried out the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store
from core.message import restored
from core.providers.client import Client

_PATH = "/fabula/v1/bases"
BaseSource = Literal["file", "folder", "huggingface", "modelscope"]
BaseState = Literal["waiting", "downloading", "converting", "checking", "ready", "failed"]
_STATES: tuple[BaseState, ...] = get_args(BaseState)
_SOURCES: tuple[BaseSource, ...] = get_args(BaseSource)


@dataclass(frozen=True, slots=True)
class EngineBase:
    """A base model in the engine's home directory.

    Attributes:
        origin: path on the engine's machine, or name on a hub.
        share: progress of its preparation, 0 to 1; None if unknown.
        error: why it failed, with the next step; "" if it has not failed.
        licence: as stated by the model; "" if unknown.
        context, model_context: maximum tokens per request on this engine, and the model's own context length; 0 if
            unknown.
        size_bytes, disk_bytes: size of the original weights, and disk space used in the engine's home directory.
        serving_bytes, training_bytes: estimated memory needed; None if not known yet.
        tokens_per_s: estimated speed on this machine; None if unknown.
        not_trainable: why it can only be served; "" if it can be trained.
        no_checksum: whether it was downloaded and the hub has no checksum for some file.
        tuned_models: number of fine-tuned models that need it.
    """

    id: str
    source: BaseSource
    origin: str
    state: BaseState
    share: float | None
    error: str
    family: str
    licence: str
    parameters: int
    context: int
    model_context: int
    size_bytes: int
    disk_bytes: int
    serving_bytes: int | None
    training_bytes: int | None
    tokens_per_s: float | None
    not_trainable: str
    no_checksum: bool
    tuned_models: int

    @property
    def is_active(self) -> bool:
        """Whether it is being prepared."""
        return self.state not in ("ready", "failed")


@dataclass(frozen=True, slots=True)
class SuggestedBase:
    """A model on Hugging Face that is worth trying.

    Attributes:
        context, model_context: as in `EngineBase`.
        gated: whether its terms must first be accepted on its page.
        source, as_of: where its figures come from, and their date.
    """

    repo: str
    parameters: int
    context: int
    model_context: int
    licence: str
    gated: bool
    download_bytes: int
    serving_bytes: int
    training_bytes: int
    tokens_per_s: float | None
    source: str
    as_of: str


@dataclass(frozen=True, slots=True)
class EngineBases:
    """All bases and suggestions, and the memory, disk space and measured speed of the engine's machine.

    Attributes:
        suggested: those that fit the machine; too_large: those that do not.
        training_memory_bytes: memory of its processor for training; None if jobs are trained elsewhere or on a GPU.
    """

    bases: tuple[EngineBase, ...]
    suggested: tuple[SuggestedBase, ...]
    memory_bytes: int
    disk_free_bytes: int
    packaged_tokens_per_s: float | None
    too_large: tuple[SuggestedBase, ...] = ()
    training_memory_bytes: int | None = None


def listed(client: Client) -> EngineBases:
    """List an engine's base models.

    Raises:
        ProviderError: the engine does not respond.
    """
    answer = client.engine_call("GET", _PATH)
    here = answer.get("machine") or {}
    return EngineBases(
        tuple(_base(one) for one in answer.get("data") or ()),
        _suggestions(answer.get("suggestions")),
        int(here.get("memory_bytes") or 0),
        int(here.get("disk_free_bytes") or 0),
        here.get("packaged_tokens_per_s"),
        _suggestions(answer.get("suggestions_too_large")),
        here.get("training_memory_bytes"),
    )


def _suggestions(raw: Iterable[Mapping[str, Any]] | None) -> tuple[SuggestedBase, ...]:
    names = [field.name for field in fields(SuggestedBase)]
    return tuple(SuggestedBase(**{name: one[name] for name in names}) for one in raw or ())


@requires("admin")
def add(
    store: Store,
    actor: Actor,
    client: Client,
    source: BaseSource,
    origin: str,
    base_id: str = "",
    revision: str = "",
) -> EngineBase:
    """Add a base by its path or its name on a hub; the engine prepares it in the background.

    Args:
        base_id: its name here; "": the model's own name.
        revision: branch, tag or commit on a hub; "": the default branch.

    Raises:
        BadRequest: the path or name cannot be used; the message explains why and what to do.
    """
    name = "path" if source in ("file", "folder") else "repo"
    optional = {"id": base_id, "revision": revision}
    body = {"source": source, name: origin, **{field: value for field, value in optional.items() if value}}
    base = _base(client.engine_call("POST", _PATH, body))
    _note(store, base.id, None, base.origin)
    return base


@requires("admin")
def retry(store: Store, actor: Actor, client: Client, base_id: str) -> EngineBase:
    """Restart a failed base's preparation; a download resumes where it stopped."""
    base = _base(client.engine_call("POST", f"{_PATH}/{base_id}/retry"))
    _note(store, base.id, base.origin, base.origin)
    return base


@requires("admin")
def remove(store: Store, actor: Actor, client: Client, base_id: str) -> None:
    """Cancel a base's preparation and remove it; the user's own files stay where they are.

    Raises:
        BadRequest: an unfinished job uses it.
    """
    earlier = next((one.origin for one in listed(client).bases if one.id == base_id), None)
    client.engine_call("DELETE", f"{_PATH}/{base_id}")
    _note(store, base_id, earlier, None)


def _note(store: Store, base_id: str, before: str | None, after: str | None) -> None:
    with store.session() as session:
        audit_log.note(session, f"base_models {base_id} origin", before, after)


def _base(raw: Mapping[str, Any]) -> EngineBase:
    total, done = int(raw.get("total") or 0), int(raw.get("done") or 0)
    error = raw.get("error") or {}
    return EngineBase(
        id=str(raw["id"]),
        source=next((one for one in _SOURCES if one == raw.get("source")), "file"),
        origin=str(raw.get("repo") or raw.get("path") or ""),
        state=next((one for one in _STATES if one == raw.get("state")), "failed"),
        share=min(1.0, done / total) if total else None,
        error=_message(error.get("message"), error.get("fabula")),
        family=str(raw.get("family") or ""),
        licence=str(raw.get("licence") or ""),
        parameters=int(raw.get("parameters") or 0),
        context=int(raw.get("context") or 0),
        model_context=int(raw.get("model_context") or 0),
        size_bytes=int(raw.get("size_bytes") or 0),
        disk_bytes=int(raw.get("disk_bytes") or 0),
        serving_bytes=raw.get("serving_bytes"),
        training_bytes=raw.get("training_bytes"),
        tokens_per_s=raw.get("tokens_per_s"),
        not_trainable=_message(raw.get("not_trainable"), raw.get("not_trainable_message")),
        no_checksum=raw.get("checksum") == "unavailable",
        tuned_models=int(raw.get("tuned_models") or 0),
    )


def _message(text: object, template: object) -> str:
    """A message from the engine, in a form that the page can translate."""
    if not isinstance(text, str):
        return ""
    return restored(text, {"fabula": template})
