"""`python -m src.main_vllm …` from the repository's root: `eager run` with the published code's defaults."""

from __future__ import annotations

import sys

from eager.cli import main

PUBLISHED = {"engine": "vllm", "prompt_style": "published", "threshold_percentile": "99"}
"""What `eager run` takes here where it is not given: how the code behind the paper's numbers runs."""

if __name__ == "__main__":
    main(["run", *sys.argv[1:]], prog_name="python -m src.main_vllm", default_map={"run": PUBLISHED})
