"""What the requests of one run cost: its model's price, looked up once."""

from __future__ import annotations

from decimal import Decimal

from core.cost.currency import USD
from core.cost.price_book import PriceBook
from core.dataset.generation.run_store import RunContext

TEMPLATE_TOKENS = 32
"""What a chat template adds to a prompt at most: turn marks and role names."""


def most_tokens(text: str) -> int:
    """How many tokens a text has at most: no tokenizer in use makes more of them than there are bytes."""
    return len(text.encode("utf-8", "replace"))


class RequestCost:
    """The price of a run's model, and the most that one of its requests can cost."""

    def __init__(self, book: PriceBook, context: RunContext) -> None:
        price = book.find(context.provider, context.model)
        self._price = price if price is not None and price.currency == USD else None
        self._system = most_tokens(context.recipe.system) + TEMPLATE_TOKENS
        self._max_tokens = context.recipe.max_tokens

    def price(self, prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int = 0) -> Decimal | None:
        """US dollars; None: unknown."""
        if self._price is None:
            return None
        return self._price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens)

    def worst(self, prompt: str) -> Decimal | None:
        """What a request can cost at most."""
        return self.price(most_tokens(prompt) + self._system, self._max_tokens)
