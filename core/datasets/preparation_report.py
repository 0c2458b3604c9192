"""Describes the findings of data preparation, and the changes it makes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.datasets.analysis import MAX_PAIR_CHARACTERS, SEPARATOR, SEPARATORS, STOPS, Findings
from core.message import msg

_MAX_ROWS = 20  # maximum number of row numbers per finding


@dataclass(frozen=True, slots=True)
class PreparationFinding:
    """A finding or a change. `str()` is a sentence; `why` explains it, or is "".

    `rows` are the first affected rows, from 1.
    """

    kind: str
    count: int
    sentence: str
    rows: tuple[int, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return self.sentence


def describe_findings(findings: Findings) -> tuple[PreparationFinding, ...]:
    """Findings as sentences, including good news, so that users see what was checked."""
    sentence = msg("There are {pairs} pairs of prompt and completion.", pairs=f"{findings.pairs:,}")
    if findings.pairs == 1:
        sentence = msg("There is 1 pair of prompt and completion.")
    sentences = [PreparationFinding("pairs", findings.pairs, sentence)]
    for kind, rows, one, several, why in (
        (
            "empty",
            findings.empty,
            msg("1 pair has no completion; it is left out."),
            msg("{empty} pairs have no completion; they are left out.", empty=f"{len(findings.empty):,}"),
            msg("A model trained on empty answers gives empty answers."),
        ),
        (
            "duplicates",
            findings.duplicates,
            msg("1 pair is a duplicate; it is left out."),
            msg("{duplicates} pairs are repeated; they are left out.", duplicates=f"{len(findings.duplicates):,}"),
            msg("Duplicates are paid for twice, and the model memorises them."),
        ),
        (
            "too_long",
            findings.too_long,
            msg("1 pair has more than {value} characters; it is left out.", value=f"{MAX_PAIR_CHARACTERS:,}"),
            msg(
                "{too_long} pairs have more than {value} characters; they are left out.",
                too_long=f"{len(findings.too_long):,}",
                value=f"{MAX_PAIR_CHARACTERS:,}",
            ),
            msg("A pair that is too long would be cut off and lose its stop."),
        ),
    ):
        if rows:
            text = one if len(rows) == 1 else several
            sentences.append(PreparationFinding(kind, len(rows), text, tuple(r + 1 for r in rows[:_MAX_ROWS]), why))
    if findings.separator:
        sentences.append(
            PreparationFinding(
                "separator",
                findings.usable,
                msg("All prompts end with {separator}.", separator=repr(findings.separator)),
            )
        )
    if findings.ending:
        sentences.append(
            PreparationFinding(
                "ending", findings.usable, msg("All completions end with {ending}.", ending=repr(findings.ending))
            )
        )
    return tuple(sentences)


def describe_changes(
    findings: Findings, separator: str, stop: str, leading_space: bool
) -> tuple[PreparationFinding, ...]:
    """The changes to prompts and completions; "" means no mark."""
    sentences = []
    if separator:
        why = msg("It marks the end of the prompt. No prompt contains it.")
        if separator in SEPARATORS[1:] and findings.in_prompts[SEPARATOR].anywhere:
            why = msg(
                "It marks the end of the prompt. {value} can't be used: prompts contain it.", value=repr(SEPARATOR)
            )
        sentences.append(
            PreparationFinding(
                "add_separator",
                0,
                msg("{separator} is added to every prompt to mark where the answer begins.", separator=repr(separator)),
                why=why,
            )
        )
    if leading_space:
        why = msg("Most tokenizers put a word and the space before it into one token.")
        sentences.append(PreparationFinding("add_space", 0, msg("Every completion begins with a space."), why=why))
    if stop:
        why = msg("The model learns to stop there; use it as the stop when you call the model.")
        if stop in STOPS[1:] and (count := findings.in_completions[STOPS[0]].anywhere):
            why = msg(
                "The model learns to stop there. {value} can't be used: {count} completions contain it.",
                value=repr(STOPS[0]),
                count=f"{count:,}",
            )
        sentence = msg("{stop} is added to every completion; no completion contains it.", stop=repr(stop))
        sentences.append(PreparationFinding("add_stop", 0, sentence, why=why))
    return tuple(sentences)


def describe_chat(system: str) -> tuple[PreparationFinding, ...]:
    """How a chat file marks turns without separator and stop."""
    why = msg("Chat models use roles to mark where an answer begins and ends, so no separator or stop is added.")
    turns = PreparationFinding(
        "roles", 0, msg("The prompt is the user's turn, the completion the assistant's."), why=why
    )
    if not system:
        return (turns,)
    system_finding = PreparationFinding(
        "system",
        0,
        msg("Every conversation begins with the system text."),
        why=msg("Use the same one when you call the model."),
    )
    return (turns, system_finding)
