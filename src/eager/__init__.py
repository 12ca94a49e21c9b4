"""EAGer: entropy-aware generation (arXiv 2510.11170); docs/python.md describes what is here.

The names are imported when they are first used, so that `import eager` takes no time.
"""

from __future__ import annotations

# Not `typing`'s: `python -m eager` runs this while the current folder still is where Python looks first.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from eager.api import (
        AnswerGrader,
        ApiError,
        Branch,
        Branched,
        BranchingParams,
        EagerError,
        Ended,
        Engine,
        EngineError,
        Event,
        Finished,
        Grader,
        Progress,
        Prompt,
        SamplingParams,
        Sequence,
        Tree,
        Vote,
        aallocate,
        agenerate,
        allocate,
        astream,
        from_json,
        generate,
        load_engine,
        stream,
        to_json,
        vote,
    )

__version__ = "0.1.0"

__all__ = [
    "AnswerGrader",
    "ApiError",
    "Branch",
    "Branched",
    "BranchingParams",
    "EagerError",
    "Ended",
    "Engine",
    "EngineError",
    "Event",
    "Finished",
    "Grader",
    "Progress",
    "Prompt",
    "SamplingParams",
    "Sequence",
    "Tree",
    "Vote",
    "aallocate",
    "agenerate",
    "allocate",
    "astream",
    "from_json",
    "generate",
    "load_engine",
    "stream",
    "to_json",
    "vote",
]


if not TYPE_CHECKING:  # it would let every name pass

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'eager' has no attribute '{name}'")
        from eager import api

        value = globals()[name] = getattr(api, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
