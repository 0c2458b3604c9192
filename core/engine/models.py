"""Which models there are: bases, the packaged storytellers, tuned models and their checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import packaged_models
from core.engine import base_config, weights
from core.engine.errors import ApiError, unknown_model
from core.engine.gguf_file import model_card
from core.engine.llama import CONTEXT, BaseModel
from core.engine.store import EngineStore, Format, TunedModel
from core.message import msg

_ADAPTERS = Path(__file__).parents[2] / "data" / "storyteller"


@dataclass(frozen=True, slots=True)
class Model:
    """Something that can be asked for by `model`.

    Attributes:
        adapter: LoRA on top of the base; None for the base itself.
        created: unix seconds.
        job, step: the job that made it, and the step if it is a checkpoint.
    """

    id: str
    base: str
    adapter: Path | None
    format: Format
    created: int
    job: str | None = None
    step: int | None = None


class ModelCatalogue:
    """The catalogue. Bases are opened (and the packaged one is assembled) on first use."""

    def __init__(self, home: Path, environ: Mapping[str, str], store: EngineStore) -> None:
        """Raises ValueError when FABULA_ENGINE_MODELS is wrong."""
        self._home, self._environ, self._store = home, dict(environ), store
        self._paths = weights.available(home, environ)
        self._bases: dict[str, BaseModel] = {}
        self._refusals: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._started = int(time.time())

    def base(self, name: str) -> BaseModel:
        """The opened base model; may take seconds the first time.

        Raises:
            ApiError: 404 when there is no such base (any more), 503 when its file cannot be used.
        """
        with self._lock:
            if name not in self._paths:
                raise unknown_model(name)
            if name not in self._bases:
                try:
                    path = weights.ensure_gguf(name, self._home, self._environ)
                    self._bases[name] = BaseModel(name, path, model_card(path))
                except (ValueError, KeyError, ImportError) as exc:
                    message = msg("The base model {name} cannot be used: {exc}", name=name, exc=exc)
                    raise ApiError(503, message, type="server_error", code="engine_unavailable") from exc
            return self._bases[name]

    def not_trainable(self, base: BaseModel) -> str | None:
        """Why `base` can be served, not trained; None: it can be trained. The file is read once."""
        if base.name not in self._refusals:
            try:
                base_config.read(base.gguf)
                self._refusals[base.name] = None
            except base_config.UntrainableModel as exc:
                self._refusals[base.name] = str(exc)
        return self._refusals[base.name]

    def weights_dir(self, base: BaseModel) -> Path:
        """Where the trainer keeps the converted weights of `base`."""
        return weights.cache_dir(base.gguf, self._home)

    def find(self, model_id: object) -> Model:
        """The model of that id. Raises ApiError 404 model_not_found."""
        found = next((model for model in self._shipped() if model.id == model_id), None)
        if found is None and isinstance(model_id, str):
            row = self._store.get(TunedModel, model_id)
            found = self._tuned(row) if row is not None and row.base in self._paths else None
        if found is None:
            raise unknown_model(model_id)
        return found

    def listed(self) -> list[Model]:
        """Bases, the storytellers, then tuned models, oldest first. Checkpoints are found by id, not listed."""
        rows = self._store.select(TunedModel, "step IS NULL")
        return [*self._shipped(), *(self._tuned(row) for row in rows if row.base in self._paths)]

    def newest_adapter(self, base: str) -> Path | None:
        """The adapter worth loading at the start."""
        tuned = [model.adapter for model in self.listed() if model.base == base and model.adapter]
        return tuned[-1] if tuned else None

    def remove(self, model_id: str) -> None:
        """Delete a tuned model or a checkpoint. Raises ApiError 404, or 403 for one that ships with the engine."""
        model = self.find(model_id)
        if any(shipped.id == model.id for shipped in self._shipped()):
            raise ApiError(
                403, msg("The model '{id}' ships with the engine and cannot be deleted.", id=model.id), param="model"
            )
        self._store.remove(TunedModel, model.id)
        if model.adapter is not None:
            model.adapter.unlink(missing_ok=True)

    def _shipped(self) -> list[Model]:
        models = [
            Model(name, name, None, "both", int(path.stat().st_mtime) if path.exists() else self._started)
            for name, path in self._paths.items()
        ]
        for name in packaged_models.WRITERS if self._is_packaged(packaged_models.BASE) else ():
            adapter = _ADAPTERS / f"{name}.gguf"
            if adapter.is_file():
                models.append(Model(name, packaged_models.BASE, adapter, "chat", int(adapter.stat().st_mtime)))
        return models

    def _tuned(self, row: TunedModel) -> Model:
        return Model(row.id, row.base, self._home / row.adapter, row.format, row.created_at, row.job_id, row.step)

    def refusal(self, model: Model) -> str | None:
        """Why no job can start from `model`; None: one can. It may open the base, which takes seconds the first time.

        The packaged base is known: to read it would assemble it first. One of the packaged writers can be trained too.
        """
        if self._is_packaged(model.base):
            return None
        try:
            return self.not_trainable(self.base(model.base))
        except ApiError as exc:
            return str(exc)
        except OSError as exc:
            return msg("its file cannot be read: {reason}", reason=exc.strerror)

    def context(self, model: Model) -> int | None:
        """Most tokens of a request, prompt and answer together; None: the base was not opened yet."""
        base = self._bases.get(model.base)
        if base is None:
            return CONTEXT if self._is_packaged(model.base) else None
        return base.context

    def _is_packaged(self, name: str) -> bool:
        """Whether it is the packaged base, not another file of that name."""
        return name == packaged_models.BASE and self._paths[name] == weights.packaged_path(self._home)
