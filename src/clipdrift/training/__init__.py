"""One fine-tuning: prepare, train, measure, save, record, and resume."""
