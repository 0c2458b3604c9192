"""What a quality report says: figures, each with the rows behind it, and findings from the gravest down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.dataset.quality.adherence import Adherence
from core.dataset.quality.coverage import Coverage
from core.dataset.quality.diversity import Diversity
from core.dataset.quality.duplicates import Cluster
from core.dataset.quality.lengths import Lengths
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

# A model learns these as they are. The others are shown for a look: 喷出火焰 is 喷火 in other words, and a short story
# may be a good one.
GRAVE: frozenset[str] = frozenset(
    ("empty", "conflict", "refusal", "leftover", "echo", "exact", "near", "looping", "cut")
)
REASONS: Mapping[str, str] = {
    "empty": msg("There is no text."),
    "conflict": msg("The same prompt has another label elsewhere."),
    "refusal": msg("The model refused, or a filter blocked the text."),
    "leftover": msg("A piece of a template was left in the text."),
    "echo": msg("The text repeats its prompt."),
    "exact": msg("The same text already exists."),
    "near": msg("Almost the same text already exists."),
    "looping": msg("The text repeats itself."),
    "cut": msg("The text was cut off at the token limit."),
    "unended": msg("The text does not end with a complete sentence."),
    "missing": msg("The text lacks a value that its cell asked for."),
    "language": msg("The text is in another language than the rest."),
    "short": msg("The text is far shorter than the rest."),
    "long": msg("The text is far longer than the rest."),
    "": msg("You left it out after the quality report."),
}
"""Why a row is left out, by the kind of the finding."""
FEWEST = 10  # examples; the least that OpenAI's fine-tuning takes
_GOOD_UP_TO = 0.02  # share of rows with something grave: at most one in fifty is noise. Rule of thumb, ours
_LOOK_UP_TO = 0.10  # and one in ten is still a matter of leaving rows out, not of writing them anew


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One row to be judged.

    Attributes:
        id: leads back to it.
        values: by column.
        prompt: as it was sent.
        text: what came; "" for none.
        state: done or failed; a failed row counts for its ending only.
        finish_reason: the provider's word, None where there is none.
        tokens: of the text as the provider counted them; None: they are counted here.
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
    """Something found, and the rows to leave out for it; of repeated rows, all but the first.

    Attributes:
        kind: what.
        rows: ids.
        detail: the column for "missing"; otherwise "".
    """

    kind: Kind
    rows: tuple[int, ...]
    detail: str = ""

    @property
    def grave(self) -> bool:
        """Whether it should not be trained on."""
        return self.kind in GRAVE


@dataclass(frozen=True, slots=True)
class Share:
    """A name and the rows that have it: a language, an ending, a stop, a label."""

    name: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """The report in one word, with what is behind it.

    Attributes:
        level: good (at most 1 row in 50 has something grave); look (at most 1 in 10, or more than 1 in 10 have one
            of the lesser findings); poor (more); few (under 10 rows).
        grave: how many rows have something grave; share: of all rows.
    """

    level: Level
    grave: int
    share: float


@dataclass(frozen=True, eq=False, slots=True)
class QualityReport:
    """Everything measured about a data set.

    Attributes:
        total: finished rows, which all figures but `endings` are about.
        task: "texts", or "labels" where a few short completions come again and again (a classification): then
            lengths and repetition are those of the prompts, and equal completions are as they should be.
        findings: what was found, the gravest and then the most frequent first.
        characters, tokens: lengths; `tokens_exact` is False when some are an approximation.
        coverage: rows by cell.
        clusters: groups of exact and near duplicates, the largest first.
        diversity: how different the texts are.
        adherence: by column, whether texts have what their cell asked for.
        endings: finished and failed rows by the provider's finish reason ("" for none: loaded from a file).
        languages: rows by script, the most frequent first; "mixed" for those of two.
        stops: for each usual stop ending, the rows that have it inside.
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
        """The report in one word."""
        return verdict(self.total, self.findings)

    def find(self, kind: Kind) -> tuple[QualityFinding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)


def verdict(total: int, findings: Sequence[QualityFinding]) -> QualityVerdict:
    """The verdict on `total` rows; a row with two faults counts once."""
    grave = len({row for finding in findings if finding.grave for row in finding.rows})
    share = grave / total if total else 0.0
    if total < FEWEST:
        return QualityVerdict("few", grave, share)
    widest = max((len(finding.rows) for finding in findings), default=0) / total
    if share > _LOOK_UP_TO:
        return QualityVerdict("poor", grave, share)
    return QualityVerdict("look" if share > _GOOD_UP_TO or widest > _LOOK_UP_TO else "good", grave, share)


def ordered(findings: Sequence[QualityFinding]) -> tuple[QualityFinding, ...]:
    """Those with rows, grave ones first, then the most frequent."""
    return tuple(sorted((f for f in findings if f.rows), key=lambda f: (not f.grave, -len(f.rows))))
