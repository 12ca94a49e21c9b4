"""An engine for the length of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eager.api.errors import ApiError
from eager.engines import ENGINES, Engine, load_engine
from eager.generator import Generator
from eager.types import BranchConfig
from eager.whole_trees import TreeGenerator, whole_trees_for


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


def driver_of(engine: Engine, rules: BranchConfig, *, trees_only: bool, record_all: bool) -> Generator | TreeGenerator:
    """What grows trees by these rules: whole ones where nobody looks at what grows, nor at what whole trees lack."""
    trees = whole_trees_for(engine, rules)
    if trees is None or not trees_only or record_all:
        return Generator(engine)
    return TreeGenerator(engine, trees)
