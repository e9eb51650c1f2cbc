"""Decide whether a tuned model may ship: rules on a comparison, each judged with its sampling error.

This front exports the result, plain data that loads no torch; the work starts in :mod:`.checking`.
"""

from clipdrift.decision.result import CardFacts, Checked, CheckError, Estimate, HeadFacts, RuleResult

__all__ = ["CardFacts", "CheckError", "Checked", "Estimate", "HeadFacts", "RuleResult"]
