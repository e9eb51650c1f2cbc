"""Adaptation: a table of methods, each preparing a model in place, and the penalties."""

from clipdrift.adapt.adapted import Adapted
from clipdrift.adapt.heads import Head, ZeroShotHead, load_head, zero_shot_head
from clipdrift.adapt.methods import METHODS, adapt, check_method
from clipdrift.adapt.penalties import PENALTIES, FixedTexts, Penalties, Setting, build, check_penalties
from clipdrift.adapt.saved import load_adapted
from clipdrift.model.weights import effective_weights

__all__ = [
    "METHODS",
    "PENALTIES",
    "Adapted",
    "FixedTexts",
    "Head",
    "Penalties",
    "Setting",
    "ZeroShotHead",
    "adapt",
    "build",
    "check_method",
    "check_penalties",
    "effective_weights",
    "load_adapted",
    "load_head",
    "zero_shot_head",
]
