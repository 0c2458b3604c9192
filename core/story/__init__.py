"""Stories: streamed as they are written, side by side, voted on, kept on the shelf, taken on to training."""
