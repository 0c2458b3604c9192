"""Facts about how a story was generated, and whether the requested model answered. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

# Dated snapshots match their alias (OpenAI: a request for gpt-4o-mini is answered by gpt-4o-mini-2024-07-18).
_DATED = re.compile(r"[-@:.](20\d{2}-?\d{2}(-?\d{2})?|\d{4,8}|latest)", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoryFacts:
    """Facts about how a story was generated. None: not known, or not known yet.

    Attributes:
        model: the name that the endpoint returned; before the first text, the requested name.
        first_text_s: seconds from sending to the first text.
        tokens: completion tokens; tokens_per_s: their rate after the first one.
        finish_reason: `stop`, `length`, …; None while the story is being written, and if it was stopped or interrupted.
        stopped: it was stopped by a person, or because the last reader left (`abandoned`). The text is partial.
        cost_usd: cost, known at the end; None: the price is unknown.
        prompt_tokens: as counted by the endpoint.
        counted_locally: the endpoint did not report `tokens`, so they were counted here.
        requested_model: the requested name; "": the same as `model`.
        duration_s: seconds from sending to the latest text.
    """

    model: str
    first_text_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    stopped: bool = False
    cost_usd: Decimal | None = None
    prompt_tokens: int | None = None
    counted_locally: bool = False
    requested_model: str = ""
    abandoned: bool = False
    duration_s: float | None = None

    @property
    def answered_by_other_model(self) -> bool:
        """Whether a different model answered than the one requested."""
        return bool(self.requested_model) and not same_model(self.requested_model, self.model)


def same_model(requested: str, returned: str) -> bool:
    """Whether `returned` is the requested model or a dated snapshot of it.

    Case and a leading path are ignored, because servers spell names differently.
    """
    expected, actual = requested.strip().casefold(), returned.strip().casefold()
    if not actual or expected == actual or actual.endswith(f"/{expected}") or expected.endswith(f"/{actual}"):
        return True
    shorter, longer = sorted((expected, actual), key=len)
    return longer.startswith(shorter) and _DATED.fullmatch(longer[len(shorter) :]) is not None
