"""A run carried out: rows claimed, asked for, settled, within a pace and a budget."""
