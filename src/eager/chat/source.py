"""What answering asks of whatever grows the trees: an engine in this process, or the server around a plugin."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from eager.chat.request import Asked, Prompt
from eager.chat.votes import SettledBy
from eager.types import Stops, Token, TreeJob
from eager.wire import Alive, Branched, Ended, Finished


@dataclass(frozen=True, slots=True)
class Decoded:
    """New tokens of a tree that cannot branch, by sequence; told where they were asked for."""

    tokens: Mapping[int, Seq[Token]]


Event: TypeAlias = Decoded | Branched | Ended | Alive | Finished


class Source(Protocol):
    """Grows trees of one model. All of it is called from one event loop; where it fails, it raises EngineError."""

    model_name: str
    max_model_len: int
    stops: Stops

    def why_not(self, asked: Asked) -> str | None:
        """Why it cannot do what is asked, with the remedy; None where it can."""

    async def encode(self, prompt: Prompt) -> Seq[int]:
        """The prompt's ids, ready for the answer. Raises ChatError where the model cannot take it."""

    async def texts(self, sequences: Seq[Seq[int]]) -> list[str]:
        """The text of each, special tokens written out."""

    def grow(
        self, job: TreeJob, settled_by: SettledBy | None = None, *, tell_tokens: bool = False
    ) -> AsyncGenerator[Event, None]:
        """The tree as it grows, finished last. Closed or cancelled, all that is open of it ends at once.

        With `settled_by` it ends early, where the texts of its ended sequences, the shortest first, satisfy that.
        `tell_tokens`: with a Decoded for tokens as they come; of trees that cannot branch only.
        """
