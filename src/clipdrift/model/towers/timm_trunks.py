"""Image towers of OpenCLIP that are one of timm's trunks: which they are, and which are refused.

Neither library is imported: classes are known by their names. What a trunk is pooled by decides what is read:
a class token has attention; a mean over places has nobody who looks, and so no attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clipdrift.model.towers import timm_eva, timm_transformers
from clipdrift.model.towers.base import Tower, UnsupportedModelError
from clipdrift.model.towers.timm_stages import STAGED, StagedTrunk

_TRANSFORMERS: Mapping[str, tuple[Callable[[Any], str | None], Callable[[Any], Tower]]] = {
    "VisionTransformer": (timm_transformers.why_not_read, timm_transformers.TransformerTrunk.of),
    "Eva": (timm_eva.why_not_read, timm_eva.EvaTrunk.of),
}
"""By timm's class: what says why one is not read, and what makes its tower."""

_NOT_READ: Mapping[str, str] = {
    "VisionTransformerRelPos": "adds a bias by relative position to its scores, where no hook reaches",
}
"""Why the attention of a trunk's class token cannot be read; by timm's class."""


def timm_tower(model: Any) -> Tower:
    """Make the tower of an OpenCLIP model with a TimmModel.

    Raises:
        UnsupportedModelError: a trunk of another class, another pooling, images that are not square,
            attention that cannot be read.
    """
    visual = model.visual
    trunk = visual.trunk
    package, kind = type(trunk).__module__.partition(".")[0], type(trunk).__name__
    reason = None
    height, width = visual.image_size
    pool = next((type(part).__name__ for name, part in visual.head.named_children() if name == "pool"), None)
    if height != width:
        reason = f"its images are not square ({height}*{width})"
    elif pool is not None:
        reason = f"its images are pooled by timm's {pool}"
    elif package == "timm" and kind in STAGED:
        return StagedTrunk.of(model, STAGED[kind])
    elif package == "timm" and kind in _TRANSFORMERS:
        why_not_read, make = _TRANSFORMERS[kind]
        reason = why_not_read(trunk)
        if reason is None:
            return make(model)
    elif package == "timm" and kind in _NOT_READ:
        reason = f"its image tower is timm's {kind}, which {_NOT_READ[kind]}"
    else:
        known = ", ".join((*STAGED, *_TRANSFORMERS))
        reason = f"its image tower is {package}'s {kind}; of timm's (TimmModel) these are read: {known}"
    name = type(model)
    raise UnsupportedModelError(f"{name.__module__}.{name.__name__} is not supported: {reason}")
