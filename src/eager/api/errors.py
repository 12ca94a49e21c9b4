"""What is wrong with a call."""

from eager.errors import EagerError


class ApiError(EagerError):
    """The call cannot be done; the message names the culprit and the remedy."""
