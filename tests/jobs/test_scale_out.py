"""Several workers on hosts of their own share one run on PostgreSQL: nothing is lost or paid for twice."""

from __future__ import annotations

import pytest

from core.generation.concurrency import DEFAULT_LIMIT
from tests.support import scale_out
from tests.support.postgres_server import PostgresAbsent

ROWS, WORKERS = 5_000, 4


@pytest.mark.slow
def test_a_run_shared_by_four_workers_survives_a_kill_a_restart_of_postgres_and_the_end_of_a_web_process() -> None:
    try:
        found = scale_out.shared_run(ROWS, WORKERS)
    except PostgresAbsent as exc:
        pytest.skip(f"PostgreSQL tests skipped: {exc}")
    if found.same_host:
        print(f"The workers ran on this host, because {found.same_host}.")
    assert (found.lost, found.bought_twice, found.rescue_files) == (0, 0, 0)
    assert len(found.clients) == WORKERS + 1 and min(found.clients.values()) >= DEFAULT_LIMIT  # each wrote a part
    assert found.recorded == sum(found.clients.values()) == ROWS
    # what the killed worker had sent may have been billed, so it counts
    assert found.unanswered == found.counted_at_worst_case == DEFAULT_LIMIT
