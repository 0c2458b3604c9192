"""What preparation has found, what it will do and why, in sentences. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.dataset.analysis import LONGEST_PAIR, SEPARATOR, SEPARATORS, STOPS, Findings

_MOST_ROWS = 20  # row numbers that a finding names


@dataclass(frozen=True, slots=True)
class Finding:
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


def found(findings: Findings) -> tuple[Finding, ...]:
    """Plain sentences, the good news too: a silent check looks like none."""
    pairs = f"There are {findings.pairs:,} pairs of prompt and completion."
    if findings.pairs == 1:
        pairs = "There is 1 pair of prompt and completion."
    sentences = [Finding("pairs", findings.pairs, pairs)]
    for kind, rows, one, many, why in (
        (
            "empty",
            findings.empty,
            "1 pair has no completion; it is left out.",
            f"{len(findings.empty):,} pairs have no completion; they are left out.",
            "A model trained on empty answers gives empty answers.",
        ),
        (
            "duplicates",
            findings.duplicates,
            "1 pair is there twice; one of them is left out.",
            f"{len(findings.duplicates):,} pairs are repeated; they are left out.",
            "Duplicates are paid for twice, and the model memorises them.",
        ),
        (
            "too_long",
            findings.too_long,
            f"1 pair has more than {LONGEST_PAIR:,} characters; it is left out.",
            f"{len(findings.too_long):,} pairs have more than {LONGEST_PAIR:,} characters; they are left out.",
            "A pair that is too long would lose its end, and its stop with it.",
        ),
    ):
        if rows:
            sentence = one if len(rows) == 1 else many
            sentences.append(Finding(kind, len(rows), sentence, tuple(r + 1 for r in rows[:_MOST_ROWS]), why))
    if findings.separator:
        sentences.append(Finding("separator", findings.usable, f"All prompts end with {findings.separator!r}."))
    if findings.ending:
        sentences.append(Finding("ending", findings.usable, f"All completions end with {findings.ending!r}."))
    return tuple(sentences)


def done(findings: Findings, separator: str, stop: str, leading_space: bool) -> tuple[Finding, ...]:
    """What is added to prompts and completions; "" is no mark."""
    sentences = []
    if separator:
        why = "It marks the end of the prompt. No prompt contains it."
        if separator in SEPARATORS[1:] and findings.in_prompts[SEPARATOR].anywhere:
            why = f"It marks the end of the prompt. {SEPARATOR!r} can't be used: prompts contain it."
        sentences.append(
            Finding(
                "add_separator", 0, f"{separator!r} is added to every prompt to mark where the answer begins.", why=why
            )
        )
    if leading_space:
        why = "Most tokenizers put a word and the space before it into one token."
        sentences.append(Finding("add_space", 0, "Every completion begins with a space.", why=why))
    if stop:
        why = "The model learns to stop there; use it as the stop when you call the model."
        if stop in STOPS[1:] and (taken := findings.in_completions[STOPS[0]].anywhere):
            why = f"The model learns to stop there. {STOPS[0]!r} can't be used: {taken:,} completions contain it."
        sentence = f"{stop!r} is added to every completion; no completion contains it."
        sentences.append(Finding("add_stop", 0, sentence, why=why))
    return tuple(sentences)


def chat(system: str) -> tuple[Finding, ...]:
    """What a chat file has in place of marks."""
    why = "Chat models use roles to mark where an answer begins and ends, so no separator or stop is added."
    turns = Finding("roles", 0, "The prompt is the user's turn, the completion the assistant's.", why=why)
    if not system:
        return (turns,)
    said = Finding(
        "system",
        0,
        "Every conversation begins with the system text.",
        why="Use the same one when you call the model.",
    )
    return (turns, said)
