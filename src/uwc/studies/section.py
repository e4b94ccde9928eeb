"""What the sections of a study's file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a study's file: unknown keys and numbers that are not finite are refused; what was read stays."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
