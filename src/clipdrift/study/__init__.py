"""Studies: plan many runs, do them here or on Ray, read their records as tables."""
