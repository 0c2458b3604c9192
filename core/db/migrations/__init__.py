"""Alembic's folder: `env.py` runs the scripts in `versions/` on the connection provided by `core.db.migrate`."""
