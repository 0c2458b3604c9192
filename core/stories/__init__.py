"""Stories: streaming, side-by-side comparison, votes, the library, and export to training data."""
