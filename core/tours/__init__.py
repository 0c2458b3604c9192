"""The guided tour: composed stories, a model trained on them, texts before and after. Start with `core.tours.tour`."""
