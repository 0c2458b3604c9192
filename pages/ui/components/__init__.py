"""What several pages draw: cards and fields, pickers for models, money, a story with its facts, warnings."""
