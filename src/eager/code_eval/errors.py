"""What stops an evaluation."""


class CodeEvalError(Exception):
    """The code cannot be evaluated here; the message is one sentence that names the reason and the remedy."""
