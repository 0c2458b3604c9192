"""One export: what was asked for, its state, files and proof. Stored as `record.json` in the export's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from core.engine import json_file
from core.engine.exports.forms import Form
from core.message import from_json, to_json

State = Literal["waiting", "writing", "checking", "ready", "failed"]
ACTIVE: frozenset[State] = frozenset({"waiting", "writing", "checking"})
FILE = "record.json"
FILES, PARTIAL, ADAPTER = "files", "part", "adapter.gguf"
"""In an export's folder: the finished files, those being written, and the copy of the adapter."""


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What to export. Nothing in it changes while the export is written.

    Attributes:
        model, base: ids of the tuned model and its base.
        base_gguf, base_folder, weights_dir: as in `core.engine.training.job_folder.JobSpec`; "" for no folder.
        origin: what PEFT calls the base: a name on a hub, or a path.
        licence: the base's licence; "" if unknown.
        training_file: path of the training file, whose examples are the prompts of the proof; "" if it was deleted.
        format: the requests that the model answers.
        stop: what ends the answers of the training file, for a model that continues a text; "" if unknown or none.
        facts: (name, value) pairs about the training, for the model card.
    """

    model: str
    form: Form
    base: str
    base_gguf: str
    base_folder: str
    weights_dir: str
    origin: str
    licence: str
    training_file: str
    format: str
    facts: tuple[tuple[str, str], ...] = ()
    stop: str = ""


@dataclass(frozen=True, slots=True)
class ProofFigure:
    """How far an exported model is from the trained one, in one program.

    Attributes:
        program: `llama.cpp`, `transformers` or `peft`.
        prompts: number of compared next tokens.
        mean_kl, max_kl: KL divergence of the exported model's next-token probabilities from the trainer's, in nats.
        same_top: share of prompts for which both have the same most likely token.
    """

    program: str
    prompts: int
    mean_kl: float
    max_kl: float
    same_top: float


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """An export and its state.

    Attributes:
        created: Unix seconds.
        estimate: expected bytes.
        done: progress, 0 to 1000.
        error_code, error: why it failed, for the user; "" if it has not failed.
        files: (name, bytes) of each finished file.
        proof: one figure per program.
    """

    id: str
    spec: ExportSpec
    created: int
    estimate: int
    state: State = "waiting"
    done: int = 0
    error_code: str = ""
    error: str = ""
    files: tuple[tuple[str, int], ...] = ()
    proof: tuple[ProofFigure, ...] = field(default=())

    @property
    def size(self) -> int:
        """Total bytes of the finished files."""
        return sum(size for _, size in self.files)


def read(folder: Path) -> ExportRecord | None:
    """Read the record in `folder`; None if there is none or it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        values = {one.name: raw[one.name] for one in fields(ExportRecord) if one.name in raw}
        spec = {one.name: raw["spec"][one.name] for one in fields(ExportSpec) if one.name in raw["spec"]}
        spec["facts"] = tuple((str(name), str(value)) for name, value in spec.get("facts", ()))
        values["spec"] = ExportSpec(**spec)
        values["error"] = from_json(values.get("error", "")) or ""
        values["files"] = tuple((str(name), int(size)) for name, size in values.get("files", ()))
        values["proof"] = tuple(ProofFigure(**one) for one in values.get("proof", ()))
        return ExportRecord(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(folder: Path, record: ExportRecord) -> None:
    """Replace the record in `folder`, durably."""
    values = asdict(record) | {"error": to_json(record.error)}
    json_file.write(folder / FILE, values)
