"""Studies: which runs, doing them, and their records as tables."""
