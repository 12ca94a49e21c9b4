"""Whole trees over HTTP: what is asked of a server that grows them and what it answers, to JSON and back.

docs/tree-requests.md says it in words, with the schemas.
"""

from eager.wire.kinds import VERSION, WireError
from eager.wire.messages import (
    About,
    Alive,
    Begun,
    Branched,
    Ended,
    Event,
    Failed,
    Finished,
    TreeRequest,
    about_json,
    answer_json,
    event_json,
    read_about,
    read_answer,
    read_event,
    read_request,
    request_json,
)
from eager.wire.tables import MAX_SEQUENCES, RULES, schemas

ABOUT_PATH = "/v1/eager"
TREES_PATH = "/v1/eager/trees"
"""Below /v1, which is where vLLM asks for its key."""

__all__ = [
    "ABOUT_PATH",
    "MAX_SEQUENCES",
    "RULES",
    "TREES_PATH",
    "VERSION",
    "About",
    "Alive",
    "Begun",
    "Branched",
    "Ended",
    "Event",
    "Failed",
    "Finished",
    "TreeRequest",
    "WireError",
    "about_json",
    "answer_json",
    "event_json",
    "read_about",
    "read_answer",
    "read_event",
    "read_request",
    "request_json",
    "schemas",
]
