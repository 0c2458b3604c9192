"""Parts of the story page."""
