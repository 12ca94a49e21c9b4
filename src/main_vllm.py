"""`python -m src.main_vllm …` from the repository's root: `eager run` with engine vllm unless --engine is given."""

from __future__ import annotations

import sys

from eager.cli import main


def with_engine(arguments: list[str]) -> list[str]:
    """The arguments of `eager`, for what `main_vllm` was given."""
    is_chosen = any(argument.split("=")[0] == "--engine" for argument in arguments)
    return ["run", *([] if is_chosen else ["--engine", "vllm"]), *arguments]


if __name__ == "__main__":
    main(with_engine(sys.argv[1:]))
