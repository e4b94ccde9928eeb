"""The base class of sections of a study's file."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from uwc.metrics.suites import metric_name

MetricName = Annotated[str, AfterValidator(metric_name)]
"""A metric by name or label, converted to its name; an unknown one is unchanged."""


class Section(BaseModel):
    """A section of a study's file: unknown keys and numbers that are not finite are refused; what was read stays."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
