"""What stops an evaluation."""

from eager.errors import EagerError


class CodeEvalError(EagerError):
    """The code cannot be evaluated here; the message is one sentence that names the reason and the remedy."""
