"""Alerts by webhook and e-mail when a run or job ends, fails or stalls, or when a budget is nearly used up.

`events` finds them in the ledger, `outbox` stores and claims them, `channels` sends them. `sender` is the worker's
thread that does all of this.
"""
