"""Customer messages with four intents, and the files of a classifier that was tuned on them."""

from __future__ import annotations

import json
from itertools import product

SYSTEM = "Name the intent of the message."
_THINGS = ("kettle", "lamp", "tent", "camera", "bicycle", "radio", "coat", "printer", "chair", "drill")
_SENTENCES = {
    "refund": ("I want my money back for the {}.", "Please refund the {}.", "The {} is broken, return my payment."),
    "delivery": ("Where is my {}?", "When does the {} arrive?", "The {} has not been delivered yet."),
    "invoice": ("Send me the invoice for the {}.", "I need a receipt for the {}.", "The bill for the {} is wrong."),
    "account": (
        "I forgot my password and can't order the {}.",
        "Delete my account, I only bought a {}.",
        "How do I log in to see my {}?",
    ),
}


def labelled() -> list[tuple[str, str]]:
    """120 messages with their intents; neighbours have different ones."""
    of_one = [
        [(text.format(thing), label) for thing, text in product(_THINGS, texts)] for label, texts in _SENTENCES.items()
    ]
    return [one for four in zip(*of_one, strict=True) for one in four]


def files(validation_share: float = 1 / 3) -> tuple[bytes, bytes]:
    """A training and a validation file."""
    rows = labelled()
    middle = round(len(rows) * (1 - validation_share))
    return _lines(rows[:middle]), _lines(rows[middle:])


def _lines(rows: list[tuple[str, str]]) -> bytes:
    lines = (
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": message},
                {"role": "assistant", "content": label},
            ]
        }
        for message, label in rows
    )
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def old_answer(message: str) -> str:
    """What the old model says: the right intent, except for bills, which it takes for refunds."""
    return dict(labelled())[message] if "bill" not in message else "refund"
