"""Alerts by webhook and e-mail when a run or job ends, fails or stalls, when a budget is nearly used up, when
someone asks for a higher one, or when a model in use stops soon.

`events` and `shutdown_events` find them in the ledger, `outbox` stores and claims them, `channels` sends them. `sender`
is the worker's thread that does all of this.
"""
