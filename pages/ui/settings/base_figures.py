"""Figures of base models as short texts: sizes, context, speed."""

from __future__ import annotations

from pages.ui.i18n import _, number, token_speed

_MB, _GB = 10**6, 10**9


def gigabytes(size: int) -> str:
    """A size in bytes as MB or GB (powers of ten, as disks are sold)."""
    return f"{number(size / _GB, 1)} GB" if size >= 0.1 * _GB else f"{number(size / _MB, 1)} MB"


def parameters(count: int) -> str:
    """Number of parameters in millions or billions; "" if unknown."""
    if not count:
        return ""
    if count < _GB:
        return _("{n} million parameters").format(n=number(count / _MB, 0 if count >= 10 * _MB else 1))
    return _("{n} billion parameters").format(n=number(count / _GB, 1))


def context(tokens: int, own: int) -> str:
    """Longest text here, and the model's own if a setting allows less; "" if unknown."""
    if not tokens:
        return ""
    if tokens < own:
        return _("context: {n} of {own} tokens").format(n=number(tokens), own=number(own))
    return _("context: {n} tokens").format(n=number(tokens))


def speed(tokens_per_s: float | None) -> str:
    """The expected speed, called an estimate."""
    if tokens_per_s is None:
        return _("speed: not measured yet")
    return _("about {speed} (estimate)").format(speed=token_speed(tokens_per_s))
