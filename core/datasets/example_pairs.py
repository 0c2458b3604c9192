"""A small set of examples: pairs of a prompt and its answer, the included samples, and the check before training. Pure.

`core.datasets.importers.pasted_text` reads pairs from pasted text and files; `core.finetuning.examples` trains on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from core import languages
from core.datasets.presets import DATA
from core.message import listed, msg

MIN_EXAMPLES, MAX_EXAMPLES = 5, 200
"""Number of examples that this form accepts. With fewer a model memorises them; more take too long for a form."""
MAX_CELL_CHARACTERS = 2_000
"""Maximum characters of a prompt or an answer: about 500 tokens of English, 1,300 of Chinese."""
_MAX_ROW_NUMBERS = 5  # maximum number of row numbers in a sentence
_MAX_QUOTED = 30  # maximum number of quoted characters of a prompt


class ExamplePair(NamedTuple):
    """One example: a prompt and the answer to learn."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExampleSample:
    """Examples that ship with Fabula (`data/samples/examples/*.json`), in one language.

    Attributes:
        id: also the suffix of the model trained on it.
        names: display names by language.
        icon: icon of its button.
        prompt: a prompt that is not among the pairs, for testing the fine-tuned model.
        pairs: the examples.
    """

    id: str
    names: Mapping[str, str]
    icon: str
    prompt: str
    pairs: tuple[ExamplePair, ...]


@dataclass(frozen=True, slots=True)
class ExampleFinding:
    """A finding of the check; `blocking`: training cannot start until it is fixed."""

    sentence: str
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class CheckedExamples:
    """The result of the check.

    Attributes:
        pairs: the pairs to train on: complete, without duplicates and surrounding spaces.
        findings: blocking ones first.
        too_many: there are more than `MAX_EXAMPLES`: use the data set page instead.
    """

    pairs: tuple[ExamplePair, ...]
    findings: tuple[ExampleFinding, ...]
    too_many: bool = False

    @property
    def ready(self) -> bool:
        """True if training can start."""
        return not any(finding.blocking for finding in self.findings)


def samples(language: str) -> tuple[ExampleSample, ...]:
    """The samples in a language (`en`, `zh_CN`)."""
    return tuple(
        ExampleSample(
            id=item["id"],
            names=item["name"],
            icon=item["icon"],
            prompt=item[language]["prompt"],
            pairs=tuple(ExamplePair(pair["prompt"], pair["answer"]) for pair in item[language]["pairs"]),
        )
        for item in _files()
    )


def sample_of(sample_id: str | None, pairs: Sequence[ExamplePair], language: str) -> ExampleSample | None:
    """The sample that these pairs came from, in the pairs' own language. None: they came from none."""
    given = set(pairs)
    for sample_language in sorted(languages.LANGUAGES, key=lambda code: code != language):
        for sample in samples(sample_language):
            if sample.id == sample_id and given.intersection(sample.pairs):
                return sample
    return None


@lru_cache(maxsize=1)
def _files() -> tuple[dict[str, Any], ...]:
    items = [json.loads(path.read_text(encoding="utf-8")) for path in (DATA / "samples" / "examples").glob("*.json")]
    return tuple(sorted(items, key=lambda item: item["order"]))


def check(pairs: Sequence[ExamplePair], rows: Sequence[int] | None = None) -> CheckedExamples:
    """Check the pairs before training.

    Args:
        pairs: as typed; a row without prompt and answer is ignored.
        rows: the row number that the form shows for each pair; None: counted from 1.
    """
    numbers = range(1, len(pairs) + 1) if rows is None else rows
    typed = [
        (number, ExamplePair(pair.prompt.strip(), pair.answer.strip()))
        for number, pair in zip(numbers, pairs, strict=True)
        if pair.prompt.strip() or pair.answer.strip()
    ]
    complete = [(number, pair) for number, pair in typed if pair.prompt and pair.answer]
    usable = tuple(dict.fromkeys(pair for _number, pair in complete))
    return CheckedExamples(
        usable,
        (
            *_check_count(len(usable), len(typed)),
            *_too_long(typed),
            *_contradictions(complete),
            *_incomplete(typed),
            *_duplicates(complete),
            *_same_answers(usable),
        ),
        too_many=len(usable) > MAX_EXAMPLES,
    )


