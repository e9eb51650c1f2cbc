"""What is read from a model: attention, representation, weights, ability. One file per family."""

from clipdrift.measure.accuracy import accuracy, zero_shot_accuracy
from clipdrift.measure.attention import ATTENTION
from clipdrift.measure.drift import Drift, drift
from clipdrift.measure.internals import Internals, MeasureError, read_internals
from clipdrift.measure.representation import REPRESENTATION, representation
from clipdrift.measure.weights import weights

__all__ = [
    "ATTENTION",
    "REPRESENTATION",
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
