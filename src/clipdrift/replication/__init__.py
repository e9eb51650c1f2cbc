"""Published findings and values, and a study laid beside them. Loads no torch.

:func:`replicate` judges fourteen findings by rows of a study's analysis. Each finding has its rule stated
beside it; a verdict follows from the rule alone.
"""

from __future__ import annotations

from clipdrift.replication import ability, attention, settings
from clipdrift.replication.answers import Answers, ClaimsError, TargetRoles, target_roles
from clipdrift.replication.checks import Check, EvidenceRow, Finding
from clipdrift.study.tables import Tables

__all__ = ["Check", "ClaimsError", "EvidenceRow", "Finding", "TargetRoles", "replicate"]


def replicate(tables: Tables, land_use: str | None = None, fine: str | None = None) -> list[Finding]:
    """Judge the published findings by a study, in their order.

    Findings that the study has no runs for are told as ``cannot be told``.

    Args:
        tables: of a study with one backbone; full_ft and lora at several rates each, for most findings.
        land_use: target in place of EuroSAT; ``eurosat`` or ``land-use-7`` if not given.
        fine: target in place of Oxford-IIIT Pets; ``pets`` or ``pets-37`` if not given.

    Raises:
        ClaimsError: several backbones, no retention, or no run with a named target.
    """
    answers = Answers(tables, target_roles(tables, land_use, fine))
    found = [finding for part in (attention, ability, settings) for finding in part.findings(answers)]
    return sorted(found, key=lambda finding: finding.number)
