"""Keep transformers' and peft's bars and notices out of our output: what they say is checked by us."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence libraries while something is loaded or saved; settings are restored afterwards."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers about itself, called by peft
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
