"""Reads rows once, block by block, and makes the report. Pure: no clock, no database.

What is kept of a row is a signature (512 bytes) and a few numbers, so 100,000 rows take memory for themselves only;
texts are let go block by block, but for a sample of 2,000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from statistics import median
from typing import Literal

import numpy as np

from core.cost import tokens
from core.dataset.quality import coverage, diversity, duplicates, lengths, texts, units
from core.dataset.quality.adherence import AdherenceCollector
from core.dataset.quality.report import Kind, QualityFinding, QualityReport, QualityRow, Share, ordered

_HEAD = 1_000  # rows looked at to see whether the completions are labels
_BLOCK = 256  # texts at a time: their arrays stay in the processor's cache
_LABELS_UP_TO = 40  # characters: a longer completion is a text
_ROWS_A_LABEL = 4  # rows that a label must have on average
_LOOPING_BELOW = (
    0.5  # distinct share of a text's runs of four: "seq-rep-4" above one half (S. Welleck and others, 2020)
)
_LOOPING_FROM = 40  # units; shorter texts repeat words by nature
_FEW = 0.05  # a language that fewer rows have is not meant: a data set in two languages has more of both
_USUAL = 0.8  # share of texts that end like a sentence, from which on one that does not is cut off

Task = Literal["texts", "labels"]
_SAMPLED_CHARACTERS = 5_000  # of one text in the sample
_NAMED_IN_FULL = 60  # characters of a value in a cell; a longer one is free text and stands as its hash
_CUT = frozenset({"length", "max_tokens"})
_REFUSED = frozenset({"refusal", "content_filter"})


def report(
    rows: Iterable[QualityRow],
    columns: Sequence[str],
    *,
    grid: Mapping[str, Sequence[str]] | None = None,
    repeats: int | None = None,
    model: str = "",
    progress: Callable[[int], None] | None = None,
) -> QualityReport:
    """The report on `rows`.

    Args:
        rows: in the order in which the first of equal rows is the one to keep; read once, never held.
        columns: that make the cells.
        grid, repeats: of the recipe; None: the values that occur make the grid.
        model: whose tokens are counted where a row brings no count.
        progress: is told after each block how many rows have been read; may raise to end it.
    """
    stream = iter(rows)
    head = list(islice(stream, _HEAD))
    measuring = _Measuring(columns, _task(head), model)
    read = 0
    for part in _blocks(chain(head, stream)):
        measuring.add(part)
        read += len(part)
        if progress is not None:
            progress(read)
    return measuring.result(grid, repeats)


class _Measuring:
    """What is known of the rows so far."""

    def __init__(self, columns: Sequence[str], task: Task, model: str) -> None:
        self.columns, self.task, self.model = tuple(columns), task, model
        self.ids: list[int] = []
        self.cells: list[tuple[int, tuple[str, ...]]] = []
        self.characters: list[int] = []
        self.tokens: list[int] = []
        self.exact_tokens = True
        self.signed: list[duplicates.Signatures] = []
        self.digests: list[int] = []
        self.unended: list[int] = []
        self.found: dict[Kind, list[int]] = {}
        self.shares: dict[str, dict[str, list[int]]] = {}
        self.said: dict[int, tuple[str, list[int]]] = {}  # prompt → its first label, and rows with another one
        self.adhering = [AdherenceCollector(column) for column in columns]
        self.sample, self.openings = diversity.HashSample(), diversity.OpeningCounter()
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one object for all rows of a cell

    def add(self, rows: Sequence[QualityRow]) -> None:
        """A block of rows."""
        for row in rows:
            self._share("endings", row.finish_reason or "", row.id)
            if row.finish_reason in _CUT and row.state == "done":
                self._find("cut", row.id)
        done = [row for row in rows if row.state == "done"]
        subjects = [units.normalize(self._subject(row)) for row in done]
        for row, subject in zip(done, subjects, strict=True):
            self._one(row, subject)
        if done:
            self._together(done, units.block(subjects))

    def _one(self, row: QualityRow, subject: str) -> None:
        """What a row's own text tells."""
        text = row.text.strip()
        self.ids.append(row.id)
        self.cells.append((row.id, self._cell(row.values)))
        self.characters.append(len(text))
        self.tokens.append(self._count(row, text))
        self.digests.append(_number(self._subject(row).strip()))
        if not text:
            self._find("empty", row.id)
            return
        said = units.normalize(text) if self.task == "labels" else subject
        if row.finish_reason in _REFUSED or texts.is_refusal(said):
            self._find("refusal", row.id)
        if texts.template_leftover(row.text, self.columns) is not None:
            self._find("leftover", row.id)
        if self.task == "labels":
            self._label(row, text)
            return
        if texts.echoes_prompt(subject, units.normalize(row.prompt)):
            self._find("echo", row.id)
        if not texts.ends_complete(text):
            self.unended.append(row.id)
        for stop in texts.stops_inside(text):
            self._share("stops", stop, row.id)
        for column in self.adhering:
            column.add(row.id, row.values.get(column.column, ""), subject)
        self.openings.add(row.id, text)
        self.sample.offer(row.id, subject[:_SAMPLED_CHARACTERS], row.values)

    def _label(self, row: QualityRow, label: str) -> None:
        self._share("labels", label, row.id)
        self.sample.offer(row.id, units.normalize(row.prompt)[:_SAMPLED_CHARACTERS], row.values)
        first, others = self.said.setdefault(_number(units.normalize(row.prompt)), (label, []))
        if label != first:
            others.append(row.id)

    def _together(self, rows: Sequence[QualityRow], block: units.Block) -> None:
        """What is measured for a whole block at once."""
        self.signed.append(duplicates.signatures(block))
        for row, letters in zip(rows, block.scripts[:, 1:].tolist(), strict=True):
            if name := texts.language(letters):
                self._share("languages", name, row.id)
        if self.task == "texts":
            share = units.distinct_share(*units.ngrams(block, 4), len(rows))
            for place in np.flatnonzero((share < _LOOPING_BELOW) & (block.counts >= _LOOPING_FROM)).tolist():
                self._find("looping", rows[place].id)

    def result(self, grid: Mapping[str, Sequence[str]] | None, repeats: int | None) -> QualityReport:
        """The report on all rows so far."""
        signed = np.concatenate(self.signed) if self.signed else np.zeros((0, duplicates.PERMUTATIONS), dtype=np.uint32)
        clusters = duplicates.clusters(self.ids, signed, np.asarray(self.digests, dtype=np.int64))
        covered = coverage.measure(self.cells, self.columns, grid, repeats)
        sampled = self.sample.texts()
        place = {row: index for index, row in enumerate(self.ids)}
        words = [text for _, text in sampled]
        spread = diversity.measure(words, covered.cells, place, signed, self.openings, units.block(words))
        adherence = () if self.task == "labels" else tuple(one.result(sampled) for one in self.adhering)
        characters = lengths.measure(self.ids, self.characters)
        languages = self._ranked("languages")
        findings = [QualityFinding(kind, tuple(rows)) for kind, rows in self.found.items()]
        findings += [QualityFinding("missing", one.missing, one.column) for one in adherence]
        findings += self._repeated(clusters)
        findings += [
            QualityFinding("conflict", tuple(row for _, others in self.said.values() for row in others)),
            QualityFinding("unended", self._unended()),
            QualityFinding("language", _odd_ones(languages, len(self.ids))),
        ]
        if self.task == "texts":
            findings += [QualityFinding("short", characters.short), QualityFinding("long", characters.long)]
        return QualityReport(
            total=len(self.ids),
            task=self.task,
            findings=ordered(findings),
            characters=characters,
            tokens=lengths.measure(self.ids, self.tokens),
            tokens_exact=self.exact_tokens,
            coverage=covered,
            clusters=clusters,
            diversity=spread,
            adherence=adherence,
            endings=self._ranked("endings"),
            languages=languages,
            stops=self._ranked("stops"),
            labels=self._ranked("labels"),
        )

    def _repeated(self, clusters: Sequence[duplicates.Cluster]) -> list[QualityFinding]:
        """All rows but the first of each cluster: those equal to an earlier one, and those that only look like one."""
        digest = dict(zip(self.ids, self.digests, strict=True))
        exact, near = list[int](), list[int]()
        for cluster in clusters:
            seen: set[int] = set()
            for number, row in enumerate(cluster.rows):
                if digest[row] in seen:
                    exact.append(row)
                elif number:
                    near.append(row)
                seen.add(digest[row])
        return [QualityFinding("exact", tuple(exact)), QualityFinding("near", tuple(near))]

    def _unended(self) -> tuple[int, ...]:
        texts_with_end = len(self.ids) - len(self.unended)
        return tuple(self.unended) if self.ids and texts_with_end >= _USUAL * len(self.ids) else ()

    def _subject(self, row: QualityRow) -> str:
        return row.prompt if self.task == "labels" else row.text

    def _cell(self, values: Mapping[str, str]) -> tuple[str, ...]:
        cell = tuple(_short(values.get(column, "")) for column in self.columns)
        return self._known.setdefault(cell, cell)

    def _count(self, row: QualityRow, text: str) -> int:
        if row.tokens is not None:
            return row.tokens
        counted = tokens.count([text], self.model)
        self.exact_tokens &= counted.exact
        return counted.tokens

    def _find(self, kind: Kind, row_id: int) -> None:
        self.found.setdefault(kind, []).append(row_id)

    def _share(self, what: str, name: str, row_id: int) -> None:
        self.shares.setdefault(what, {}).setdefault(name, []).append(row_id)

    def _ranked(self, what: str) -> tuple[Share, ...]:
        found = sorted(self.shares.get(what, {}).items(), key=lambda item: -len(item[1]))
        return tuple(Share(name, tuple(rows)) for name, rows in found)


def _task(head: Sequence[QualityRow]) -> Task:
    """Labels are short, few, and come again and again, under prompts that differ."""
    said = [row.text.strip() for row in head if row.state == "done" and row.text.strip()]
    if not said or median(len(text) for text in said) > _LABELS_UP_TO:
        return "texts"
    prompts = {row.prompt for row in head if row.state == "done"}
    different = len(set(said))
    few = 2 <= different <= len(said) / _ROWS_A_LABEL  # one answer to everything is no classification
    return "labels" if few and len(prompts) > different else "texts"


def _blocks(rows: Iterable[QualityRow]) -> Iterator[list[QualityRow]]:
    stream = iter(rows)
    while block := list(islice(stream, _BLOCK)):
        yield block


def _odd_ones(languages: Sequence[Share], total: int) -> tuple[int, ...]:
    """Rows in a language that hardly any other row has."""
    return tuple(row for one in languages if len(one.rows) < _FEW * total for row in one.rows)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") - 2**63


def _short(value: str) -> str:
    return value if len(value) <= _NAMED_IN_FULL else f"#{_number(value)}"
