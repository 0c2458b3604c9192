"""The theme is readable: contrasts of `.streamlit/config.toml` by the formula of WCAG 2.2."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

_THEME = tomllib.loads((Path(__file__).parents[2] / ".streamlit" / "config.toml").read_text("utf-8"))["theme"]
_TEXT, _LARGE = 4.5, 3.0  # minimum contrast of text; of large text and UI components (WCAG 2.2, level AA)
_CAPTION = 0.6  # Streamlit draws captions in the text colour with this opacity


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def _luminance(rgb: tuple[float, ...]) -> float:
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("background", ["backgroundColor", "secondaryBackgroundColor"])
@pytest.mark.parametrize(
    ("name", "opacity", "least"),
    [
        ("textColor", 1, _TEXT),
        ("textColor", _CAPTION, _TEXT),
        ("linkColor", 1, _TEXT),
        ("grayColor", 1, _TEXT),
        ("blueColor", 1, _TEXT),
        ("redColor", 1, _TEXT),
        ("primaryColor", 1, _LARGE),
        ("greenColor", 1, _LARGE),
        ("orangeColor", 1, _LARGE),
        ("yellowColor", 1, _LARGE),
    ],
)
def test_what_is_drawn_on_a_background_can_be_read(
    scheme: str, background: str, name: str, opacity: float, least: float
) -> None:
    behind, front = _rgb(_THEME[scheme][background]), _rgb(_THEME[scheme][name])
    drawn = tuple(opacity * above + (1 - opacity) * below for above, below in zip(front, behind, strict=True))
    assert _contrast(drawn, behind) >= least


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_code_of_a_caption_can_be_read(scheme: str) -> None:
    behind, front = _rgb(_THEME[scheme]["codeBackgroundColor"]), _rgb(_THEME[scheme]["codeTextColor"])
    drawn = tuple(_CAPTION * above + (1 - _CAPTION) * below for above, below in zip(front, behind, strict=True))
    assert _contrast(drawn, behind) >= _TEXT


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_a_primary_button_can_be_read(scheme: str) -> None:
    """Streamlit writes white on the primary colour in both schemes."""
    assert _contrast(_rgb("#FFFFFF"), _rgb(_THEME[scheme]["primaryColor"])) >= _TEXT


@pytest.mark.parametrize(("first", "second", "contrast"), [("#000000", "#FFFFFF", 21.0), ("#777777", "#FFFFFF", 4.48)])
def test_the_contrast_is_that_of_the_standard(first: str, second: str, contrast: float) -> None:
    assert _contrast(_rgb(first), _rgb(second)) == pytest.approx(contrast, abs=0.01)
