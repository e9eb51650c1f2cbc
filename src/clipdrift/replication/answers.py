"""Rows of a study's analysis, looked up by the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clipdrift.analysis.runs import accuracy, retentions
from clipdrift.errors import ClipdriftError
from clipdrift.outcomes.keys import Estimand, Group, key, key_of
from clipdrift.outcomes.places import Place, places_of
from clipdrift.replication.checks import EvidenceRow
from clipdrift.study.tables import Tables

LAND_USE = ("eurosat", "land-use-7")
FINE = ("pets", "pets-37")
"""Targets that play these parts where none is named."""


class ClaimsError(ClipdriftError):
    """A study that the published findings cannot be laid beside."""


@dataclass(frozen=True)
class TargetRoles:
    """Targets that play the parts of the published ones; None where the study has none.

    Attributes:
        land_use: the coarse one, in place of EuroSAT.
        fine: the fine-grained one, in place of Oxford-IIIT Pets.
    """

    land_use: str | None
    fine: str | None


class Answers:
    """A study's analysis, twice: of the arms with several rates (``sweep``), and of all runs (``study``).

    Two analyses, so that runs with one rate and unusual options, which only some findings are about, do not
    enter the others nor enlarge their families of tests.
    """

    def __init__(self, tables: Tables, roles: TargetRoles) -> None:
        if tables.runs["backbone"].nunique() > 1:
            names = ", ".join(map(str, dict.fromkeys(tables.runs["backbone"])))
            raise ClaimsError(f"the runs have several backbones ({names}); findings are judged for one")
        ready = tables.prepared
        rates = ready.groupby("arm")["log_rate"].transform("nunique")
        self.roles = roles
        self._parts = {"study": tables, "sweep": tables.keep(ready.loc[rates > 1, "run"])}
        self._swept = ready[rates > 1]
        self._ready = ready
        if not retentions(ready):
            raise ClaimsError("the runs have no retention; name a transfer set in data.transfer")
        self._found: dict[tuple[str, str], dict[tuple[Any, ...], list[Mapping[str, Any]]]] = {}

    @cached_property
    def places(self) -> list[Place]:
        """Targets of the sweep."""
        return list(places_of(self._swept).values())

    @cached_property
    def land_use(self) -> Place:
        """The place of the land-use target; one without runs, where the study has none."""
        return self._place(self.roles.land_use)

    @cached_property
    def fine(self) -> Place:
        """The place of the fine-grained target; one without runs, where the study has none."""
        return self._place(self.roles.fine)

    def _place(self, target: str | None) -> Place:
        known = {place.target: place for place in places_of(self._ready).values()}
        return known.get(target or "", Place(target or ""))

    @cached_property
    def kept(self) -> str:
        """The column of retention that findings are about: the first one."""
        return retentions(self._ready)[0]

    @cached_property
    def learnt(self) -> str:
        """The column of accuracy: on test images, or on validation images where there is no other."""
        return accuracy(self._ready)

    def usual(self, place: Place, method: str, option: str) -> Any:
        """The value of an option in a method's usual arm; None where there is no such arm."""
        arm = self._ready[(self._ready["place"] == str(place)) & (self._ready["variant"] == method)]
        return arm[option].iloc[0] if len(arm) and option in arm else None

    def rates(self, place: Place, method: str) -> list[float]:
        """Learning rates of a method's arm in the sweep, ascending."""
        arm = self._swept[(self._swept["place"] == str(place)) & (self._swept["variant"] == method)]
        return sorted(set(map(float, arm["learning_rate"])))

    def variants(self, place: Place, method: str) -> list[Variant]:
        """Unusual arms of a method, by name and value: options and penalties, over all runs."""
        arms = self._ready[(self._ready["place"] == str(place)) & (self._ready["method"] == method)]
        first = arms.drop_duplicates("variant")
        found = [
            Variant(str(name), dict(changed))
            for name, changed in zip(first["variant"], first["changed"], strict=True)
            if changed
        ]
        return sorted(found, key=lambda variant: variant.order)

    def row(self, part: str, question: str, group: Group, statistic: Estimand, test: str = "") -> EvidenceRow:
        """A row of the analysis by its keys, of a test where one is named."""
        if (part, question) not in self._found:
            by_key: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
            for record in self._parts[part].rows(question).to_dict("records"):
                row: Mapping[str, Any] = {str(k): v for k, v in record.items()}
                by_key.setdefault(key_of(row), []).append(row)
            self._found[part, question] = by_key
        for row in self._found[part, question].get(key(group, statistic), []):
            if test in ("", row["test"]):
                return EvidenceRow(part, question, group, statistic, str(row["test"]), row)
        return EvidenceRow(part, question, group, statistic, test)


@dataclass(frozen=True)
class Variant:
    """An arm that is not its method's usual one.

    Attributes:
        name: as analysis names it.
        changed: its unusual options, with their values in words.
    """

    name: str
    changed: Mapping[str, str]

    @property
    def order(self) -> tuple[tuple[str, ...], float]:
        """Options first, then the value of the last one where that is a number: rank 4 before rank 16."""
        *before, (last, value) = self.changed.items()
        words = [word for option in before for word in option] + [last]
        try:
            return tuple(words), float(value)
        except ValueError:
            return (*words, value), 0.0


def target_roles(tables: Tables, land_use: str | None = None, fine: str | None = None) -> TargetRoles:
    """Assign the parts: as named, else to the known targets of the study.

    Raises:
        ClaimsError: a named target has no run.
    """
    names = set(map(str, tables.runs["target"]))
    for name in (land_use, fine):
        if name is not None and name not in names:
            raise ClaimsError(f"no run has the target {name}; there are {', '.join(sorted(names))}")
    return TargetRoles(
        land_use or next((n for n in LAND_USE if n in names), None),
        fine or next((n for n in FINE if n in names), None),
    )
