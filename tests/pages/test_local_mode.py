"""Local mode has one user: no page has the controls of a team."""

from __future__ import annotations

import pytest

from core.db.store import Store
from tests.support import ledger_rows
from tests.support.app_pages import visit


@pytest.mark.parametrize(
    ("page", "part", "controls"),
    [
        ("dataset", {"dataset_part": "rows"}, ("dataset_owner", "sharing_dataset_{dataset}")),
        ("training", {"training_part": "jobs"}, ("training_owner", "sharing_job_{job}")),
        ("story", {"story_part": "shelf"}, ("story_filter_owner", "sharing_story_{story}")),
        ("settings", {}, ("settings_audit", "settings_invite_email")),
    ],
)
def test_a_page_has_no_controls_of_a_team(
    store: Store, page: str, part: dict[str, str], controls: tuple[str, ...]
) -> None:
    made = {
        "dataset": ledger_rows.put_dataset(store, "heroes", 3, 2),
        "job": ledger_rows.put_job(store, status="succeeded"),
        "story": ledger_rows.put_story(store, 1),
    }
    at = visit(page, **part)
    assert [key for control in controls if (key := control.format(**made)) in at.session_state] == []
