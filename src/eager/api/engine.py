"""An engine for the length of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eager.api.errors import ApiError
from eager.engines import ENGINES, Engine, load_engine


@contextmanager
def running(engine: Engine | str, model_name: str | None, options: Mapping[str, Any] | None) -> Iterator[Engine]:
    """The engine given, left as it is; or the one of that name, loaded now and shut down in the end."""
    if isinstance(engine, Engine):
        if model_name is not None or options:
            raise ApiError("model_name and engine_options are for an engine that is given by name: leave them out")
        yield engine
        return
    if not isinstance(engine, str):
        raise ApiError(f"engine must be an Engine or one of {', '.join(ENGINES)}, not {type(engine).__name__}")
    if model_name is None:
        raise ApiError(f"engine '{engine}' needs a model: give model_name")
    loaded = load_engine(engine, model_name, **(options or {}))
    try:
        yield loaded
    finally:
        loaded.shutdown()
