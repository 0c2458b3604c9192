"""Quality: what the rows are like, before training money is spent on them."""

from __future__ import annotations

from pages.ui import dataset_picker


def show() -> None:
    """The whole part."""
    dataset_picker.pick()
