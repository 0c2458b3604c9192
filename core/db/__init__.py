"""The ledger: tables, sessions and migrations. SQLite in the home folder, or Postgres by `DATABASE_URL`."""
