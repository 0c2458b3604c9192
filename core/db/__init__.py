"""The ledger: tables, sessions and migrations. SQLite in the home folder, or Postgres via `DATABASE_URL`.

Start with `store.Store`.
"""
