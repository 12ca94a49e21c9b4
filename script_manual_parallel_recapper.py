#!/usr/bin/env python3
"""Recap `outputs/MODEL/DATA/TIMESTAMP` and write its `.large` files: `eager recap --large` on that folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from eager.cli.recap import command  # only now can it be found without installing

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("Usage: python script_manual_parallel_recapper.py MODEL DATA TIMESTAMP")
    # Only the last path components name folders, as in eager run: Qwen/Qwen3-4B is outputs/Qwen3-4B.
    model, data, timestamp = (name.rstrip("/").split("/")[-1] for name in sys.argv[1:])
    command([str(Path("outputs", model, data, timestamp)), "--large"], prog_name=Path(sys.argv[0]).name)
