"""Fine-tune CLIP without breaking it."""

__version__ = "0.1.0"
