"""The quality report: figures, each with its rows, and findings, the most serious first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.datasets.quality.grid_fit import Adherence, Coverage
from core.datasets.quality.similarity import Cluster, Diversity
from core.datasets.quality.texts import Lengths
from core.message import msg

Kind = Literal[
    "empty",
    "conflict",
    "refusal",
    "leftover",
    "echo",
    "exact",
    "near",
    "looping",
    "cut",
    "unended",
    "missing",
    "language",
    "short",
    "long",
]
Level = Literal["good", "look", "poor", "few"]

# A model would learn these problems. The others are only worth a look: 喷出火焰 is a synonym of 喷火, and a short
# story may be a good one.
SERIOUS: frozenset[str] = frozenset(
    ("empty", "conflict", "refusal", "leftover", "echo", "exact", "near", "looping", "cut")
)
REASONS: Mapping[str, str] = {
    "empty": msg("There is no text."),
    "conflict": msg("The same prompt has a different label elsewhere."),
    "refusal": msg("The model refused, or a filter blocked the text."),
    "leftover": msg("The text contains template leftovers."),
    "echo": msg("The text repeats its prompt."),
    "exact": msg("The same text already exists."),
    "near": msg("Almost the same text already exists."),
    "looping": msg("The text repeats itself."),
    "cut": msg("The text was cut off at the token limit."),
    "unended": msg("The text does not end with a complete sentence."),
    "missing": msg("The text lacks a value that its cell asked for."),
    "language": msg("The text is in a different language from the rest."),
    "short": msg("The text is far shorter than the rest."),
    "long": msg("The text is far longer than the rest."),
    "": msg("You left it out after the quality report."),
}
"""Reason for excluding a row, by kind of finding."""
MIN_ROWS = 10  # examples; OpenAI's minimum for fine-tuning
_MAX_GOOD = 0.02  # share of rows with a serious finding: up to one in fifty is noise. Our own rule of thumb
_MAX_LOOK = 0.10  # up to one in ten, excluding rows is enough; above that, generate them again


@dataclass(frozen=True, slots=True)
class QualityRow:
    """A row to be measured.

    Attributes:
        id: the row's id.
        values: the row's values by column.
        prompt: the prompt as sent.
        text: the answer; "" if there is none.
        state: done or failed; of a failed row only the finish reason counts.
        finish_reason: the finish reason from the provider, or None if there is none.
        tokens: tokens of the text as the provider counted them; None if they must be counted here.
    """

    id: int
    values: Mapping[str, str]
    prompt: str
    text: str
    state: str = "done"
    finish_reason: str | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """A problem, and the rows to exclude because of it; for duplicates, all but the first.

    Attributes:
        kind: the kind of fault.
        rows: row ids.
        detail: the column for "missing"; otherwise "".
    """

    kind: Kind
    rows: tuple[int, ...]
    detail: str = ""

    @property
    def serious(self) -> bool:
        """True if the rows should not be trained on."""
        return self.kind in SERIOUS


@dataclass(frozen=True, slots=True)
class Share:
    """A name and its rows: a language, a finish reason, a stop sequence, a label."""

    name: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """The overall verdict.

    Attributes:
        level: good (at most 1 row in 50 has a serious finding); look (at most 1 in 10, or more than 1 in 10 share a
            lesser finding); poor (more); few (under 10 rows).
        serious: number of rows with a serious finding.
        share: their share of all rows.
    """

    level: Level
    serious: int
    share: float


@dataclass(frozen=True, eq=False, slots=True)
class QualityReport:
    """The quality measures of a data set.

    Attributes:
        total: number of finished rows; all figures except `endings` are about these.
        task: "texts", or "labels" if a few short completions repeat (classification). For labels, lengths and
            repetition are measured on the prompts, and equal completions are expected.
        findings: serious findings first, then by number of rows.
        characters, tokens: lengths; `tokens_exact` is False if some are approximate.
        coverage: rows per cell.
        clusters: groups of exact and near duplicates, the largest first.
        diversity: how different the texts are.
        adherence: for each column, whether the texts contain what their cell asked for.
        endings: finished and failed rows by the provider's finish reason ("" for none: loaded from a file).
        languages: rows by script, most frequent first; "mixed" for two scripts.
        stops: for each usual stop sequence, the rows that contain it before the end.
        labels: rows by completion, if `task` is "labels".
    """

    total: int
    task: Literal["texts", "labels"]
    findings: tuple[QualityFinding, ...]
    characters: Lengths
    tokens: Lengths
    tokens_exact: bool
    coverage: Coverage
    clusters: tuple[Cluster, ...]
    diversity: Diversity
    adherence: tuple[Adherence, ...]
    endings: tuple[Share, ...]
    languages: tuple[Share, ...]
    stops: tuple[Share, ...]
    labels: tuple[Share, ...] = field(default=())

    @property
    def verdict(self) -> QualityVerdict:
        """The overall verdict."""
        return verdict(self.total, self.findings)

    def find(self, kind: Kind) -> tuple[QualityFinding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)


def verdict(total: int, findings: Sequence[QualityFinding]) -> QualityVerdict:
    """The verdict on `total` rows; a row with two problems counts once."""
    serious = len({row for finding in findings if finding.serious for row in finding.rows})
    share = serious / total if total else 0.0
    if total < MIN_ROWS:
        return QualityVerdict("few", serious, share)
    max_share = max((len(finding.rows) for finding in findings), default=0) / total
    if share > _MAX_LOOK:
        return QualityVerdict("poor", serious, share)
    return QualityVerdict("look" if share > _MAX_GOOD or max_share > _MAX_LOOK else "good", serious, share)


def ordered(findings: Sequence[QualityFinding]) -> tuple[QualityFinding, ...]:
    """Findings that have rows, serious ones first, then by number of rows."""
    return tuple(sorted((f for f in findings if f.rows), key=lambda f: (not f.serious, -len(f.rows))))
