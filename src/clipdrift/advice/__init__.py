"""Advice: which setting to take under a constraint, how sure that is, what to run next. Loads no torch."""

from clipdrift.advice.advising import advise
from clipdrift.advice.errors import AdviceError
from clipdrift.advice.result import Advice

__all__ = ["Advice", "AdviceError", "advise"]
