"""Names of the files in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = "config.json"
"""What the run is; written first."""
METRICS = "metrics.jsonl"
"""One line for each look at the model, as it comes."""
RECORD = "record.json"
"""Written last: the run is finished."""
WEIGHTS = "model"
"""Folder of the saved weights."""
HEAD = "head.safetensors"
"""Among them: what was trained beside the model, where there is such a thing."""
MAPS = "maps.npz"
"""Attention of some probe images, before and after."""
MANIFEST = "weights.json"
"""Sizes and checksums of the saved weights."""
CHECKPOINT = "checkpoint.pt"
"""Where an unfinished run goes on."""
FAILURE = "failure.json"
"""Why the last try failed."""
LOCK = "lock"
"""Locked by the process that is at work."""
OWNER = "owner.json"
"""Who that is, for people."""
PULSE = "pulse"
"""Touched while the work goes on."""


def cache_folder(given: Path | None) -> Path:
    """Folder of what runs share: as given, $CLIPDRIFT_CACHE, or ~/.cache/clipdrift."""
    if given is not None:
        return given
    return Path(os.environ.get("CLIPDRIFT_CACHE") or Path.home() / ".cache" / "clipdrift")
