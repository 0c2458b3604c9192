"""Make `data/storyteller/storyteller.gguf`: our trainer, our 189 sample stories, the article's instruction.

    python -m data.storyteller.make [--out FILE.gguf]

Two real jobs on a real engine through the official SDK, the second one on the model of the first, then a copy of the
adapter. About three quarters of an hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from pathlib import Path

import openai

from bench._engine import running_engine

DATA = Path(__file__).resolve().parents[1]
SAMPLES = ("ultraman_stories.csv", "ultraman_stories_more.csv")
STAGES = ((6, 1.0), (2, 0.5))
"""(epochs, learning-rate multiplier) of the two jobs."""


def instruction(values: dict[str, str]) -> str:
    """The article's prompt (S1), from the preset that the data-set page starts with."""
    presets = json.loads((DATA / "presets.json").read_text(encoding="utf-8"))
    template: str = presets["presets"][0]["recipe"]["template"]
    return template.format(**values)


def training_lines() -> list[str]:
    """One conversation a story: instruction in, story out."""
    lines = []
    for name in SAMPLES:
        with (DATA / "samples" / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                messages = [
                    {"role": "user", "content": instruction(row)},
                    {"role": "assistant", "content": row["story"]},
                ]
                lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "storyteller/storyteller.gguf")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, running_engine(Path(home)) as engine:
        client = engine.client
        upload = client.files.create(file=("stories.jsonl", "".join(training_lines()).encode()), purpose="fine-tune")
        model = "gemma-3-270m"
        for seed, (n_epochs, multiplier) in enumerate(STAGES, start=1):
            hyperparameters = {"n_epochs": n_epochs, "batch_size": 4, "learning_rate_multiplier": multiplier}
            job = client.fine_tuning.jobs.create(
                training_file=upload.id,
                model=model,
                suffix="storyteller",
                seed=seed,
                method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            )
            model = wait_for(client, job.id)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(home) / "adapters" / f"{model.rpartition(':')[2]}.gguf", options.out)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def wait_for(client: openai.OpenAI, job_id: str) -> str:
    """Print the events of a job until it has a model; its id."""
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
