"""The page of a guest as HTML: the stories of a round, a button to vote for each, and the result. Pure.

It has no script and loads nothing, so it opens quickly on every phone, even if 200 guests open it at the same time. All
texts are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable
from pathlib import Path

from core.i18n import translator
from core.message import percent
from core.stories.arena import LETTERS
from core.stories.guest_votes import GuestStory, GuestView

FIELD = "story"
"""The form's field: the id of the story, or `NONE`."""
NONE = "none"
REFRESH_S = 5
"""Seconds until a page that waits for something reloads itself."""
_STYLE = (Path(__file__).with_name("components") / "guest.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, browsers would send the form with `Origin: null`
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: no script, nothing from elsewhere, and the link is not passed on to other sites."""


def round_page(view: GuestView, language: str) -> str:
    """The page of a valid link."""
    _ = translator(language).gettext
    if view.state == "waiting":
        follows = f"<p>{html.escape(_('The stories appear here automatically.'))}</p>"
        return _page(_("The presenter has not shown finished stories yet."), follows, language, refresh=True)
    if view.state == "closed":
        heading = _("The vote has ended.")
    elif view.choice is None:
        heading = _("Which story is best?")
    else:
        heading = _("Thank you. You can change your vote until the vote ends.")
    parts = [_story(view, place, story, language) for place, story in enumerate(view.stories)]
    if view.state == "open":
        parts.append(_button(NONE, _("None of them")))
    if view.tally is not None:
        parts.append(f'<p class="note">{html.escape(_votes(view.tally.none, language, _("None of them")))}</p>')
    form = f'<form method="post">{"".join(parts)}</form>'
    changes = view.stage if view.state == "closed" else view.choice is not None
    return _page(heading, form, language, refresh=changes)


def message_page(sentence: str, next_step: str, language: str, *, back: bool) -> str:
    """A page with an error. `back`: with a link to the stories, as a reload would send the same vote again."""
    _ = translator(language).gettext
    link = f'<p><a href="">{html.escape(_("Show the stories"))}</a></p>' if back else ""
    return _page(sentence, f"<p>{html.escape(next_step)}</p>{link}", language, refresh=False)


def _story(view: GuestView, place: int, story: GuestStory, language: str) -> str:
    _ = translator(language).gettext
    letter = LETTERS[place]
    title = f"{letter} · {story.model}" if story.model else letter
    parts = [f"<h2>{html.escape(title)}</h2>", f"<p>{html.escape(story.text.strip())}</p>"]
    if view.tally is not None:
        votes = view.tally.votes[place]
        share = view.tally.share(place)
        parts.append(f'<meter min="0" max="1" value="{share:.3f}" aria-hidden="true"></meter>')
        parts.append(f'<p class="note">{html.escape(_votes(votes, language, percent(share, 0)))}</p>')
    if view.state == "open" and story.text.strip():
        parts.append(_button(story.id, _("{name} is best").format(name=letter)))
    chosen = ' class="chosen"' if view.choice == place else ""
    return f"<article{chosen}>{''.join(parts)}</article>"


def _votes(n: int, language: str, name: str) -> str:
    n_: Callable[[str, str, int], str] = translator(language).ngettext
    return f"{name} · {n_('{n} vote', '{n} votes', n).format(n=n)}"


def _button(value: str, label: str) -> str:
    return f'<button name="{FIELD}" value="{html.escape(value)}">{html.escape(label)}</button>'


def _page(heading: str, body: str, language: str, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if refresh else ""
    return (
        f'<!doctype html>\n<html lang="{language.replace("_", "-")}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        f"<title>Fabula</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(heading)}</h1>\n{body}\n</body></html>\n"
    )
