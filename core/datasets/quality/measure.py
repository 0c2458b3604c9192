"""Reads rows once, block by block, and creates the report. Pure: no clock, no database.

Only a signature (512 bytes) and a few numbers are kept per row, so memory grows only with the number of rows; texts are
released block by block, except for a sample of 2,000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from statistics import median
from typing import Literal

import numpy as np

from core.datasets.quality import grid_fit, similarity, texts, units
from core.datasets.quality.grid_fit import AdherenceCollector
from core.datasets.quality.report import Kind, QualityFinding, QualityReport, QualityRow, Share, ordered
from core.datasets.recipe import ColumnType
from core.pricing import tokens

_HEAD_ROWS = 1_000  # rows used to decide if the completions are labels
_BLOCK = 256  # texts at a time: their arrays fit in the CPU cache
_MAX_LABEL = 40  # characters; a longer completion is a text
_MIN_ROWS_PER_LABEL = 4  # minimum average number of rows per label
_LOOPING_BELOW = 0.5  # share of distinct 4-grams: "seq-rep-4" above one half (S. Welleck and others, 2020)
_MIN_LOOPING_UNITS = 40  # units; not measured for shorter texts
_MIN_LANGUAGE_SHARE = 0.05  # a language with a smaller share is an outlier: a bilingual data set has more of both
_MIN_COMPLETE_SHARE = 0.8  # if at least this share of texts ends like a sentence, the others count as incomplete

Task = Literal["texts", "labels"]
_SAMPLED_CHARACTERS = 5_000  # per text in the sample
_MAX_VALUE_CHARACTERS = 60  # characters of a value in a cell; a longer one is free text and replaced by its hash
_CUT_OFF = frozenset({"length", "max_tokens"})
REFUSED = frozenset({"refusal", "content_filter"})


def report(
    rows: Iterable[QualityRow],
    columns: Sequence[str],
    *,
    types: Mapping[str, ColumnType] | None = None,
    grid: Mapping[str, Sequence[str]] | None = None,
    repeats: int | None = None,
    model: str = "",
    progress: Callable[[int], None] | None = None,
) -> QualityReport:
    """The quality report on `rows`.

    Args:
        rows: read once, as a stream; the first of several equal rows is the one to keep.
        columns: the columns that define the cells.
        types: the types of the recipe's columns; columns without one are `auto`.
        grid, repeats: the recipe's values and repeats; if None, the grid consists of the values that occur.
        model: the model whose tokenizer is used for rows without a token count.
        progress: called after each block with the number of rows read; may raise to cancel.
    """
    stream = iter(rows)
    head = list(islice(stream, _HEAD_ROWS))
    collector = _Collector(columns, types or {}, _detect_task(head), model)
    read = 0
    for block in _blocks(chain(head, stream)):
        collector.add(block)
        read += len(block)
        if progress is not None:
            progress(read)
    return collector.result(grid, repeats)


class _Collector:
    """Collects the measures of all rows read so far."""

    def __init__(self, columns: Sequence[str], types: Mapping[str, ColumnType], task: Task, model: str) -> None:
        self.columns, self.task, self.model = tuple(columns), task, model
        self.ids: list[int] = []
        self.cells: list[tuple[int, tuple[str, ...]]] = []
        self.characters: list[int] = []
        self.tokens: list[int] = []
        self.exact_tokens = True
        self.signatures: list[similarity.Signatures] = []
        self.digests: list[int] = []
        self.incomplete: list[int] = []
        self.findings: dict[Kind, list[int]] = {}
        self.rows_by_name: dict[str, dict[str, list[int]]] = {}
        self.labels_by_prompt: dict[int, tuple[str, list[int]]] = {}  # prompt hash → first label, rows with another
        self.adherence = [AdherenceCollector(column, types.get(column, "auto")) for column in columns]
        self.sample, self.openings = similarity.HashSample(), similarity.OpeningCounter()
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple object per cell, to save memory

    def add(self, rows: Sequence[QualityRow]) -> None:
        """Add a block of rows."""
        for row in rows:
            self._add_share("endings", row.finish_reason or "", row.id)
            if row.finish_reason in _CUT_OFF and row.state == "done":
                self._add_finding("cut", row.id)
        done = [row for row in rows if row.state == "done"]
        subjects = [units.normalize(self._measured_text(row)) for row in done]
        for row, subject in zip(done, subjects, strict=True):
            self._add_text(row, subject)
        if done:
            self._add_block(done, units.block(subjects))

    def _add_text(self, row: QualityRow, subject: str) -> None:
        """Add the measures of one text."""
        text = row.text.strip()
        self.ids.append(row.id)
        self.cells.append((row.id, self._cell_of(row.values)))
        self.characters.append(len(text))
        self.tokens.append(self._token_count(row, text))
        self.digests.append(_hash(self._measured_text(row).strip()))
        if not text:
            self._add_finding("empty", row.id)
            return
        normalized = units.normalize(text) if self.task == "labels" else subject
        if row.finish_reason in REFUSED or texts.is_refusal(normalized):
            self._add_finding("refusal", row.id)
        if texts.template_leftover(row.text, self.columns) is not None:
            self._add_finding("leftover", row.id)
        if self.task == "labels":
            self._add_label(row, text)
            return
        if texts.echoes_prompt(subject, units.normalize(row.prompt)):
            self._add_finding("echo", row.id)
        if not texts.ends_complete(text):
            self.incomplete.append(row.id)
        for stop in texts.stops_inside(text):
            self._add_share("stops", stop, row.id)
        for column in self.adherence:
            column.add(row.id, row.values.get(column.column, ""), subject)
        self.openings.add(row.id, text)
        self.sample.offer(row.id, subject[:_SAMPLED_CHARACTERS], row.values)

    def _add_label(self, row: QualityRow, label: str) -> None:
        self._add_share("labels", label, row.id)
        self.sample.offer(row.id, units.normalize(row.prompt)[:_SAMPLED_CHARACTERS], row.values)
        first, others = self.labels_by_prompt.setdefault(_hash(units.normalize(row.prompt)), (label, []))
        if label != first:
            others.append(row.id)

    def _add_block(self, rows: Sequence[QualityRow], block: units.Block) -> None:
        """Add the measures that are computed for a whole block."""
        self.signatures.append(similarity.signatures(block))
        for row, letters in zip(rows, block.scripts[:, 1:].tolist(), strict=True):
            if script := texts.language(letters):
                self._add_share("languages", script, row.id)
        if self.task == "texts":
            share = units.distinct_share(*units.ngrams(block, 4), len(rows))
            for i in np.flatnonzero((share < _LOOPING_BELOW) & (block.counts >= _MIN_LOOPING_UNITS)).tolist():
                self._add_finding("looping", rows[i].id)

    def result(self, grid: Mapping[str, Sequence[str]] | None, repeats: int | None) -> QualityReport:
        """The report on all rows added so far."""
        none = np.zeros((0, similarity.PERMUTATIONS), dtype=np.uint32)
        signatures = np.concatenate([none, *self.signatures])
        clusters = similarity.clusters(self.ids, signatures, np.asarray(self.digests, dtype=np.int64))
        coverage_report = grid_fit.measure_coverage(self.cells, self.columns, grid, repeats)
        sample = self.sample.texts()
        index = {row: i for i, row in enumerate(self.ids)}
        sample_texts = [text for _, text in sample]
        diversity_report = similarity.measure_diversity(
            sample_texts, coverage_report.cells, index, signatures, self.openings, units.block(sample_texts)
        )
        adherence = () if self.task == "labels" else tuple(item.result(sample) for item in self.adherence)
        characters = texts.measure_lengths(self.ids, self.characters)
        languages = self._by_frequency("languages")
        findings = [
            *(QualityFinding("missing", item.missing, item.column) for item in adherence),
            *self._duplicate_findings(clusters),
            *self._row_findings(characters, languages),
        ]
        return QualityReport(
            total=len(self.ids),
            task=self.task,
            findings=ordered(findings),
            characters=characters,
            tokens=texts.measure_lengths(self.ids, self.tokens),
            tokens_exact=self.exact_tokens,
            coverage=coverage_report,
            clusters=clusters,
            diversity=diversity_report,
            adherence=adherence,
            endings=self._by_frequency("endings"),
            languages=languages,
            stops=self._by_frequency("stops"),
            labels=self._by_frequency("labels"),
        )

    def _row_findings(self, characters: texts.Lengths, languages: Sequence[Share]) -> list[QualityFinding]:
        """Findings about single rows, including rows that differ from the rest."""
        findings = [QualityFinding(kind, tuple(rows)) for kind, rows in self.findings.items()]
        findings += [
            QualityFinding("conflict", tuple(row for _, others in self.labels_by_prompt.values() for row in others)),
            QualityFinding("unended", self._incomplete_findings()),
            QualityFinding("language", _rare_languages(languages, len(self.ids))),
        ]
        if self.task == "texts":
            findings += [QualityFinding("short", characters.short), QualityFinding("long", characters.long)]
        return findings

    def _duplicate_findings(self, clusters: Sequence[similarity.Cluster]) -> list[QualityFinding]:
        """All rows but the first of each cluster, as exact or as near duplicates of an earlier row."""
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

    def _incomplete_findings(self) -> tuple[int, ...]:
        texts_with_end = len(self.ids) - len(self.incomplete)
        return tuple(self.incomplete) if self.ids and texts_with_end >= _MIN_COMPLETE_SHARE * len(self.ids) else ()

    def _measured_text(self, row: QualityRow) -> str:
        return row.prompt if self.task == "labels" else row.text

    def _cell_of(self, values: Mapping[str, str]) -> tuple[str, ...]:
        cell = tuple(_shortened(values.get(column, "")) for column in self.columns)
        return self._known.setdefault(cell, cell)

    def _token_count(self, row: QualityRow, text: str) -> int:
        if row.tokens is not None:
            return row.tokens
        counted = tokens.count([text], self.model)
        self.exact_tokens &= counted.exact
        return counted.tokens

    def _add_finding(self, kind: Kind, row_id: int) -> None:
        self.findings.setdefault(kind, []).append(row_id)

    def _add_share(self, kind: str, name: str, row_id: int) -> None:
        self.rows_by_name.setdefault(kind, {}).setdefault(name, []).append(row_id)

    def _by_frequency(self, kind: str) -> tuple[Share, ...]:
        items = sorted(self.rows_by_name.get(kind, {}).items(), key=lambda item: -len(item[1]))
        return tuple(Share(name, tuple(rows)) for name, rows in items)


def _detect_task(head: Sequence[QualityRow]) -> Task:
    """Detect the task. Labels are short, few and repeated, and their prompts differ."""
    answers = [row.text.strip() for row in head if row.state == "done" and row.text.strip()]
    if not answers or median(len(text) for text in answers) > _MAX_LABEL:
        return "texts"
    prompts = {row.prompt for row in head if row.state == "done"}
    different = len(set(answers))
    few = 2 <= different <= len(answers) / _MIN_ROWS_PER_LABEL  # a single answer is not a classification
    return "labels" if few and len(prompts) > different else "texts"


def _blocks(rows: Iterable[QualityRow]) -> Iterator[list[QualityRow]]:
    stream = iter(rows)
    while block := list(islice(stream, _BLOCK)):
        yield block


def _rare_languages(languages: Sequence[Share], total: int) -> tuple[int, ...]:
    """Rows in a language that few other rows have."""
    return tuple(row for one in languages if len(one.rows) < _MIN_LANGUAGE_SHARE * total for row in one.rows)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") - 2**63


def _shortened(value: str) -> str:
    return value if len(value) <= _MAX_VALUE_CHARACTERS else f"#{_hash(value)}"
