"""Statistics of a study: the tidy table of its runs in, one row per test out. Loads no torch."""
