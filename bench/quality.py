"""Measures the time and memory used by the quality report on 100,000 rows: stories composed from the samples'
sentences.

    python -m bench.quality [--rows 100000]

The rows are written to an SQLite ledger, as a run would do, and read back. In every 100 rows, one is a copy of an
earlier row and one a copy with a few changes, so the expected findings are known. The report runs in its own process.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import random
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from bench import _smoke
from core.datasets.quality import quality_store
from core.db.store import Store
from core.db.tables import Dataset, Row, utcnow
from core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
_SEED = 7
_SENTENCES = 12  # sentences per story, about 300 characters
_CHUNK = 2_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    options = _smoke.parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"FABULA_HOME": folder})
        spawned = multiprocessing.get_context("spawn")
        for work, argument in ((_fill, options.rows), (_measure, options.rows)):
            process = spawned.Process(target=work, args=(settings, argument))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


def _fill(settings: Settings, rows: int) -> None:
    store = Store.open(settings)
    started = time.perf_counter()
    with store.session() as session:
        session.add(Dataset(id="bench", name="bench", source="upload", columns=["kind"], created_by="bench"))
    made = _stories(rows)
    for start in range(0, rows, _CHUNK):
        part = [_row(start + i, next(made)) for i in range(min(_CHUNK, rows - start))]
        with store.session() as session:
            session.execute(insert(Row.__table__), part)  # type: ignore[arg-type]  # a Table, typed as FromClause
    print(f"{rows:,} rows made in {time.perf_counter() - started:.1f} s", flush=True)


def _stories(rows: int) -> Iterator[str]:
    random.seed(_SEED)
    with (ROOT / "data/samples/ultraman_stories.csv").open(encoding="utf-8", newline="") as file:
        text = "".join(line["story"] for line in csv.DictReader(file))
    characters = [char for char in text if char.isalpha()]
    words = ["".join(random.choices(characters, k=random.randint(2, 4))) for _ in range(20_000)]
    sentences = [s for s in re.split(r"(?<=[。！？])", text) if 10 < len(s) < 40]
    kept: list[str] = []
    for number in range(rows):
        if number % 100 == 98:
            yield random.choice(kept)
        elif number % 100 == 99:
            changed = list(random.choice(kept))
            for place in random.sample(range(len(changed)), 3):
                changed[place] = "某"
            yield "".join(changed)
        else:
            own = ("".join(random.choices(words, k=6)) + "。" for _ in range(_SENTENCES - 2))
            story = "".join([*random.choices(sentences, k=2), *own])
            kept = [*kept[-200:], story]
            yield story


def _row(number: int, text: str) -> dict[str, Any]:
    return {
        "dataset_id": "bench",
        "key": str(number),
        "position": number,
        "repeat": 0,
        "column_values": {"kind": str(number % 150)},
        "prompt": "写一个故事",
        "state": "done",
        "text": text,
        "updated_at": utcnow(),
    }


def _measure(settings: Settings, rows: int) -> None:
    store = Store(settings.database_url)
    before = _peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    report = quality_store.dataset_report(store, "bench")
    seconds = time.perf_counter() - started
    for finding in report.findings:
        print(f"{finding.kind:10} {len(finding.rows):8,}")
    print(f"{rows:,} rows in {seconds:.1f} s ({time.process_time() - cpu:.1f} s of a processor)")
    print(f"memory before {before:.0f} MB, at its peak {_peak_mb():.0f} MB")
    name = "100k" if rows == 100_000 else str(rows)
    print(json.dumps({f"seconds_{name}": round(seconds, 1), f"peak_mb_{name}": round(_peak_mb())}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
