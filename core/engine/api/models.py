"""The engine's models: base models, the packaged storytellers, tuned models and their checkpoints, and aliases."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from core import packaged_models
from core.engine.api.errors import ApiError, unknown_model
from core.engine.bases import description, machine
from core.engine.bases.library import BaseLibrary
from core.engine.bases.record import BaseRecord
from core.engine.formats import base_config, weights
from core.engine.formats.gguf_file import model_card
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import CONTEXT, context_limit
from core.engine.serving import chat
from core.engine.serving.llama import BaseModel
from core.engine.store import Alias, EngineStore, Format, TunedModel
from core.engine.training_options import DEFAULTS, base_learning_rate, lora_rank
from core.message import msg

NO_ALIASES_HEADER = "fabula-no-aliases"
"""Request header of a client that asks for models by their own id only."""
no_aliases: ContextVar[bool] = ContextVar("fabula_no_aliases", default=False)
"""Whether the request that is being answered has this header."""

_ADAPTERS = Path(__file__).parents[3] / "data" / "storyteller"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be used in requests.

    Attributes:
        adapter: LoRA adapter on the base; None for the base model itself.
        created: Unix seconds.
        job, step: the job that produced the model and, for a checkpoint, its training step.
        alias_of: the model's own id, if it was found under an alias, which is then its `id`; None otherwise.
    """

    id: str
    base: str
    adapter: Path | None
    format: Format
    created: int
    job: str | None = None
    step: int | None = None
    alias_of: str | None = None

    @property
    def own_id(self) -> str:
        """The model's own id, also if it was found under an alias."""
        return self.alias_of or self.id


