"""Parts of the data-set page."""
