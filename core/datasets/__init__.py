"""Data sets: recipe → grid → rows in the database → finished examples → training file."""
