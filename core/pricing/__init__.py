"""Money: prices as data with their sources, estimates before the button, and what was really spent."""
