"""Parts of the cost page."""
