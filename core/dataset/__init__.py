"""Data sets: recipe → grid → rows in the ledger → finished examples → training file."""
