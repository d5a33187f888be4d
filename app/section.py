"""The base of the sections of the configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
