"""Comparing any two checkpoints: what the models and images are, and what became of one in the other."""
