"""The one base class of every value that crosses a boundary."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value; unknown fields are refused, so that a typo never passes silently.

    What a value was is in no message about it: such messages end up in logs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
