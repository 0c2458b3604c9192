"""What is known about a story's making, and whether the model that wrote it is the one that was asked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

# A dated snapshot stands for its alias (OpenAI: asked for gpt-4o-mini, gpt-4o-mini-2024-07-18 answers).
_DATED = re.compile(r"[-@:.](20\d{2}-?\d{2}(-?\d{2})?|\d{4,8}|latest)", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoryFacts:
    """What is known about a story's making. None: not known (yet).

    Attributes:
        model: the model as the endpoint named it; before its first word, as it was asked for.
        first_text_s: seconds from sending to the first words.
        tokens: completion tokens; tokens_per_s: their rate once the first has come.
        finish_reason: `stop`, `length`, …; None while writing, and when stopped by hand or cut.
        stopped: a person stopped it, or (`left`) the last one has left the page; the text is partial.
        cost_usd: what it cost, once it is over; None when the price is unknown.
        prompt_tokens: as the endpoint counted them.
        counted: the endpoint did not say how many tokens; these are our own count.
        asked: the model that was asked for; "": the same.
        duration_s: seconds from sending to the newest words.
    """

    model: str
    first_text_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    stopped: bool = False
    cost_usd: Decimal | None = None
    prompt_tokens: int | None = None
    counted: bool = False
    asked: str = ""
    left: bool = False
    duration_s: float | None = None

    @property
    def stranger(self) -> bool:
        """Whether another model answered than the one that was asked for."""
        return bool(self.asked) and not same_model(self.asked, self.model)


def same_model(asked: str, returned: str) -> bool:
    """Whether `returned` names the model that was asked for: it itself, or a dated snapshot of it.

    Servers write names in their own ways: a path in front of it, or other capitals, make no other model.
    """
    wanted, got = asked.strip().casefold(), returned.strip().casefold()
    if not got or wanted == got or got.endswith(f"/{wanted}") or wanted.endswith(f"/{got}"):
        return True
    shorter, longer = sorted((wanted, got), key=len)
    return longer.startswith(shorter) and _DATED.fullmatch(longer[len(shorter) :]) is not None
