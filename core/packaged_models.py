"""The models that ship with the studio, by name: the base that everything is trained on, and the writers made of it.

The engine serves them (`core.engine.models`), `data.storyteller.make` makes the writers. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping

BASE = "gemma-3-270m"
"""The base; see `core.engine.weights` for its file."""
WRITERS: Mapping[str, str] = {"storyteller": "zh_CN", "storyteller-en": "en"}
"""Each writer, and the language of the presets whose prompts it was trained on. The first is the default writer."""


def writer(language: str) -> str:
    """The writer that was trained on the presets of a language.

    >>> writer("en")
    'storyteller-en'

    Raises:
        KeyError: there is none for this language.
    """
    return {one: name for name, one in WRITERS.items()}[language]
