"""One run: prepare, train, measure, save, record, resume."""
