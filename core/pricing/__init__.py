"""Money: prices as data with their sources, estimates before you start something, and actual spending."""
