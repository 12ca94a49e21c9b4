#!/usr/bin/env python3
"""Grade the code in `outputs/MODEL/DATA/TIMESTAMP`: `eager eval-code` on that folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from eager.cli.eval_code import command  # only now can it be found without installing

if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("Usage: python script_eval_code_gen.py MODEL DATA TIMESTAMP [options of eager eval-code]")
    # Only the last path components name folders, as in eager run: Qwen/Qwen3-4B is outputs/Qwen3-4B.
    model, data, timestamp = (name.rstrip("/").split("/")[-1] for name in sys.argv[1:4])
    command([str(Path("outputs", model, data, timestamp)), *sys.argv[4:]], prog_name=Path(sys.argv[0]).name)
