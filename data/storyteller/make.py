"""Train the two packaged writers, one LoRA adapter per language, with our trainer and our sample stories.

    python -m data.storyteller.make [--language zh] [--language en] [--out FOLDER]

Each adapter is the result of three successive jobs, run on a real engine through the official SDK: two train on the
samples, which teach the language of stories, and one on composed stories (`core/tours/composed_stories.py`). Training
both adapters takes about three hours on two idle cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
from openai.types.fine_tuning.job_create_params import Method

from bench._engine import running_engine
from core import packaged_models
from core.datasets import presets
from core.tours import composed_stories


@dataclass(frozen=True)
class Writer:
    """One packaged adapter.

    Attributes:
        preset: the preset whose template is the instruction.
        samples: files in `data/samples` that the adapter is trained on.
        rounds: epochs of each job; every job continues from the previous job's model, with a learning rate that falls
            to zero. The last job trains on composed stories, the earlier ones on the samples.
    """

    model: str
    preset: str
    samples: tuple[str, ...]
    rounds: tuple[int, ...]


WRITERS = {
    "zh": Writer(
        packaged_models.writer("zh_CN"), "ultraman", ("ultraman_stories.csv", "ultraman_stories_more.csv"), (3, 2, 4)
    ),
    "en": Writer(packaged_models.writer("en"), "english_stories", ("everyday_heroes.csv",), (3, 2, 2)),
}


def instruction(values: Mapping[str, str], language: str = "zh") -> str:
    """A row's prompt: the template of the preset that the data set page starts with in this language, filled in."""
    return presets.get(WRITERS[language].preset).recipe.template.format(**values)


def method(n_epochs: int) -> Method:
    """The training method of every job: batches of 4, the engine's default learning rate."""
    return {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs, "batch_size": 4}}}


def sample_stories(language: str) -> list[dict[str, str]]:
    """Every story in the language's samples, with the values in its prompt."""
    rows: list[dict[str, str]] = []
    for name in WRITERS[language].samples:
        with (presets.DATA / "samples" / name).open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return rows


def training_lines(rows: Sequence[Mapping[str, str]], language: str) -> list[str]:
    """One conversation per story: the instruction as user message, the story as answer."""
    lines = []
    for row in rows:
        messages = [
            {"role": "user", "content": instruction(row, language)},
            {"role": "assistant", "content": row["story"].strip()},
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", action="append", choices=tuple(WRITERS), help="one of them; else both")
    parser.add_argument("--out", type=Path, default=presets.DATA / "storyteller")
    parser.add_argument("--home", type=Path, help="keep the engine's folder here, with a checkpoint of every epoch")
    parser.add_argument("--further", metavar="MODEL", help="only the last round, of a model that is in --home")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, running_engine(options.home or Path(temporary)) as engine:
        for language in options.language or WRITERS:
            writer = WRITERS[language]
            model = options.further or packaged_models.BASE
            last = len(writer.rounds) - 1
            for number, n_epochs in enumerate(writer.rounds):
                if number == last or not options.further:
                    rows = composed_stories.stories(language) if number == last else sample_stories(language)
                    lines = training_lines(rows, language)
                    model = train(engine.client, writer.model, model, lines, n_epochs)
            made = (options.home or Path(temporary)) / "adapters" / f"{model.rpartition(':')[2]}.gguf"
            out = options.out / f"{writer.model}.gguf"
            shutil.copyfile(made, out)
            print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", flush=True)


def train(client: openai.OpenAI, suffix: str, model: str, lines: Sequence[str], n_epochs: int) -> str:
    """Train one round: continue from `model` on these JSON lines, and return the new model's id."""
    upload = client.files.create(file=("stories.jsonl", "".join(lines).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        training_file=upload.id,
        model=model,
        suffix=suffix,
        seed=1,
        method=method(n_epochs),
    )
    return wait_for(client, job.id)


def wait_for(client: openai.OpenAI, job_id: str) -> str:
    """Print a job's events until it has a model; return the model's id."""
    seen: set[str] = set()
    while True:
        time.sleep(5)
        for event in reversed(client.fine_tuning.jobs.list_events(job_id, limit=20).data):
            if event.id not in seen:
                seen.add(event.id)
                print(event.message, flush=True)
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("failed", "cancelled"):
            raise SystemExit(f"the job {job.status}: {job.error}")
        if job.fine_tuned_model:
            return job.fine_tuned_model


if __name__ == "__main__":
    main()
