"""The engine contract: everything here holds for every engine, and one test-suite checks it over all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence as Seq
from typing import Any, Protocol

from eager.errors import EagerError
from eager.types import BranchConfig, Delta, Request, Stops, TreeJob
from eager.wire import Event


class EngineError(EagerError):
    """The engine cannot start or go on; the message names the culprit and the remedy."""


class EngineLostError(EngineError):
    """The engine is lost for good: whatever is tried on it again fails, too."""


class PromptError(EngineError):
    """The model cannot take this prompt, whatever else it can."""


class TreeSource(Protocol):
    """Grows whole trees somewhere else; of each it tells events, the finished tree last."""

    def why_not(self, rules: BranchConfig) -> str | None:
        """Why it cannot grow trees by these rules; None where it can."""

    def open(self, tree_id: int, job: TreeJob) -> None:
        """Grow a tree; no other that is open has this id."""

    def close(self, tree_id: int) -> None:
        """Nothing more is wanted of a tree; one that is finished may be closed."""

    def take(self) -> list[tuple[int, Event]]:
        """What has come since the last call; waits a moment where nothing has. Raises EngineError when it is broken."""


class Engine(ABC):
    """Decodes many sequences at once from exact token ids.

    - An opened sequence is decoded until a stop id (delivered, `finish_reason="stop"`), until prompt and generated
      tokens together reach `max_length` ("length"), until it fails ("error", with a sentence) or is closed.
    - What is wrong with one sequence is an "error" of that one, in the next `step`: a request that cannot be decoded
      (no token, an id outside the vocabulary, a `max_length` that leaves no token or exceeds `max_model_len`), or
      logits that are no distribution. The others go on.
    - Sequences beyond `capacity` wait their turn; none is lost.
    - Every draw depends on the sequence's seed and the token's absolute position alone.
    - The tokens of one sequence arrive in order. After `close`, or `open` on the same id, nothing that was
      decoded before arrives any more.
    - An ended sequence may be named as `parent` until the next `step()`.
    - After a `step` that failed, what was open may be closed and opened anew: it is decoded from its token ids, and
      nothing of the failed step is taken for computed. An engine that knows it cannot raises EngineLostError.
    """

    name: str
    model_name: str
    capacity: int
    """How many sequences are decoded at once."""
    max_model_len: int
    """Bound on prompt and generated tokens of one sequence together."""
    stops: Stops
    notices: Seq[str] = ()
    """What the user should know before it begins, in sentences."""
    news: Seq[str] = ()
    """What the user should know and came up since; grows."""
    is_shut: bool = False
    """Whether `shutdown` was called."""
    whole_trees: TreeSource | None = None
    """Where whole trees can be had: sequences that fork need then not be driven one by one."""
    driver: object | None = None
    """Who has sequences open on it: `step` delivers to one alone. `take_for` sets it; who is done clears it."""

    @abstractmethod
    def open(self, request: Request) -> None:
        """Decode a sequence as requested. Opening an id that is open replaces it."""

    @abstractmethod
    def close(self, seq_id: int) -> None:
        """Stop decoding `seq_id`; one that has ended may be closed, and so may any on a broken or shut engine."""

    @abstractmethod
    def unmonitor(self, seq_id: int) -> None:
        """The entropies of `seq_id` are no longer needed: the engine may stop computing them, now, later or never."""

    @abstractmethod
    def step(self) -> list[Delta]:
        """Decode once; whatever became known since the last call, at most one delta a sequence.

        Raises EngineError when the engine itself is broken; a failure of one sequence is a delta with "error".
        """

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether one more sequence would be decoded in the next step rather than wait."""

    @property
    def waiting(self) -> str | None:
        """What keeps the engine from decoding at all, and for how long it will wait; None while it decodes."""
        return None

    @abstractmethod
    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation (`role`, `content`) in the model's chat template, ready for the answer.

        Raises PromptError where the template refuses it.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a bare text, begun as the model wants its texts to begin. Raises PromptError, as `encode_chat`."""

    @abstractmethod
    def decode(self, token_ids: Seq[int]) -> str:
        """The text of `token_ids`, special tokens written out. PromptError where an id is outside the vocabulary."""

    def versions(self) -> dict[str, str]:
        """Versions of what the results depend on, for the record."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What the results depend on and only a loaded model tells, by names as those of options; goes into JSON.

        A run goes on in its folder only where this is as it was.
        """
        return {}

    def shutdown(self) -> None:
        """Give back memory and processes, and close what is open; a second time it does nothing.

        Afterwards `open`, `step`, `encode_chat`, `encode` and `decode` raise EngineError, and the rest does nothing.
        """
        self.is_shut = True

    def take_for(self, driver: object) -> None:
        """Make this its `driver`; EngineError while another one has sequences or trees open."""
        if self.driver not in (None, driver):
            raise EngineError(
                "another Generator has trees open on this engine: let it finish them, or close() it"
                " (it is the engine's `driver`)"
            )
        self.driver = driver

    def _refuse_if_shut(self) -> None:
        if self.is_shut:
            raise EngineLostError(f"engine {self.name} with '{self.model_name}' was shut down: load it again")
