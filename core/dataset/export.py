"""Data sets leave the studio: CSV, JSONL for training, Parquet; each counted in tokens before anyone pays for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from core.cost import tokens
from core.cost.tokens import TokenCount
from core.dataset import datasets, jsonl, versions
from core.dataset.analysis import Example
from core.dataset.datasets import Split
from core.dataset.grid_store import CHUNK
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import FabulaError, NotFound
from core.message import msg

T = TypeVar("T")

_COUNTED_EXACTLY = 200  # pairs asked of a tokenizer that is a request away: a fraction of a second
# OpenAI cookbook, "How to count tokens with tiktoken" (num_tokens_from_messages): 3 tokens around each message, one
# for its role, 3 that begin the answer. A user's and an assistant's turn make 11.
_CHAT_TOKENS = 11
_SYSTEM_TOKENS = 4
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("values", pa.map_(pa.string(), pa.string())),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken away or trained on: a data set as it is now, or one of its versions.

    `examples` of a data set without a version are its finished rows but for those held out or kept for validation.
    """

    store: Store
    dataset_id: str
    version_id: str | None = None

    def examples(self, part: Split = "train") -> Iterable[Example]:
        """Its examples, to be gone through as often as needed. Without a version there is no part but `train`."""
        if self.version_id is not None:
            return versions.examples(self.store, self.version_id, part)
        return datasets.TrainingExamples(self.store, self.dataset_id) if part == "train" else ()


@dataclass(frozen=True, slots=True)
class ProgressExamples:
    """Examples that tell `seen` about each one that is gone through."""

    examples: Iterable[Example]
    seen: Callable[[], None]

    def __iter__(self) -> Iterator[Example]:
        for example in self.examples:
            self.seen()
            yield example


def plan(
    selection: Selection,
    file_format: jsonl.Format = "completion",
    *,
    separator: str | None = None,
    stop: str | None = None,
    system: str | None = None,
    seen: Callable[[], None] | None = None,
) -> jsonl.Plan:
    """How the examples to train on are written (see `jsonl.plan`), with marks that are free in those of validation too.

    `system` begins the conversations of a chat file; None: what the data set has for that (`datasets.chat_system`).
    `seen` is called for each example that is looked at.

    Raises:
        BadTrainingFile: no example can be used, or a given mark occurs inside the texts.
        NotFound: the data set is not there (any more).
    """
    learned, kept_back = selection.examples(), selection.examples("validation")
    if seen is not None:
        learned = ProgressExamples(learned, seen)
    if selection.version_id is not None and file_format == "completion":
        whole = jsonl.plan(chain(learned, kept_back), separator=separator, stop=stop)
        separator, stop = whole.separator, whole.stop
    if file_format == "chat" and system is None:
        system = datasets.chat_system(selection.store, selection.dataset_id)
    return jsonl.plan(learned, file_format, separator=separator, stop=stop, system=system or "")


def jsonl_lines(selection: Selection, made: jsonl.Plan, part: Split = "train") -> Iterator[str]:
    """The file of one part, line by line, each with its end; written as `plan` says.

    Raises:
        BadTrainingFile: the rows have changed since the plan was made.
    """
    return (f"{line}\n" for line in made.lines(selection.examples(part)))


def count_tokens(
    made: jsonl.Plan,
    examples: Iterable[Example],
    model: str,
    ask: Callable[[str], int] | None = None,
    most: int | None = None,
) -> TokenCount:
    """Tokens of the examples as `model` reads them in training: marks, spaces and, for chat, roles included.

    Args:
        made: how they are written.
        examples: those that it was made for.
        model: the base model; its vocabulary counts where it is known (see `core.cost.tokens`).
        ask: the model's own tokenizer, a request away: 200 examples from all over the file are counted by it, and the
            others in proportion; exact for up to 200. When it fails, the nearest known vocabulary has to do.
        most: how many of them `ask` counts; 200 by default.
    """
    asked_for = _COUNTED_EXACTLY if most is None else most
    step = max(1, made.findings.kept // asked_for)
    added = _CHAT_TOKENS if made.file_format == "chat" else 0
    if made.system:
        added += _SYSTEM_TOKENS + tokens.count([made.system], model).tokens
    total = number = 0
    exact, sampled = True, list[str]()
    for pairs in _batched(made.pairs(examples), CHUNK):
        texts = ["".join(pair) for pair in pairs]
        counted = tokens.count(texts, model)
        total, exact = total + counted.tokens, counted.exact
        if ask is not None:
            sampled += texts[-number % step :: step]
        number += len(texts)
    unanswered = False
    if ask is not None and sampled:  # afterwards: rows are read in a transaction, which must not wait for a network
        nearest = tokens.count(sampled, model).tokens
        try:
            own = sum(map(ask, sampled))
        except FabulaError:
            own, unanswered = 0, True
        if own and nearest:
            total, exact = round(total * own / nearest), step == 1
    return TokenCount(total + number * added, exact, unanswered)


def write_parquet(store: Store, dataset_id: str, path: Path) -> int:
    """All finished rows as Parquet (key, values, prompt, completion, split) into `path`; how many. In bounded memory.

    Raises:
        NotFound: the data set is not there (any more).
    """
    count = 0
    with store.reading() as session, pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        query = select(Row.key, Row.column_values, Row.text, Row.split)
        query = query.where(Row.dataset_id == dataset_id, Row.state == "done").order_by(Row.position, Row.id)
        for rows in _batched(session.execute(query.execution_options(yield_per=CHUNK)), CHUNK):
            records = [_record(dataset, *row) for row in rows]
            writer.write_batch(pa.RecordBatch.from_pylist(records, _SCHEMA))
            count += len(records)
    return count


def _record(dataset: Dataset, key: str, values: dict[str, Any], text: str | None, split: str | None) -> dict[str, Any]:
    return {
        "key": key,
        "values": [(str(name), str(value)) for name, value in values.items()],
        "prompt": datasets.prompt_of(dataset, values),
        "completion": text or "",
        "split": split,
    }


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    waiting = iter(items)
    while some := tuple(islice(waiting, size)):
        yield some
