"""Watch a training that is not ours: measure the model in memory, follow rules, keep the last good state."""
