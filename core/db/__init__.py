"""The ledger: tables, sessions and migrations. SQLite in the home directory, or PostgreSQL via `DATABASE_URL`.

Start reading at `store.Store`.
"""
