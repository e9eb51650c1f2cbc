"""Forecast before any training: how much there is to gain, how far it is, what a first step moves.

This front exports the result, plain data that loads no torch; the work starts in :mod:`.forecast`.
"""

from clipdrift.forecasting.result import (
    FirstStep,
    Forecast,
    ForecastError,
    ForecastImages,
    Gradient,
    Suggestion,
    TransferFacts,
    read_forecast,
)

__all__ = [
    "FirstStep",
    "Forecast",
    "ForecastError",
    "ForecastImages",
    "Gradient",
    "Suggestion",
    "TransferFacts",
    "read_forecast",
]
