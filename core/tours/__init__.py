"""The guided tour: composed stories, a small model trained on them, before and after. Start with `core.tours.tour`."""
