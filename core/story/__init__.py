"""Stories: streamed as they are written, side by side, voted on, kept in the library, taken on to training."""
