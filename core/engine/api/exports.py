"""/fabula/v1/exports: tuned models as files for other programs. Not part of OpenAI's API."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from core import packaged_models
from core.engine.api import serializers
from core.engine.api.errors import DISK_FULL, ApiError, bad_value
from core.engine.api.files import Files
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.bases import machine
from core.engine.bases.library import BaseLibrary
from core.engine.bases.record import BaseRecord
from core.engine.exports import forms
from core.engine.exports.library import ExportLibrary
from core.engine.exports.record import ExportRecord, ExportSpec
from core.engine.formats.unusable_model import UnusableModel
from core.engine.serving.llama import BaseModel
from core.engine.store import EngineStore, File, Job
from core.message import Message, msg, to_json

_FIELDS = frozenset({"model", "form", "stop"})
_HUB_NAME, _LICENCE = "google/gemma-3-270m", "gemma"  # of the packaged base
_OPTIONS = {"warmup": "Warm-up", "schedule": "Schedule", "early_stopping": "Early stopping after"}


@dataclass(frozen=True)
class Exports:
    """The endpoints for exports."""

    exports: ExportLibrary
    models: ModelCatalogue
    bases: BaseLibrary
    store: EngineStore
    files: Files

    def list(self, request: Request) -> Response:
        """GET /fabula/v1/exports?model=…: exports, oldest first, and the free space; with `model`, only those of the
        model, and the estimated size of each form.
        """
        name = request.query_params.get("model")
        records = [one for one in self.exports.records() if name is None or one.spec.model == name]
        sizes: dict[str, int] = {}
        if name is not None and (found := self.models.find_own(name)) is not None and found.adapter is not None:
            size = self._size(self.models.base(found.base), found.adapter)
            sizes = {form: size.of(form) for form in forms.FORMS}
        return JSONResponse(
            {
                "object": "list",
                "data": [self._json(one) for one in records],
                "estimated_bytes": sizes,
                "disk_free_bytes": machine.free_bytes(self.exports.root),
            }
        )

    def get(self, request: Request) -> Response:
        """GET /fabula/v1/exports/{id}."""
        return JSONResponse(self._json(self._find(request)))

    def file(self, request: Request) -> Response:
        """GET /fabula/v1/exports/{id}/files/{name}: one file, streamed; ranges work."""
        export = self._find(request)
        path = self.exports.file(export, request.path_params["name"])
        if path is None or not path.is_file():
            raise _unknown(f"{export.id}/{request.path_params['name']}")
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    async def create(self, request: Request) -> Response:
        """POST /fabula/v1/exports {"model", "form", "stop"}: export a tuned model or a checkpoint in the background.

        `stop` is optional: the text that ends every answer in the training data of a model that continues a text.

        The same request returns the existing export, and restarts it if it had failed. 400 for a model without an
        adapter, 404 for an unknown one, 507 if there is not enough space.
        """
        body = await json_body(request)
        reject_unknown(body, _FIELDS)
        asked = required(body, "form")
        form = next((one for one in forms.FORMS if one == asked), None)
        if form is None:
            raise bad_value("form", msg("'form' must be one of {forms}.", forms=", ".join(forms.FORMS)))
        stop = required(body, "stop") if body.get("stop") else ""
        added = await run_in_threadpool(self._add, required(body, "model"), form, stop)
        return JSONResponse(self._json(added))

    def delete(self, request: Request) -> Response:
        """DELETE /fabula/v1/exports/{id}: cancel an export, or delete its files. The model stays."""
        export = self._find(request)
        try:
            self.exports.remove(export.id)
        except KeyError as exc:  # removed in the meantime
            raise _unknown(export.id) from exc
        return JSONResponse({"id": export.id, "object": "fabula.export", "deleted": True})

    def _add(self, name: str, form: forms.Form, stop: str) -> ExportRecord:
        model = self.models.find(name)
        if model.adapter is None:
            raise ApiError(
                400, msg("{model} is a base model. Only tuned models can be exported.", model=model.id), param="model",
                code="not_tuned",
            )  # fmt: skip
        base = self.models.base(model.base)
        try:
            return self.exports.add(
                self._spec(model, base, form, stop), model.adapter, self._size(base, model.adapter).of(form)
            )
        except UnusableModel as exc:
            status = DISK_FULL if exc.code == "disk_full" else 400
            raise ApiError(status, exc.message, param="form", code=exc.code) from exc
        except FileNotFoundError as exc:
            message = msg("The adapter of {model} is missing in the engine's home.", model=model.id)
            raise ApiError(404, message, param="model", code="adapter_missing") from exc

    def _spec(self, model: Model, base: BaseModel, form: forms.Form, stop: str) -> ExportSpec:
        added = self.bases.get(model.base)
        job = self.store.get(Job, model.job) if model.job else None
        training = self.files.path(job.training_file) if job is not None else None
        return ExportSpec(
            model=model.own_id,
            form=form,
            base=base.name,
            base_gguf=str(base.gguf),
            base_folder="" if base.folder is None else str(base.folder),
            weights_dir=str(self.models.weights_dir(base)),
            origin=_origin(base, added),
            licence=added.licence if added is not None else _LICENCE if base.name == packaged_models.BASE else "",
            training_file=str(training) if training is not None and training.is_file() else "",
            format=model.format,
            facts=() if job is None else self._facts(model, job),
            stop=stop if model.format == "completion" else "",
        )

    def _facts(self, model: Model, job: Job) -> tuple[tuple[str, str], ...]:
        file = self.store.get(File, job.training_file)
        options = {name: value for name, value in json.loads(job.options).items() if value is not None}
        values = {
            "Training data": f"{file.filename if file else job.training_file}, {job.examples} examples",
            "Job": job.id,
            "Started from": job.model,
            "Steps": str(model.step if model.step is not None else job.step),
            "Epochs": str(job.n_epochs),
            "Batch size": str(job.batch_size),
            "Learning rate multiplier": f"{job.learning_rate_multiplier:g}",
            "Method": job.method,
            "Beta": "" if job.beta is None else f"{job.beta:g}",
            "Seed": str(job.seed),
            "Trained tokens": "" if job.trained_tokens is None else str(job.trained_tokens),
            **{title: str(options[name]) for name, title in _OPTIONS.items() if name in options},
        }
        return tuple((name, value) for name, value in values.items() if value)

    @staticmethod
    def _size(base: BaseModel, adapter: Path) -> forms.Size:
        bytes_ = adapter.stat().st_size if adapter.exists() else 0
        return forms.Size(base.card.parameters, base.card.vocab_size, bytes_)

    def _find(self, request: Request) -> ExportRecord:
        export_id = request.path_params["id"]
        found = self.exports.get(export_id)
        if found is None:
            raise _unknown(export_id)
        return found

    def _json(self, one: ExportRecord) -> serializers.Json:
        error = {"code": one.error_code, "message": str(one.error)} if one.error else None
        if error is not None and isinstance(one.error, Message):
            error["fabula"] = to_json(one.error)
        return {
            "id": one.id,
            "object": "fabula.export",
            "created": one.created,
            "model": one.spec.model,
            "form": one.spec.form,
            "state": one.state,
            "done": one.done,
            "total": 1000,
            "error": error,
            "estimated_bytes": one.estimate,
            "bytes": one.size,
            "files": [{"name": name, "bytes": size} for name, size in one.files],
            "proof": [asdict(figure) for figure in one.proof],
            "path": str(self.exports.root / one.id / "files") if one.state == "ready" else None,
        }


def _origin(base: BaseModel, added: BaseRecord | None) -> str:
    """What PEFT and the model card call the base."""
    if added is not None:
        return added.repo or added.path
    return _HUB_NAME if base.name == packaged_models.BASE else base.name


def _unknown(export_id: str) -> ApiError:
    return ApiError(404, msg("There is no export {id}.", id=export_id), param="id", code="export_not_found")
