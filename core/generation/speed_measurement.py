"""Measures how fast the engine generates tokens on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from core.actor import Actor, requires
from core.db.tables import utcnow
from core.errors import FabulaError, Unavailable
from core.message import msg
from core.pricing.machine_time import Speed
from core.providers import Client, CompletionRequest

_TOKENS = 96  # tokens per request: about two seconds on two CPU cores, so that start-up is negligible
_ROUNDS = 3  # measured requests after one warm-up; the result is their median
_FEWEST_TOKENS = 16  # shorter completions cannot be measured
_PROMPT = "Count upwards: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"


@requires("editor")
def measure(actor: Actor, client: Client, model: str) -> Speed:
    """Measure the generation speed of `model`: one warm-up request, then the median of three.

    Takes about ten seconds. A training job running at the same time lowers the result.

    Raises:
        NotAllowed: the actor is a viewer.
        FabulaError: the model stopped too early to measure anything.
        Unavailable, ModelNotFound: the engine does not respond, or does not have the model.
    """
    endpoint = client.endpoint(model)
    request = CompletionRequest(model=model, prompt=_PROMPT, endpoint=endpoint, max_tokens=_TOKENS)
    rates = [
        rate for seed in range(_ROUNDS + 1) if (rate := _tokens_per_s(client, replace(request, seed=seed))) is not None
    ]
    if len(rates) < 2:
        raise FabulaError(
            msg("{model} stopped after a few tokens, so its speed could not be measured.", model=model),
            msg("Measure with another model."),
        )
    return Speed(Decimal(str(round(statistics.median(rates[1:]), 1))), model, utcnow())


def base_model(models: Sequence[str]) -> str:
    """Choose the model for the measurement: the first base model, since tuned models may stop early.

    Raises:
        Unavailable: there is no model, so the engine is not running.
    """
    if not models:
        raise Unavailable(
            msg("The engine is not running, so its speed cannot be measured."), msg("Wait until it is running.")
        )
    return next((model for model in models if not model.startswith("ft:")), models[0])


def _tokens_per_s(client: Client, request: CompletionRequest) -> float | None:
    """Tokens per second of one request; None if its completion was too short."""
    with client.stream(request) as stream:
        for _ in stream:
            pass
        facts = stream.facts
    n_tokens = facts.chunks if facts.tokens is None else facts.tokens
    return facts.tokens_per_s if n_tokens >= _FEWEST_TOKENS else None
