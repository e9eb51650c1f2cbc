"""Every formula once: pure functions of tensors, shared by measures and penalties.

Attention weights ``(..., P)`` are a distribution over patches; they need not be normalised (each function
divides by the sum), must be finite and non-negative, and must not sum to zero. Attention maps ``(..., T, T)``
are whole post-softmax maps over T tokens: the class token, if the model has one, then P patches. Functions
keep the floating dtype they are given, half precision is raised to float32, and all are differentiable unless
said.
"""

from __future__ import annotations

from clipdrift.formulas.ability import (
    coefficient_of_variation,
    match_ranks,
    recall_at_k,
    zero_shot_agreement,
    zero_shot_kl,
)
from clipdrift.formulas.attention import (
    attention_kl,
    effective_receptive_field,
    entropy,
    gini,
    head_diversity,
    head_diversity_by_head,
    normalised_entropy,
    sink_patches,
    sink_share,
)
from clipdrift.formulas.cka_sums import CkaSums
from clipdrift.formulas.contrastive import calibrating_bias, contrastive_loss, sigmoid_loss
from clipdrift.formulas.flow import NATS_PER_BIT, bits, patch_entropy, rollout, rollout_step
from clipdrift.formulas.gram import cka, cka_estimates, cka_matrix, minibatch_cka
from clipdrift.formulas.jackknife import leave_one_out_cka
from clipdrift.formulas.joint import alignment, median_rank, modality_gap, uniformity
from clipdrift.formulas.maps import ridge_map, rotation_map
from clipdrift.formulas.neighbours import cosines, nearest, neighbour_overlap, rank_agreement
from clipdrift.formulas.overlap import covariance_overlap
from clipdrift.formulas.representation import embedding_drift
from clipdrift.formulas.task_vectors import model_stock_ratio, task_vector_cosine
from clipdrift.formulas.weights import (
    effective_rank,
    intruder_dimensions,
    intruder_similarity,
    singular_values,
    weight_drift,
)

__all__ = [
    "NATS_PER_BIT",
    "CkaSums",
    "alignment",
    "attention_kl",
    "bits",
    "calibrating_bias",
    "cka",
    "cka_estimates",
    "cka_matrix",
    "coefficient_of_variation",
    "contrastive_loss",
    "cosines",
    "covariance_overlap",
    "effective_rank",
    "effective_receptive_field",
    "embedding_drift",
    "entropy",
    "gini",
    "head_diversity",
    "head_diversity_by_head",
    "intruder_dimensions",
    "intruder_similarity",
    "leave_one_out_cka",
    "match_ranks",
    "median_rank",
    "minibatch_cka",
    "modality_gap",
    "model_stock_ratio",
    "nearest",
    "neighbour_overlap",
    "normalised_entropy",
    "patch_entropy",
    "rank_agreement",
    "recall_at_k",
    "ridge_map",
    "rollout",
    "rollout_step",
    "rotation_map",
    "sigmoid_loss",
    "singular_values",
    "sink_patches",
    "sink_share",
    "task_vector_cosine",
    "uniformity",
    "weight_drift",
    "zero_shot_agreement",
    "zero_shot_kl",
]
