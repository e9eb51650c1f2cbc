"""Measures of a model: attention, representation, weights, ability. One file per family."""

from clipdrift.measures.accuracy import accuracy, embed, zero_shot_accuracy
from clipdrift.measures.attention import ATTENTION
from clipdrift.measures.drift import Blocks, Drift, drift
from clipdrift.measures.errors import MeasureError, NotFiniteError
from clipdrift.measures.flow import FLOW
from clipdrift.measures.internals import Internals, read_internals
from clipdrift.measures.readings import Reading, internal_readings, own_readings, readings, weight_readings
from clipdrift.measures.representation import REPRESENTATION, cka_matrix, cka_minibatch, representation
from clipdrift.measures.retrieval import embed_texts, ranks_both_ways, recall_at, retrieval
from clipdrift.measures.text_tower import TextInternals, read_texts, text_readings, text_weight_readings
from clipdrift.measures.weights import (
    CONVOLUTIONS,
    GATED,
    KINDS,
    Spectrum,
    absent_kinds,
    spectra,
    task_vector_cosines,
    weights,
    weights_by_kind,
)

__all__ = [
    "ATTENTION",
    "CONVOLUTIONS",
    "FLOW",
    "GATED",
    "KINDS",
    "REPRESENTATION",
    "Blocks",
    "Drift",
    "Internals",
    "MeasureError",
    "NotFiniteError",
    "Reading",
    "Spectrum",
    "TextInternals",
    "absent_kinds",
    "accuracy",
    "cka_matrix",
    "cka_minibatch",
    "drift",
    "embed",
    "embed_texts",
    "internal_readings",
    "own_readings",
    "ranks_both_ways",
    "read_internals",
    "read_texts",
    "readings",
    "recall_at",
    "representation",
    "retrieval",
    "spectra",
    "task_vector_cosines",
    "text_readings",
    "text_weight_readings",
    "weight_readings",
    "weights",
    "weights_by_kind",
    "zero_shot_accuracy",
]
