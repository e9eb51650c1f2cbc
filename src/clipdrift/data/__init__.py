"""Data sources, splits, decoding, pixel cache, generated worlds."""
