"""What is read from a model: attention, representation, weights, ability. One file per family."""

from clipdrift.measures.accuracy import accuracy, zero_shot_accuracy
from clipdrift.measures.attention import ATTENTION
from clipdrift.measures.drift import Blocks, Drift, drift
from clipdrift.measures.internals import Internals, MeasureError, read_internals
from clipdrift.measures.representation import REPRESENTATION, representation
from clipdrift.measures.weights import weights

__all__ = [
    "ATTENTION",
    "REPRESENTATION",
    "Blocks",
    "Drift",
    "Internals",
    "MeasureError",
    "accuracy",
    "drift",
    "read_internals",
    "representation",
    "weights",
    "zero_shot_accuracy",
]
