"""Axis legend and jaxtyping aliases.

B images, L blocks, H heads, P patches, D width of the image tower, E width of the joint embedding,
C classes, K parameters. ``P1`` is ``1+P``: the CLS token first, then the patches.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

Images = Float[Tensor, "B 3 height width"]
Bytes = UInt8[Tensor, "B height width 3"]
Flips = Bool[Tensor, " B"]
Tokens = Float[Tensor, "B T D"]
FeatureMap = Float[Tensor, "B D rows columns"]
Labels = Int64[Tensor, " B"]
Embedding = Float[Tensor, "B E"]
Logits = Float[Tensor, "B C"]
ClassFeatures = Float[Tensor, "C E"]
States = Float[Tensor, "L B D"]
Rows = Float32[Tensor, "L B H P1"]
Norms = Float32[Tensor, "L B P"]
