"""EAGer without folders and command line: `import eager` has all of this (docs/python.md)."""

from eager.api.allocation import Grader, aallocate, allocate
from eager.api.answers import AnswerGrader, Vote, vote
from eager.api.errors import ApiError
from eager.api.events import Branched, Ended, Event, Finished
from eager.api.generation import BranchingParams, agenerate, astream, generate, stream
from eager.api.lines import from_json, to_json
from eager.api.prompts import Prompt
from eager.api.trees import Sequence, Tree
from eager.engines import Engine, EngineError, load_engine
from eager.errors import EagerError
from eager.generator import Progress
from eager.types import Branch, SamplingParams

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
