"""What OpenAI's clients ask and are answered, with trees behind it: no HTTP here, and no engine.

`read` makes a request of a body, `answered` grows what it asks for on a `Source`, and `Form` puts that into OpenAI's
words.
"""

from eager.chat.answering import answered, no_model
from eager.chat.errors import ChatError, error_json
from eager.chat.form import Form
from eager.chat.news import News, Piece, Scored, Spent
from eager.chat.request import Asked, Defaults, Prompt, TreeAsked, read
from eager.chat.savings import Savings
from eager.chat.source import Decoded, Source
from eager.chat.tables import OPERATIONS, Operation, body_schema
from eager.chat.votes import Voter

__all__ = [
    "OPERATIONS",
    "Asked",
    "ChatError",
    "Decoded",
    "Defaults",
    "Form",
    "News",
    "Operation",
    "Piece",
    "Prompt",
    "Savings",
    "Scored",
    "Source",
    "Spent",
    "TreeAsked",
    "Voter",
    "answered",
    "body_schema",
    "error_json",
    "no_model",
    "read",
]
