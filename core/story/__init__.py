"""Stories as they are told: streamed, kept, listed."""