def _check_count(count: int, typed: int) -> list[ExampleFinding]:
    """Too few or too many; `typed`: number of non-empty rows."""
    if typed == 0:
        return [
            ExampleFinding(
                msg("There are no examples yet. Type, paste or upload at least 5, or start with a sample."), True
            )
        ]
    if count == 0:
        return [
            ExampleFinding(
                msg("No row has both a prompt and an answer. Fill in the missing side of at least 5 rows."), True
            )
        ]
    if count < MIN_EXAMPLES:
        missing = MIN_EXAMPLES - count
        return [
            ExampleFinding(
                msg(
                    "Too few examples: {count} of at least {value}. From so few a model repeats the examples instead "
                    "of learning the task. Add {missing} more; 12 is a good start.",
                    count=count,
                    value=MIN_EXAMPLES,
                    missing=missing,
                ),
                True,
            )
        ]
    if count > MAX_EXAMPLES:
        return [
            ExampleFinding(
                msg(
                    "Too many examples for this form: {count}; the limit is {value}. Load the file on the "
                    "Data set page, where you can check its quality, split it and choose the settings.",
                    count=f"{count:,}",
                    value=MAX_EXAMPLES,
                ),
                True,
            )
        ]
    return []


def _too_long(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    long_rows = [(number, max(map(len, pair))) for number, pair in typed if max(map(len, pair)) > MAX_CELL_CHARACTERS]
    if not long_rows:
        return []
    number, length = long_rows[0]
    if len(long_rows) == 1:
        sentence = msg(
            "The text in row {number} has {length} characters; the limit is {value}. Shorten it.",
            number=number,
            length=f"{length:,}",
            value=f"{MAX_CELL_CHARACTERS:,}",
        )
    else:
        numbers = _row_list([number for number, _length in long_rows])
        sentence = msg(
            "Rows {numbers} have texts of more than {value} characters. Shorten them.",
            numbers=numbers,
            value=f"{MAX_CELL_CHARACTERS:,}",
        )
    return [ExampleFinding(sentence, True)]


def _contradictions(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    """The same prompt with different answers: one finding per prompt."""
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for number, pair in complete:
        by_prompt.setdefault(pair.prompt, []).append((number, pair.answer))
    findings = []
    for prompt, answers in by_prompt.items():
        if len({answer for _number, answer in answers}) > 1:
            numbers = _row_list([number for number, _answer in answers])
            quoted = _quoted(prompt)
            findings.append(
                ExampleFinding(
                    msg(
                        "Rows {numbers} have the same prompt, “{quoted}”, with different answers. Keep one of them: "
                        "a model can't learn both.",
                        numbers=numbers,
                        quoted=quoted,
                    ),
                    True,
                )
            )
    return findings[:_MAX_ROW_NUMBERS]


def _incomplete(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    findings = []
    if no_answer := [number for number, pair in typed if not pair.answer]:
        numbers = _row_list(no_answer)
        single, several = (
            msg("No answer in row {numbers}: left out of training.", numbers=numbers),
            msg("No answer in rows {numbers}: left out.", numbers=numbers),
        )
        findings.append(ExampleFinding(single if len(no_answer) == 1 else several))
    if no_prompt := [number for number, pair in typed if not pair.prompt]:
        numbers = _row_list(no_prompt)
        single, several = (
            msg("No prompt in row {numbers}: left out of training.", numbers=numbers),
            msg("No prompt in rows {numbers}: left out.", numbers=numbers),
        )
        findings.append(ExampleFinding(single if len(no_prompt) == 1 else several))
    return findings


def _duplicates(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    seen, repeated = set[ExamplePair](), list[int]()
    for number, pair in complete:
        if pair in seen:
            repeated.append(number)
        seen.add(pair)
    if not repeated:
        return []
    numbers = _row_list(repeated)
    if len(repeated) == 1:
        return [ExampleFinding(msg("Row {numbers} repeats an earlier row: it counts once.", numbers=numbers))]
    return [ExampleFinding(msg("Rows {numbers} repeat earlier rows: each counts once.", numbers=numbers))]


def _same_answers(usable: Sequence[ExamplePair]) -> list[ExampleFinding]:
    if len(usable) < MIN_EXAMPLES or len({pair.answer for pair in usable}) > 1:
        return []
    return [
        ExampleFinding(
            msg(
                "All answers are the same: the model will give this answer to every prompt. "
                "Add examples with other answers."
            )
        )
    ]


def _row_list(numbers: Sequence[int]) -> str:
    """Row numbers as a list, limited to the first few."""
    more = ["…"] if len(numbers) > _MAX_ROW_NUMBERS else []
    return listed([*(f"{number:,}" for number in numbers[:_MAX_ROW_NUMBERS]), *more])


def _quoted(text: str) -> str:
    normalized = " ".join(text.split())
    return normalized if len(normalized) <= _MAX_QUOTED else f"{normalized[:_MAX_QUOTED]}…"
