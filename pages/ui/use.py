"""Use: split, check, price, take away, train."""

from __future__ import annotations

from pages.ui import dataset_picker


def show() -> None:
    """The whole part."""
    dataset_picker.pick()
