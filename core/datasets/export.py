"""Export of data sets as JSONL for training, CSV and Parquet, with token counts for cost estimates."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Select, select

from core.datasets import conversation_rows, dataset_rows, datasets, jsonl, preferences, versions
from core.datasets.analysis import Example
from core.datasets.dataset_rows import prompt_of, require_dataset
from core.datasets.grid_store import CHUNK
from core.datasets.importers import preference_lines
from core.datasets.preferences import PreferenceFormat, PreferencePlan, PreferenceRow
from core.datasets.splitting import Split
from core.db.store import Store
from core.db.tables import Dataset, Row, VersionExample
from core.errors import FabulaError
from core.pricing import tokens
from core.pricing.tokens import TokenCount
from core.sanitize import safe_cell

T = TypeVar("T")
RowT = TypeVar("RowT", contravariant=True)

_MAX_SAMPLE = 200  # pairs counted by a remote tokenizer: a fraction of a second
CHAT_TOKENS = 11
"""Template tokens of a user and an assistant turn.

OpenAI cookbook, "How to count tokens with tiktoken" (num_tokens_from_messages): 3 tokens around each message, one for
its role, 3 for the start of the answer.
"""
_SYSTEM_TOKENS = 4
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("values", pa.map_(pa.string(), pa.string())),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("split", pa.string()),
        ("rejected", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export or train on: a data set as it is now, or one of its versions.

    Without a version, `examples` are the finished rows that are neither held out nor used for validation.
    """

    store: Store
    dataset_id: str
    version_id: str | None = None

    @property
    def conversations(self) -> bool:
        """Whether the rows are conversations (`conversation_rows`).

        Raises:
            NotFound: the data set does not exist.
        """
        with self.store.reading() as session:
            return conversation_rows.holds(require_dataset(session, self.dataset_id).columns)

    def examples(self, split: Split = "train") -> Iterable[Example]:
        """The examples of a split; can be iterated repeatedly. Without a version there is only `train`."""
        if self.version_id is not None:
            return versions.examples(self.store, self.version_id, split)
        return TrainingExamples(self.store, self.dataset_id) if split == "train" else ()

    def preferences(self, split: Split = "train") -> Iterable[PreferenceRow]:
        """The same rows as `examples`, with the answers that were not preferred."""
        return Preferences(self, split)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Rows of a selection for preference training. Each iteration streams them from the database again."""

    selection: Selection
    split: Split

    def __iter__(self) -> Iterator[PreferenceRow]:
        store, version_id = self.selection.store, self.selection.version_id
        with store.reading() as session:
            if version_id is not None:
                query = select(
                    VersionExample.prompt, VersionExample.completion, VersionExample.rejected,
                    VersionExample.column_values,
                ).where(VersionExample.version_id == version_id, VersionExample.split == self.split)  # fmt: skip
                ordered = query.order_by(VersionExample.position).execution_options(yield_per=CHUNK)
                for prompt, text, rejected, values in session.execute(ordered):
                    yield PreferenceRow(prompt, text, rejected, preference_lines.stored_in(values))
            elif self.split == "train":
                dataset = require_dataset(session, self.selection.dataset_id)
                rows = _finished_rows(dataset.id).where(Row.split.is_(None) | (Row.split == "train"))
                for values, text, _split, rejected in session.execute(rows.add_columns(Row.rejected)):
                    conversation = preference_lines.stored_in(values)
                    yield PreferenceRow(prompt_of(dataset, values), text or "", rejected, conversation)


@dataclass(frozen=True, slots=True)
class ProgressExamples(Iterable[T]):
    """Examples that report each one read to `on_example`."""

    examples: Iterable[T]
    on_example: Callable[[], None]

    def __iter__(self) -> Iterator[T]:
        for example in self.examples:
            self.on_example()
            yield example


def plan(
    selection: Selection,
    file_format: jsonl.Format = "completion",
    *,
    separator: str | None = None,
    stop: str | None = None,
    system: str | None = None,
    on_example: Callable[[], None] | None = None,
) -> jsonl.Plan:
    """How the training examples are written (see `jsonl.plan`).

    The marks do not occur in the validation examples either. `system` begins the conversations of a chat file; None
    means the data set's own system text (`datasets.system_message`). `on_example` is called for each example that is
    read. Conversations are written as chat, whichever format is asked for.

    Raises:
        BadTrainingFile: no example can be used, or a given mark occurs inside the texts.
        NotFound: the data set does not exist.
    """
    training, validation = selection.examples(), selection.examples("validation")
    conversations = selection.conversations
    if conversations:
        file_format, separator, stop = "chat", None, None
    if on_example is not None:
        training = ProgressExamples(training, on_example)
    if selection.version_id is not None and file_format == "completion":
        plan_for_all = jsonl.plan(chain(training, validation), separator=separator, stop=stop)
        separator, stop = plan_for_all.separator, plan_for_all.stop
    if file_format == "chat" and system is None:
        system = datasets.system_message(selection.store, selection.dataset_id)
    return jsonl.plan(training, file_format, separator=separator, stop=stop, system=system or "",
                      conversations=conversations)  # fmt: skip


def preference_plan(
    selection: Selection,
    file_format: PreferenceFormat,
    *,
    separator: str = "",
    stop: str = "",
    on_example: Callable[[], None] = lambda: None,
) -> PreferencePlan:
    """How the rows are written for preference training (see `preferences.plan`), training and validation together.

    Raises:
        BadTrainingFile: no row can be used.
        NotFound: the data set does not exist.
    """
    training = ProgressExamples(selection.preferences(), on_example)
    system = datasets.system_message(selection.store, selection.dataset_id) if file_format == "chat" else ""
    rows = chain(training, selection.preferences("validation"))
    return preferences.plan(rows, file_format, separator=separator, stop=stop, system=system)


def preference_lines_of(selection: Selection, plan: PreferencePlan, split: Split = "train") -> Iterator[str]:
    """Like `jsonl_lines`, for preference training."""
    return (f"{line}\n" for line in plan.lines(selection.preferences(split)))


def jsonl_lines(selection: Selection, plan: jsonl.Plan, split: Split = "train") -> Iterator[str]:
    """The file of one split, line by line, including line ends, written according to `plan`.

    Raises:
        BadTrainingFile: the rows have changed since the plan was made.
    """
    return (f"{line}\n" for line in plan.lines(selection.examples(split)))


class CountedPlan(Protocol[RowT]):
    """What is needed to count the tokens of a file."""

    @property
    def file_format(self) -> str:
        """`chat` or `completion`."""

    @property
    def system(self) -> str:
        """The system text of a chat file."""

    @property
    def kept(self) -> int:
        """Rows that are written."""

    def pairs(self, examples: Iterable[RowT], /) -> Iterator[Example]:
        """Prompts and completions as the model reads them."""


def count_tokens(
    plan: CountedPlan[T],
    examples: Iterable[T],
    model: str,
    ask: Callable[[str], int] | None = None,
    max_sample: int | None = None,
) -> TokenCount:
    """Number of tokens that `model` reads in training, including marks, spaces and, for chat, roles.

    Args:
        plan: how the examples are written.
        examples: the examples that the plan was made for.
        model: the base model; its vocabulary is used if known (see `core.pricing.tokens`).
        ask: counts tokens with the model's own tokenizer, in a remote call. It counts 200 examples spread over the
            file, and the total is scaled accordingly (exact for up to 200 examples). If it fails, the nearest known
            vocabulary is used.
        max_sample: how many examples `ask` counts; 200 by default.
    """
    sample_size = _MAX_SAMPLE if max_sample is None else max_sample
    step = max(1, plan.kept // sample_size)
    overhead = overhead_tokens(plan, model)
    total = pair_count = 0
    exact, sampled = True, list[str]()
    for pairs in _chunks(plan.pairs(examples), CHUNK):
        texts = ["".join(pair) for pair in pairs]
        counted = tokens.count(texts, model)
        total, exact = total + counted.tokens, counted.exact
        if ask is not None:
            sampled += texts[-pair_count % step :: step]
        pair_count += len(texts)
    failed = False
    if ask is not None and sampled:  # only after reading, because the read transaction must not wait for the network
        estimate = tokens.count(sampled, model).tokens
        try:
            actual = sum(map(ask, sampled))
        except FabulaError:
            actual, failed = 0, True
        if actual and estimate:
            total, exact = round(total * actual / estimate), step == 1
    return TokenCount(total + pair_count * overhead, exact, failed)


def overhead_tokens(plan: CountedPlan[Any], model: str) -> int:
    """Tokens that each example has in addition to its texts: the template and the system text of a chat file."""
    overhead = CHAT_TOKENS if plan.file_format == "chat" else 0
    return overhead + (_SYSTEM_TOKENS + tokens.count([plan.system], model).tokens if plan.system else 0)


def write_parquet(store: Store, dataset_id: str, path: Path) -> int:
    """Write all finished rows as Parquet (key, values, prompt, completion, split, rejected), in bounded memory.
    Returns their number.

    Raises:
        NotFound: the data set does not exist.
    """
    count = 0
    with store.reading() as session, pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        dataset = require_dataset(session, dataset_id)
        query = select(Row.key, Row.column_values, Row.text, Row.split, Row.rejected)
        query = query.where(Row.dataset_id == dataset_id, Row.state == "done").order_by(Row.position, Row.id)
        for rows in _chunks(session.execute(query.execution_options(yield_per=CHUNK)), CHUNK):
            records = [_record(dataset, *row) for row in rows]
            writer.write_batch(pa.RecordBatch.from_pylist(records, _SCHEMA))
            count += len(records)
    return count


def _record(
    dataset: Dataset, key: str, values: dict[str, Any], text: str | None, split: str | None, rejected: str | None
) -> dict[str, Any]:
    return {
        "key": key,
        "values": [(str(name), str(value)) for name, value in values.items()],
        "prompt": dataset_rows.prompt_of(dataset, values),
        "completion": text or "",
        "split": split,
        "rejected": rejected,
    }


def _chunks(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield chunk


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Finished rows as (prompt, completion) pairs for training. Each iteration streams them from the database again.

    Rows that are held out or used for validation are not included.

    Raises:
        NotFound: raised on iteration if the data set does not exist.
    """

    store: Store
    dataset_id: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self.store.reading() as session:
            dataset = require_dataset(session, self.dataset_id)
            training = _finished_rows(self.dataset_id).where(Row.split.is_(None) | (Row.split == "train"))
            for values, text, _split in session.execute(training):
                yield prompt_of(dataset, values), text or ""


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """`TrainingExamples` as a list, for data sets that fit in memory."""
    return list(TrainingExamples(store, dataset_id))


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV in the article's format: an unnamed index, the columns, then the story.

    Cells that a spreadsheet would interpret as a formula are prefixed with `'`. If rows have a split, a last column
    `split` is added, and if they have rejected answers, another one, `rejected`.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv` line by line, for files larger than memory."""
    with store.reading() as session:
        columns = list(require_dataset(session, dataset_id).columns)
        first = session.execute(_finished_rows(dataset_id).limit(1)).first()
        columns += [name for name in (first[0] if first else ()) if name not in columns]
        with_split = _finished_rows(dataset_id).where(Row.split.is_not(None)).limit(1)
        with_rejected = _finished_rows(dataset_id).where(Row.rejected.is_not(None)).limit(1)
        added = [
            name
            for name, found in (("split", with_split), ("rejected", with_rejected))
            if session.execute(found).first() and name not in columns
        ]
        yield csv_line(["", *columns, "story" if "story" not in columns else "completion", *added])
        rows = session.execute(_finished_rows(dataset_id).add_columns(Row.rejected))
        for index, (values, text, split, rejected) in enumerate(rows):
            cells = [str(values.get(c, "")) for c in columns]
            last = {"split": split or "", "rejected": rejected or ""}
            yield csv_line([str(index), *cells, text or "", *(last[name] for name in added)])


def csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, including the line end; formulas are escaped."""
    line = io.StringIO()
    # With "\r\n" as line end, the writer quotes both CR and LF in cells.
    csv.writer(line).writerow([safe_cell(c) for c in cells])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finished_rows(dataset_id: str) -> Select[tuple[dict[str, Any], str | None, str | None]]:
    query = select(Row.column_values, Row.text, Row.split).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)
