"""Training time without waiting, and the queue position of a waiting job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0010"

_STARTED = "Fine-tuning job started"  # the wording of OpenAI's and our engine's job events


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("queue_position", sa.Integer()))
    op.add_column("training_jobs", sa.Column("estimated_start", sa.DateTime(timezone=True)))
    op.add_column("training_jobs", sa.Column("training_s", sa.Double()))
    op.add_column("training_jobs", sa.Column("running_since", sa.DateTime(timezone=True)))
    _fill()


def _fill() -> None:
    """The training time of jobs that have ended, from the event of their start; it stays unknown without one."""
    moment = sa.DateTime(timezone=True)
    jobs = sa.table(
        "training_jobs",
        sa.column("id", sa.String),
        sa.column("finished_at", moment),
        sa.column("training_s", sa.Double),
    )
    events = sa.table(
        "training_events", sa.column("job_id", sa.String), sa.column("at", moment), sa.column("message", sa.Text)
    )
    started = (
        sa.select(events.c.job_id, sa.func.min(events.c.at, type_=moment).label("at"))
        .where(events.c.message.like(f"{_STARTED}%"))
        .group_by(events.c.job_id)
        .subquery()
    )
    connection = op.get_bind()
    query = sa.select(jobs.c.id, jobs.c.finished_at, started.c.at).join(started, started.c.job_id == jobs.c.id)
    for job_id, finished, began in connection.execute(query.where(jobs.c.finished_at.is_not(None))).all():
        seconds = max(0.0, (finished - began).total_seconds())
        connection.execute(jobs.update().where(jobs.c.id == job_id).values(training_s=seconds))


def downgrade() -> None:
    for name in ("running_since", "training_s", "estimated_start", "queue_position"):
        op.drop_column("training_jobs", name)
