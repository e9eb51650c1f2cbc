"""Sweeps: find the most accurate fine-tuning that keeps enough, with a budget of runs. Loads no torch."""

from clipdrift.sweeping.errors import SweepError
from clipdrift.sweeping.result import Sweep, Trial

__all__ = ["Sweep", "SweepError", "Trial"]