class ModelCatalogue:
    """All models. Base models are opened on first use; the packaged one is also assembled at that point.

    Attributes:
        context_limit: maximum tokens of a request or example, for models whose own context is at least that large.
        training_memory_bytes: see `machine.training_memory_bytes`.
    """

    def __init__(self, home: Path, environ: Mapping[str, str], store: EngineStore, library: BaseLibrary) -> None:
        """Raises ValueError if FABULA_ENGINE_MODELS or FABULA_ENGINE_CONTEXT is malformed."""
        self._home, self._environ, self._store, self._library = home, dict(environ), store, library
        self.context_limit = context_limit(environ)
        self.training_memory_bytes = machine.training_memory_bytes(environ)
        self._configured = weights.available(home, environ)
        self._bases: dict[str, BaseModel] = {}
        self._not_trainable: dict[str, str] = {}
        self._lock = threading.Lock()
        self._started = int(time.time())

    def base(self, name: str) -> BaseModel:
        """Open a base model; the first call may take seconds.

        Raises:
            ApiError: 404 if the base model does not exist, 503 if its file cannot be used.
        """
        with self._lock:
            if name not in self._bases:
                try:
                    self._bases[name] = self._open(name)
                except (ValueError, KeyError, ImportError, OSError) as exc:
                    message = msg("The base model {name} cannot be used: {error}", name=name, error=exc)
                    raise ApiError(503, message, type="server_error", code="engine_unavailable") from exc
            return self._bases[name]

    def _open(self, name: str) -> BaseModel:
        if name in self._configured:
            path = weights.ensure_gguf(name, self._home, self._environ)
            return BaseModel(name, path, model_card(path), limit=self.context_limit)
        added = self._library.get(name)
        if added is None or added.state != "ready":
            raise unknown_model(name)
        path = Path(added.gguf)
        folder = Path(added.folder) if added.folder else None
        return BaseModel(name, path, model_card(path), folder, self.context_limit)

    def base_names(self) -> frozenset[str]:
        """Names that a new base cannot have, because models from outside the library use them."""
        aliases = (alias.id for alias in self._store.select(Alias, "1"))
        return frozenset({*self._configured, *packaged_models.WRITERS, *aliases})

    def converted(self, added: BaseRecord) -> list[Path]:
        """The folders that are written from an added GGUF file when they are needed, unless another base has that file
        too.
        """
        file = Path(added.gguf)
        others = [
            *self._configured.values(),
            *(Path(one.gguf) for one in self._library.records() if one.id != added.id),
        ]
        if not file.is_file() or any(one.is_file() and one.samefile(file) for one in others):
            return []
        return [weights.cache_dir(file, self._home), weights.vllm_dir(file, self._home)]

    def forget(self, name: str) -> None:
        """Close a base model that was removed from the library."""
        with self._lock:
            self._bases.pop(name, None)
            self._not_trainable.pop(name, None)

    def not_trainable(self, base: BaseModel) -> str | None:
        """The reason why `base` cannot be trained, or None if it can. The file is read only once."""
        if base.name not in self._configured:
            added = self._library.get(base.name)
            return self.added_not_trainable(added) if added is not None else msg("it was removed")
        if base.name not in self._not_trainable:
            try:
                base_config.read(base.gguf)
                self._not_trainable[base.name] = machine.too_big_to_train(
                    description.shape_of(base.gguf, CONTEXT), self.training_memory_bytes
                )
            except (base_config.UntrainableModel, UnusableModel) as exc:
                self._not_trainable[base.name] = str(exc)
        return self._not_trainable[base.name] or None

    def added_not_trainable(self, added: BaseRecord) -> str | None:
        """The reason why a base of the library cannot be trained, or None if it can."""
        too_big = machine.too_big_to_train(added.shape(CONTEXT), self.training_memory_bytes) if added.layers else ""
        return added.not_trainable or too_big or None

    def weights_dir(self, base: BaseModel) -> Path:
        """The folder with `base`'s converted weights, which training reads."""
        return weights.cache_dir(base.gguf, self._home)

    def find(self, model_id: object) -> Model:
        """Return the model with this id, or alias unless `no_aliases`. Raises ApiError 404 model_not_found."""
        if isinstance(model_id, str):
            if (model := self.find_own(model_id)) is not None:
                return model
            if not no_aliases.get() and (alias := self._store.get(Alias, model_id)) is not None:
                if (model := self._behind(alias)) is not None:
                    return model
                raise _leads_nowhere(alias)
        raise unknown_model(model_id)

    def find_own(self, model_id: str) -> Model | None:
        """Return the model with this id, without regard to aliases; None if there is none."""
        if (untuned := self._untuned(model_id)) is not None:
            return untuned
        row = self._store.get(TunedModel, model_id)
        is_there = row is not None and (row.base in self._configured or self._added(row.base) is not None)
        return self._tuned(row) if row is not None and is_there else None

    def is_taken(self, model_id: str) -> bool:
        """Whether `model_id` is the name of a model, including base models that are not ready yet."""
        named = model_id in self._configured or model_id in packaged_models.WRITERS
        return named or self._library.get(model_id) is not None or self._store.get(TunedModel, model_id) is not None

    def _behind(self, alias: Alias) -> Model | None:
        """The model that an alias leads to; None if it no longer exists."""
        model = self.find_own(alias.model)
        return model and replace(model, id=alias.id, created=alias.created_at, alias_of=model.id)

    def listed(self) -> list[Model]:
        """List base models, storytellers, tuned models and aliases, each oldest first, without checkpoints."""
        rows = self._store.select(TunedModel, "step IS NULL")
        added = self._library.ready()
        names = dict.fromkeys((*self._configured, *added, *packaged_models.WRITERS))
        untuned = [model for name in names if (model := self._untuned(name, added.get(name))) is not None]
        tuned = [self._tuned(row) for row in rows if row.base in self._configured or row.base in added]
        named = {model.id for model in (*untuned, *tuned)}
        aliases = [self._behind(alias) for alias in self._store.select(Alias, "1") if alias.id not in named]
        return [*untuned, *tuned, *filter(None, aliases)]

    def newest_adapter(self, base: str) -> Path | None:
        """A base model's newest adapter, to be loaded at startup."""
        models = (model for model in self.listed() if model.alias_of is None)
        tuned = [model.adapter for model in models if model.base == base and model.adapter]
        return tuned[-1] if tuned else None

    def remove(self, model_id: str) -> None:
        """Delete a tuned model or a checkpoint. Raises ApiError 404, 403 for a packaged model, or 400 for an alias."""
        model = self.find(model_id)
        if model.alias_of is not None:
            message = msg(
                "'{alias}' is an alias of {model}, which was not deleted. Delete the model by its own id, or the alias "
                "with DELETE /fabula/v1/aliases/{alias}.",
                alias=model.id,
                model=model.alias_of,
            )
            raise ApiError(400, message, param="model", code="model_is_alias")
        if self._untuned(model.id) is not None:
            raise ApiError(
                403, msg("The model '{id}' ships with the engine and cannot be deleted.", id=model.id), param="model"
            )
        self._store.remove(TunedModel, model.id)
        if model.adapter is not None:
            model.adapter.unlink(missing_ok=True)

    def _added(self, name: str) -> BaseRecord | None:
        """Return the library's base model if it is ready for use. Reads only one file, because every request looks up
        its model.
        """
        found = self._library.get(name)
        return found if found is not None and found.state == "ready" else None

    def _untuned(self, name: str, added: BaseRecord | None = None) -> Model | None:
        """Return a base model or a packaged storyteller; `added` is its record if that was already read."""
        if name in self._configured:
            path = self._configured[name]
            created = int(path.stat().st_mtime) if path.exists() else self._started
            return Model(name, name, None, self._format(name), created)
        if (added := added or self._added(name)) is not None:
            return Model(name, name, None, "both" if added.chat else "completion", added.created)
        adapter = _ADAPTERS / f"{name}.gguf"
        if name in packaged_models.WRITERS and self._is_packaged(packaged_models.BASE) and adapter.is_file():
            return Model(name, packaged_models.BASE, adapter, "chat", int(adapter.stat().st_mtime))
        return None

    def _format(self, name: str) -> Format:
        """The request formats that a configured base supports. Its file is read once; the packaged base supports both,
        so its file is not read.
        """
        if self._is_packaged(name):
            return "both"
        try:
            return "completion" if chat.format_for(self.base(name).card) is None else "both"
        except ApiError:
            return "both"  # the error is reported when the model is used

    def _tuned(self, row: TunedModel) -> Model:
        return Model(row.id, row.base, self._home / row.adapter, row.format, row.created_at, row.job_id, row.step)

    def not_trainable_reason(self, model: Model) -> str | None:
        """The reason why `model` cannot be fine-tuned, or None if it can. May open the base model, which can take
        seconds.

        The packaged base and the writers based on it are known to be trainable; checking would first have to assemble
        the file.
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
        """Context length in tokens, prompt and completion together; None if the base has not been opened yet."""
        base = self._bases.get(model.base)
        if base is not None:
            return base.context
        if (added := self._library.get(model.base)) is not None:
            return min(self.context_limit, added.context) or None
        return min(self.context_limit, packaged_models.CONTEXT) if self._is_packaged(model.base) else None

    def default_rank(self, base: str) -> int | None:
        """The rank of a new adapter on this base; None if the base has not been opened yet."""
        size = self._size(base)
        return None if size is None else lora_rank(size[0])

    def training_defaults(self, model: Model) -> dict[str, float | None] | None:
        """The defaults for a job that starts from `model`; None if its base has not been opened yet.

        A tuned model has no default rank and alpha: training continues with its adapter.
        """
        size = self._size(model.base)
        if size is None:
            return None
        parameters, width = size
        is_tuned = model.adapter is not None
        return {
            "lora_rank": None if is_tuned else lora_rank(parameters),
            "lora_alpha": None if is_tuned else DEFAULTS.lora_alpha,
            "learning_rate": base_learning_rate(width),
        }

    def _size(self, name: str) -> tuple[int, int] | None:
        """A base's parameter count and hidden size; None if it has not been opened yet."""
        if self._is_packaged(name):
            return packaged_models.PARAMETERS, packaged_models.WIDTH
        opened = self._bases.get(name)
        if opened is not None:
            return opened.card.parameters, opened.card.width
        added = None if name in self._configured else self._added(name)
        return None if added is None else (added.parameters, added.width)

    def _is_packaged(self, name: str) -> bool:
        """Whether `name` refers to the packaged base and not to another file with that name."""
        return name == packaged_models.BASE and self._configured[name] == weights.packaged_path(self._home)


def _leads_nowhere(alias: Alias) -> ApiError:
    message = msg(
        "The alias '{alias}' stands for {model}, which no longer exists. Choose another model for the alias.",
        alias=alias.id,
        model=alias.model,
    )
    return ApiError(404, message, param="model", code="model_not_found")
