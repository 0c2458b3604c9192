"""What preparation has found, what it will do and why, in sentences. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.dataset.analysis import LONGEST_PAIR, SEPARATOR, SEPARATORS, STOPS, Findings
from core.message import msg

_MOST_ROWS = 20  # row numbers that a finding names


@dataclass(frozen=True, slots=True)
class PreparationFinding:
    """One thing that was found or will be done. `str()` is a sentence; `why` is another, or "".

    `rows` are the first rows it is about, from 1.
    """

    kind: str
    count: int
    sentence: str
    rows: tuple[int, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return self.sentence


def found(findings: Findings) -> tuple[PreparationFinding, ...]:
    """Plain sentences, the good news too: a silent check looks like none."""
    pairs = msg("There are {pairs} pairs of prompt and completion.", pairs=f"{findings.pairs:,}")
    if findings.pairs == 1:
        pairs = msg("There is 1 pair of prompt and completion.")
    sentences = [PreparationFinding("pairs", findings.pairs, pairs)]
    for kind, rows, one, many, why in (
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
            msg("1 pair has more than {value} characters; it is left out.", value=f"{LONGEST_PAIR:,}"),
            msg(
                "{too_long} pairs have more than {value} characters; they are left out.",
                too_long=f"{len(findings.too_long):,}",
                value=f"{LONGEST_PAIR:,}",
            ),
            msg("A pair that is too long would be cut off and lose its stop."),
        ),
    ):
        if rows:
            sentence = one if len(rows) == 1 else many
            sentences.append(
                PreparationFinding(kind, len(rows), sentence, tuple(r + 1 for r in rows[:_MOST_ROWS]), why)
            )
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


def done(findings: Findings, separator: str, stop: str, leading_space: bool) -> tuple[PreparationFinding, ...]:
    """What is added to prompts and completions; "" is no mark."""
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
        if stop in STOPS[1:] and (taken := findings.in_completions[STOPS[0]].anywhere):
            why = msg(
                "The model learns to stop there. {value} can't be used: {taken} completions contain it.",
                value=repr(STOPS[0]),
                taken=f"{taken:,}",
            )
        sentence = msg("{stop} is added to every completion; no completion contains it.", stop=repr(stop))
        sentences.append(PreparationFinding("add_stop", 0, sentence, why=why))
    return tuple(sentences)


def chat(system: str) -> tuple[PreparationFinding, ...]:
    """What a chat file has in place of marks."""
    why = msg("Chat models use roles to mark where an answer begins and ends, so no separator or stop is added.")
    turns = PreparationFinding(
        "roles", 0, msg("The prompt is the user's turn, the completion the assistant's."), why=why
    )
    if not system:
        return (turns,)
    said = PreparationFinding(
        "system",
        0,
        msg("Every conversation begins with the system text."),
        why=msg("Use the same one when you call the model."),
    )
    return (turns, said)
