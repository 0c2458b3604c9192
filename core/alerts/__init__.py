"""Alerts by webhook and e-mail when a run or job ends, fails or stalls, when a budget is nearly used up, or when
someone asks for a higher one.

`events` finds them in the ledger, `outbox` stores and claims them, `channels` sends them. `sender` is the worker's
thread that does all of this.
"""
