"""Exports of an engine's tuned models, for pages: list, start, delete, read a small file. Only our engine has this API.

The engine keeps them, so an entry of the audit log is written once the engine has carried out the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import quote, urlencode

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store
from core.message import restored
from core.ownership import edits, reads
from core.providers.client import Client

_PATH = "/fabula/v1/exports"
ExportForm = Literal["gguf-adapter", "peft", "safetensors", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m"]
ExportState = Literal["waiting", "writing", "checking", "ready", "failed"]
EXPORT_FORMS: tuple[ExportForm, ...] = get_args(ExportForm)
_STATES: tuple[ExportState, ...] = get_args(ExportState)


@dataclass(frozen=True, slots=True)
class ParityFigure:
    """KL divergence (nats) of an export's next-token probabilities from the trainer's, in one program.

    Attributes:
        same_top: share of prompts (0 to 1) for which both have the same most likely token.
    """

    program: str
    prompts: int
    mean_kl: float
    max_kl: float
    same_top: float


@dataclass(frozen=True, slots=True)
class EngineExport:
    """An export in the engine's home directory.

    Attributes:
        share: progress, 0 to 1.
        error: why it failed, with the next step; "" if it has not failed.
        path: its folder on the engine's machine; "" until it is ready.
        files: (name, bytes).
    """

    id: str
    model: str
    form: ExportForm
    state: ExportState
    share: float
    error: str
    path: str
    files: tuple[tuple[str, int], ...]
    proof: tuple[ParityFigure, ...]

    @property
    def is_active(self) -> bool:
        """Whether it is being written."""
        return self.state not in ("ready", "failed")

    @property
    def size(self) -> int:
        """Total bytes of its files."""
        return sum(size for _, size in self.files)


@dataclass(frozen=True, slots=True)
class EngineExports:
    """A model's exports, the estimated bytes of each form, and the free space on the engine's disk."""

    exports: tuple[EngineExport, ...]
    estimated: Mapping[str, int]
    disk_free_bytes: int


def listed(client: Client, model: str) -> EngineExports:
    """List a model's exports.

    Raises:
        ProviderError: the engine does not respond.
    """
    answer = client.engine_call("GET", f"{_PATH}?{urlencode({'model': model})}")
    sizes = {str(form): int(size) for form, size in (answer.get("estimated_bytes") or {}).items()}
    exports = tuple(_export(one) for one in answer.get("data") or ())
    return EngineExports(exports, sizes, int(answer.get("disk_free_bytes") or 0))


@requires("editor")
@edits(job="job_id")
def start(
    store: Store, actor: Actor, client: Client, job_id: str, model: str, form: ExportForm, stop: str | None = None
) -> EngineExport:
    """Export the model of a job in the background; an existing export is returned, a failed one starts over.

    Args:
        stop: what ends the answers of its training file; other programs then stop there.

    Raises:
        BadRequest: the model can't be exported; the message explains why and what to do.
    """
    export = _export(client.engine_call("POST", _PATH, {"model": model, "form": form, "stop": stop}))
    with store.session() as session:
        audit_log.note(session, f"exports {model} form", None, form)
    return export


@requires("editor")
@edits(job="job_id")
def remove(store: Store, actor: Actor, client: Client, job_id: str, export: EngineExport) -> None:
    """Cancel an export of a job's model, or delete its files."""
    client.engine_call("DELETE", f"{_PATH}/{quote(export.id, safe='')}")
    with store.session() as session:
        audit_log.note(session, f"exports {export.model} form", export.form, None)


@requires("viewer")
@reads(job="job_id")
def file(store: Store, actor: Actor, client: Client, job_id: str, export_id: str, name: str) -> bytes:
    """The content of one file; for small files only, since it is read into memory."""
    return client.engine_file(f"{_PATH}/{quote(export_id, safe='')}/files/{quote(name, safe='')}")


def _export(raw: Mapping[str, Any]) -> EngineExport:
    error = raw.get("error") or {}
    text = error.get("message")
    total = int(raw.get("total") or 0)
    return EngineExport(
        id=str(raw["id"]),
        model=str(raw.get("model") or ""),
        form=next((one for one in EXPORT_FORMS if one == raw.get("form")), "gguf-adapter"),
        state=next((one for one in _STATES if one == raw.get("state")), "failed"),
        share=min(1.0, int(raw.get("done") or 0) / total) if total else 0.0,
        error=restored(text, {"fabula": error.get("fabula")}) if isinstance(text, str) else "",
        path=str(raw.get("path") or ""),
        files=tuple((str(one["name"]), int(one["bytes"])) for one in raw.get("files") or ()),
        proof=tuple(
            ParityFigure(
                str(one["program"]),
                int(one["prompts"]),
                float(one["mean_kl"]),
                float(one["max_kl"]),
                float(one["same_top"]),
            )
            for one in raw.get("proof") or ()
        ),
    )
