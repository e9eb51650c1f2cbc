"""How a backbone is adapted: a table of methods, each a function that prepares the model in place."""

from clipdrift.adapt.methods import METHODS, Adapted, adapt
from clipdrift.adapt.saved import load_adapted, load_head
from clipdrift.model.weights import effective_weights

__all__ = ["METHODS", "Adapted", "adapt", "effective_weights", "load_adapted", "load_head"]
