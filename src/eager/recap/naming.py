"""Which experiment a file holds, by its name: ours and those of the published code."""

from __future__ import annotations

import re
from typing import Any

LIST_KEYS = ("default-generations", "entropy-aware-generations")
KINDS = ("parallel", "eager_init", "eager_adapt", "eager")
KIND_TITLES = {"parallel": "Full Parallel", "eager_init": "EAGer-init", "eager_adapt": "EAGer-adapt", "eager": "EAGer"}

# The published `main_vllm.py` writes "more_easy" with run_and_evaluate_entropy_with_budget_easy: no labels, saturated
# prompts, at most 3 M extra, which the paper calls EAGer-adapt; "more" looks at the labels and is the paper's EAGer.
_PUBLISHED_KINDS = {
    "default": "parallel",
    "aware": "eager_init",
    "aware_easy_more_budget": "eager_adapt",
    "aware_more_budget": "eager",
}
_OURS = re.compile(r"(?P<kind>parallel|eager_init|eager_adapt|eager)(?:_th(?P<threshold>\d+(?:\.\d+)?))?")
_PUBLISHED = re.compile(
    r"(?:.*_)?(?P<kind>default|aware|aware_more_budget|aware_easy_more_budget)(?P<addon>_ADDON\d+_more_budget)?_results"
    r"(?:__?th(?P<threshold>\d+(?:\.\d+)?))?"
)
# Copies and working files that the code evaluations keep beside the results.
_NOT_RESULTS = re.compile(r"\.|backup_|_tmp_|.*[._-](?:backup|bak|original|samples|eval_results)(?:[._-]|$)")


def is_candidate(name: str) -> bool:
    """Whether a file of this name may hold results: JSON, and no backup."""
    return name.endswith(".json") and not _NOT_RESULTS.match(name)


def kind_and_threshold(stem: str, head: dict[str, Any], list_key: str) -> tuple[str, float | None]:
    """The experiment by the file's name, else by what its head says, else by the key of its list."""
    if ours := _OURS.fullmatch(stem):
        return ours["kind"], _number(ours["threshold"]) if ours["kind"] != "parallel" else None
    if published := _PUBLISHED.fullmatch(stem):
        kind = "eager" if published["addon"] else _PUBLISHED_KINDS[published["kind"]]
        threshold = _number(published["threshold"])
        said = setting(head, "entropy_threshold") if kind != "parallel" else None
        return kind, _number(said) if threshold is None else threshold
    said = setting(head, "experiment")
    kind = said if said in KINDS else "parallel" if list_key == LIST_KEYS[0] else "eager_init"
    return kind, None if kind == "parallel" else _number(setting(head, "entropy_threshold"))


def title(kind: str, threshold: float | None) -> str:
    """The experiment as a person reads it: "EAGer-init, θ 2.2"."""
    name = KIND_TITLES.get(kind, kind)
    return name if threshold is None else f"{name}, θ {threshold:g}"


def setting(head: dict[str, Any], key: str) -> Any:
    """A setting from the head: at its top (documented), under `params` (published) or `extra` (ours)."""
    for place in (head, head.get("params"), head.get("extra")):
        if isinstance(place, dict) and place.get(key) is not None:
            return place[key]
    return None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
