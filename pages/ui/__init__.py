"""What the pages share: language, session state, cached reads, cards and small views."""
