"""The cost of a run's requests. The model's price is looked up once."""

from __future__ import annotations

from decimal import Decimal

from core.generation.run_store import RunContext
from core.pricing.currency import USD
from core.pricing.price_book import PriceBook

TEMPLATE_TOKENS = 32
"""Maximum number of tokens that a chat template adds to a prompt: turn markers and role names."""


def token_upper_bound(text: str) -> int:
    """An upper bound on the tokens of a text: no tokenizer in use makes more tokens than there are UTF-8 bytes."""
    return len(text.encode("utf-8", "replace"))


class RequestCost:
    """The price of a run's model, and the maximum cost of one of its requests."""

    def __init__(self, book: PriceBook, context: RunContext) -> None:
        price = book.find(context.provider, context.model)
        self._price = price if price is not None and price.currency == USD else None
        self._system = token_upper_bound(context.recipe.system) + TEMPLATE_TOKENS
        self._max_tokens = context.recipe.max_tokens

    def price(self, prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int = 0) -> Decimal | None:
        """Cost in US dollars. None: unknown."""
        if self._price is None:
            return None
        return self._price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens)

    def worst_case(self, prompt: str) -> Decimal | None:
        """The maximum cost of a request in US dollars. None: unknown."""
        return self.price(token_upper_bound(prompt) + self._system, self._max_tokens)
