"""Why a step does not run although nothing has failed: signals from the templates and conditions of a step to whoever runs it."""


class LeftOut(Exception):
    """A condition does not hold, or there is nothing to ask for: the step's key is missing in the response, or its default stands there."""

    state = "left_out"
    """What explain calls it."""


class NotNeeded(LeftOut):
    """A reference with `?` found null: the step's value is its default, else null."""

    state = "not_needed"
