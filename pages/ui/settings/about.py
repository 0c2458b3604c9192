"""Where data is stored, and the versions and licences of the components."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from urllib.parse import urlsplit, urlunsplit

import streamlit as st

from core.jobs import recovery
from pages.ui import cache
from pages.ui.i18n import _, code, n_, plain

_PARTS = (
    "streamlit",
    "openai",
    "pandas",
    "altair",
    "sqlalchemy",
    "dbos",
    "genai-prices",
    "torch",
    "transformers",
    "xllamacpp",
)
_LONGEST_LICENCE = 120  # characters; anything longer is a licence text, not a name


def data_card() -> None:
    """Render the data folders and the database, without secrets."""
    settings = cache.settings()
    with st.container(border=True):
        st.subheader(_("Where your data is stored"), anchor=False)
        st.table(
            {
                _("Fabula's folder"): code(settings.home),
                _("Database"): code(_without_password(settings.database_url)),
                _("Engine: models, jobs"): code(settings.engine_home),
                **({_("Shared files"): code(settings.files_url)} if settings.files_url is not None else {}),
            },
            border="horizontal",
            alt=_("Where your data is stored"),
        )
        st.caption(_("To store data elsewhere, set `FABULA_HOME` or `DATABASE_URL` before you start Fabula."))
        if not settings.database_url.startswith("sqlite"):
            st.caption(
                _(
                    "These are the folders of this process. Rescue files of other web processes and workers are not "
                    "listed on this page: `python -m core.admin check` finds those of its `FABULA_HOME`."
                )
            )


def rescued_card() -> None:
    """Render rescue files with paid answers that do not belong to this database; nothing if there are none."""
    for rescue_file in recovery.unrestored_files(cache.settings().home):
        with st.container(border=True):
            st.subheader(_("Answers saved outside the database"), anchor=False)
            words = n_(
                "{n} paid answer does not belong to this database. It is saved in this file:",
                "{n} paid answers do not belong to this database. They are saved in this file:",
                rescue_file.lines,
            )
            st.warning(f"{words} {code(rescue_file.path)}", icon=":material/inventory_2:")
            st.caption(_("Restore the right database and restart: Fabula imports the answers. Or delete the file."))


def versions_card() -> None:
    """Render the versions of Python and the most important libraries, and their licences."""
    with st.container(border=True):
        st.subheader(_("Versions and licences"), anchor=False)
        found = {name: _version(name) for name in _PARTS}
        st.table(
            {
                "Python": plain(platform.python_version()),
                **{plain(name): plain(version) if version else _("not installed") for name, version in found.items()},
            },
            border="horizontal",
            alt=_("Versions and licences"),
        )
        st.caption(
            _(
                "The base model Gemma 3 270M is licensed under the Gemma terms of use; prices come from "
                "genai-prices (MIT)."
            )
        )


def _version(name: str) -> str:
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    licence = _licence(found)
    return f"{found['Version']}{f' · {licence}' if licence else ''}"


def _licence(found: metadata.PackageMetadata) -> str:
    """The licence named in a package's metadata: the `License-Expression` field, a classifier, or the older `License`
    field. The older field comes last, and only its first line: some packages contain the full licence text there.
    """
    named = [_field(found, "License-Expression")]
    named += [
        classifier.rpartition(" :: ")[2]
        for classifier in found.get_all("Classifier") or ()
        if classifier.startswith("License :: ") and not classifier.endswith("OSI Approved")
    ]
    named += _field(found, "License").strip().splitlines()[:1]
    return next((name for name in named if name and len(name) <= _LONGEST_LICENCE), "")


def _field(found: metadata.PackageMetadata, name: str) -> str:
    """The first value of a field; "" if a package does not have it."""
    values = found.get_all(name)
    return str(values[0]) if values else ""


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc.replace(f":{parts.password}@", ":…@") if parts.password else parts.netloc
    query = re.sub(r"(?i)((?:^|&)\w*password=)[^&]*", r"\1…", parts.query)
    if (netloc, query) == (parts.netloc, parts.query):
        return url  # urlunsplit would drop slashes of sqlite:////path
    return urlunsplit(parts._replace(netloc=netloc, query=query))
