"""Money in the currency that was chosen; `lang.usd` is for what is always in dollars."""

from __future__ import annotations

from decimal import Decimal

from core.cost.currency import USD
from pages.ui.lang import _, usd

_SIGNS = {"CNY": "¥"}


def money(amount: Decimal | None, currency: str = USD) -> str:
    """An amount for Markdown, with as many digits as it needs; None is "unknown", never 0."""
    if currency == USD or amount is None:
        return usd(amount)
    sign = _SIGNS.get(currency, f"{currency} ")
    if amount == 0:
        return f"{sign}0"
    if abs(amount) < Decimal("0.0001"):
        return _("under {amount}").format(amount=f"{sign}0.0001")
    return f"{sign}{amount:,.{2 if abs(amount) >= 1 else 4}f}"
