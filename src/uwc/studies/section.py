"""What the sections of a study's file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a study's file: unknown keys are refused, and what was read stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
