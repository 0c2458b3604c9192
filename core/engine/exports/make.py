"""`python -m core.engine.exports.make FOLDER ENGINE_PID THREADS` writes and checks one export.

The process writes its progress to the folder's record, which the engine reads. Files are written to `part/`, which
becomes `files/` once they are complete and the proof has passed; an interrupted export starts over. The process exits
when the engine exits.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from core.engine import child_processes
from core.engine.api.errors import is_disk_full
from core.engine.bases import llama_probe, machine
from core.engine.chat_messages import ChatMessage
from core.engine.exports import merged, model_card, modelfile, peft_folder, proof, record, tokenizer
from core.engine.exports.forms import ADAPTER, MAX_KL, MERGED_GGUF, MODEL, QUANTISED
from core.engine.exports.record import ExportRecord, ProofFigure, State
from core.engine.finetune_format import Conversation, PromptCompletion
from core.engine.formats import gguf_file, weights
from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.gguf_file import Adapter
from core.engine.formats.unusable_model import UnusableModel
from core.engine.serving import chat
from core.engine.serving.llama import BaseModel
from core.engine.training.file_validation import as_example
from core.engine.training.trainer import device
from core.message import msg

CARD, MODELFILE = "README.md", "Modelfile"
_PROGRESS_S = 0.5  # how often progress is written
_WRITTEN, _REFERENCE = 500, 750  # progress in per mille, after writing and after the trainer's forward passes
_WHOLE = 1000


class Export:
    """The work on one export."""

    def __init__(self, folder: Path, threads: int) -> None:
        found = record.read(folder)
        if found is None:
            raise SystemExit(f"there is no record in {folder}")
        self.folder, self.record, self._threads, self._written_at = folder, found, threads, 0.0
        self.part = folder / record.PARTIAL

    def run(self) -> None:
        """Run all steps; afterwards the record is `ready` or `failed`."""
        try:
            self._steps()
        except UnusableModel as exc:
            self._fail(exc)
        except (FileNotFoundError, UntrainableModel) as exc:
            name = exc.filename if isinstance(exc, FileNotFoundError) else str(exc)
            self._fail(
                UnusableModel(
                    "base_missing",
                    msg("A file of the base model or the adapter is missing or was changed: {name}.", name=name),
                    msg("Add the base model again under its name, then export again."),
                )
            )
        except Exception as exc:
            if is_disk_full(exc):
                self._fail(_disk_full())
            elif device.is_out_of_memory(exc):
                self._fail(_no_memory())
            else:
                raise

    def _steps(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir()
        spec = self.record.spec
        machine.check_disk(self.record.estimate, self.folder)
        self._state("writing", 0)
        adapter = gguf_file.read_adapter(self.folder / record.ADAPTER)
        base = Path(spec.base_gguf)
        source = Path(spec.base_folder) if spec.base_folder else weights.convert(base, Path(spec.weights_dir), print)
        self._write(adapter, base, source)
        self._state("checking", _WRITTEN)
        served = BaseModel(spec.base, base, gguf_file.model_card(base), source)
        training_file = Path(spec.training_file) if spec.training_file else None
        model, tuned = self._served(base)
        with llama_probe.loaded(model, self._threads, tuned) as probe:
            asked = proof.prompts(training_file, served, probe.tokens)
            ours = proof.reference(source, adapter, asked, self._threads, self._between(_WRITTEN, _REFERENCE))
            figures = self._proof(probe, source, asked, ours)
        figures = [proof.rounded(one) for one in figures]
        quantised_base = not spec.base_folder and gguf_file.is_quantised(base)
        self._check(figures, quantised_base)
        line = None if training_file is None else proof.first_line(training_file)
        text = model_card.write(
            spec, served.card, figures, _example(served, line, spec.format), quantised_base=quantised_base,
            has_file=line is not None,
        )  # fmt: skip
        (self.part / CARD).write_text(text, encoding="utf-8")
        self._write_modelfile(served)
        self._publish(figures)

    def _write(self, adapter: Adapter, base: Path, source: Path) -> None:
        spec, progress = self.record.spec, self._between(0, _WRITTEN)
        if spec.form == "gguf-adapter":
            merged.hf_updates(adapter, source)  # refuses the adapter of another base
            shutil.copyfile(self.folder / record.ADAPTER, self.part / ADAPTER)
        elif spec.form == "peft":
            peft_folder.write(source, adapter, spec.origin, self.part)
        elif spec.form == "safetensors":
            merged.write_safetensors(source, adapter, self.part, progress)
            tokenizer.write(base, Path(spec.base_folder) if spec.base_folder else None, source, self.part)
        else:
            merged.write_gguf(base, adapter, spec.form, spec.model, self.part / MODEL, progress)

    def _served(self, base: Path) -> tuple[Path, Path | None]:
        """The model file, and the adapter, that llama.cpp loads for the proof."""
        if self.record.spec.form in MERGED_GGUF:
            return self.part / MODEL, None
        return base, (self.part / ADAPTER if self.record.spec.form == "gguf-adapter" else None)

    def _proof(
        self, probe: llama_probe.LlamaProbe, source: Path, asked: list[proof.Prompt], ours: proof.LogProbs
    ) -> list[ProofFigure]:
        progress = self._between(_REFERENCE, _WHOLE)
        if self.record.spec.form == "peft":
            return [proof.of_adapter_folder(source, self.part, asked, ours, progress)]
        if self.record.spec.form == "safetensors":
            tokenizer.check(self.part, probe)
            return [proof.of_merged_folder(self.part, asked, ours, progress)]
        return [proof.of_llama(probe, asked, ours, progress)]

    def _check(self, figures: list[ProofFigure], quantised_base: bool) -> None:
        """Reject an export that is not the trained model."""
        form = self.record.spec.form
        if form in QUANTISED or (form == "gguf-adapter" and quantised_base):
            return
        worst = max(figures, key=lambda one: one.max_kl)
        if not worst.max_kl <= MAX_KL:
            raise UnusableModel(
                "not_the_same_model",
                msg(
                    "In {program}, the exported model's probabilities differ from the trained model's: KL {kl}, at "
                    "most {limit} is allowed.",
                    program=worst.program, kl=f"{worst.max_kl:.2g}", limit=MAX_KL,
                ),
                msg("The files were deleted. Please report this, with the base model's name."),
            )  # fmt: skip

    def _write_modelfile(self, served: BaseModel) -> None:
        spec = self.record.spec
        if spec.form == "gguf-adapter":
            comment = f"# The path of {spec.base}'s GGUF file, {Path(spec.base_gguf).name}:"
            begin = f"{comment}\nFROM ./base.gguf\nADAPTER ./{ADAPTER}\n"
        elif spec.form in MERGED_GGUF:
            begin = f"FROM ./{MODEL}\n"
        else:
            return
        chat_format = None if spec.format == "completion" else chat.format_for(served.card)
        texts = None if chat_format is None else modelfile.turn_texts(chat_format)
        if texts is not None and chat_format is not None:
            text = modelfile.of_chat(begin, texts, chat_format.stop)
        else:  # without a template, Ollama uses the one in the GGUF file
            text = modelfile.of_completion(begin, spec.stop) if spec.format == "completion" else begin
        (self.part / MODELFILE).write_text(text, encoding="utf-8")

    def _publish(self, figures: list[ProofFigure]) -> None:
        """Give the finished files their final name."""
        for path in self.part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        done = self.folder / record.FILES
        shutil.rmtree(done, ignore_errors=True)
        os.replace(self.part, done)
        files = tuple(sorted((path.name, path.stat().st_size) for path in done.iterdir()))
        self._save(replace(self.record, state="ready", done=_WHOLE, files=files, proof=tuple(figures)))

    def _fail(self, error: UnusableModel) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        self._save(replace(self.record, state="failed", error=error.message, error_code=error.code))

    def _state(self, state: State, done: int) -> None:
        self._save(replace(self.record, state=state, done=done))

    def _between(self, start: int, end: int) -> Callable[[float], None]:
        """Convert one step's progress to the whole export's; written to disk at most twice per second."""

        def update(share: float) -> None:
            self.record = replace(self.record, done=int(start + share * (end - start)))
            if time.monotonic() - self._written_at >= _PROGRESS_S:
                self._save(self.record)

        return update

    def _save(self, changed: ExportRecord) -> None:
        self.record, self._written_at = changed, time.monotonic()
        record.write(self.folder, changed)


def _example(base: BaseModel, line: PromptCompletion | Conversation | None, kind: str) -> str:
    """The prompt of an example, in the format that the model was trained on; without one, a prompt that is made up."""
    if line is not None:
        return as_example(line, base).segments[0][0]
    chat_format = None if kind == "completion" else chat.format_for(base.card)
    return "Once upon a time" if chat_format is None else chat_format.prompt([ChatMessage("user", "Tell me a story.")])


def _disk_full() -> UnusableModel:
    return UnusableModel(
        "disk_full",
        msg("The disk of the engine's home is full. Models and jobs are safe."),
        msg("Free some space or delete old exports, then export again."),
    )


def _no_memory() -> UnusableModel:
    return UnusableModel(
        "out_of_memory",
        msg("Memory ran out while the exported model was checked. Models and jobs are safe."),
        msg("Export again while no job is running."),
    )


def main(arguments: list[str]) -> None:
    """Write the export in the folder `arguments[0]` for the engine with the process id `arguments[1]`."""
    folder, engine_pid, threads = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    child_processes.exit_with(engine_pid)
    Export(folder, threads).run()


if __name__ == "__main__":
    main(sys.argv[1:])
