"""What a run does when a number crosses a bound. The rules' grammar is read later, by ``clipdrift.rules``."""

from __future__ import annotations

from pydantic import Field, field_validator

from clipdrift.config.base import MACHINE, Frozen

CONDITIONS = ("warn_when", "stop_when", "keep_best_when", "reduce_rate_when")


class RulesConfig(Frozen):
    """Judged at every look at the model. A rule is a text such as `embedding_drift >= 0.28`; several are a
    list."""

    warn_when: tuple[str, ...] = Field(
        (), description="Say so, and note it in the record.", json_schema_extra=MACHINE
    )
    stop_when: tuple[str, ...] = Field((), description="End the training there; the run is done.")
    keep_best_when: tuple[str, ...] = Field(
        (), description="Choose among the epochs for which all of these hold; none: among all."
    )
    reduce_rate_when: tuple[str, ...] = Field(
        (), description="Multiply the rates by `factor` from there on, once whenever it begins to be so."
    )
    patience: int = Field(
        1, ge=1, description="Measurements in a row in which a bound must be crossed before anything follows."
    )
    warm_up: int = Field(0, ge=0, description="Steps before which nothing is warned of, stopped or reduced.")
    factor: float = Field(0.5, gt=0, lt=1, description="What reduce_rate_when multiplies the rates by.")

    @field_validator(*CONDITIONS, mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in several):
            raise ValueError('write a rule, as in "embedding_drift >= 0.28", or a list of them')
        return tuple(several)

    def acting(self) -> RulesConfig:
        """The part that changes a result; what only warns, or waits for a rule that is not there, is at its
        default."""
        left = {"stop_when", "keep_best_when", "reduce_rate_when"}
        if self.stop_when or self.reduce_rate_when:
            left |= {"patience", "warm_up"}
        if self.reduce_rate_when:
            left |= {"factor"}
        return RulesConfig.model_validate({name: getattr(self, name) for name in sorted(left)})
