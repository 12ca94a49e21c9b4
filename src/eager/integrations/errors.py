"""What the integrations refuse, in one sentence."""

from __future__ import annotations

from importlib.util import find_spec

from eager.errors import EagerError


class IntegrationError(EagerError):
    """The other library is missing, or asks for what cannot be done; the message names the remedy."""


def require(module: str, extra: str) -> None:
    """IntegrationError where `module` is not installed; `extra` is this project's that brings it."""
    if find_spec(module) is None:
        raise IntegrationError(f"{module} is not installed: pip install 'eager-gen[{extra}]'")
