"""Where a GGUF lies that is named `owner/repo:quant`: on the hub, or already in its cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from eager.engines.base import EngineError
from eager.errors import first_line
from eager.words import one_line

_NAME = re.compile(r"(?P<repo>[^/:\s]+/[^/:\s]+):(?P<quant>.+)")
_PART = re.compile(r"-(?P<number>\d{5})-of-(?P<total>\d{5})(?=\.gguf$)")


def hub_name(model_name: str) -> tuple[str, str] | None:
    """(owner/repo, quant) of such a name, None of another."""
    found = _NAME.fullmatch(model_name)
    return (found["repo"], found["quant"]) if found else None


def parts_of(path: Path) -> list[Path]:
    """All files of the model whose first is `path`, in order.

    Raises EngineError where `path` is a later part, or another part is not there.
    """
    found = _PART.search(path.name)
    if found is None:
        return [path]
    parts = [path.with_name(name) for name in _all_parts(path.name)]
    if int(found["number"]) != 1:
        raise EngineError(f"'{one_line(str(path))}' is a later part of a model: give the first, '{parts[0].name}'")
    for part in parts:
        if not part.is_file():
            raise EngineError(
                f"'{one_line(str(path))}' is one of {len(parts)} parts, and '{part.name}' is not beside it: fetch it"
            )
    return parts


def fetch(repo: str, quant: str) -> Path:
    """The first file of the model, all of its parts fetched; what is in the hub's cache needs no hub.

    Raises EngineError where there is no such file, or more than one, or it cannot be had.
    """
    repo, quant = one_line(repo), one_line(quant)
    try:
        from huggingface_hub import HfApi, get_session, hf_hub_download
        from huggingface_hub.utils import logging
    except ImportError:
        raise EngineError(f"model '{repo}:{quant}' is on the hub: pip install 'eager-gen[llama-cpp]'") from None
    logging.set_verbosity_error()  # its retries are no news; their end is
    # The hub's client changed its HTTP library more than once: ask it which one it uses.
    http: Any = import_module(type(get_session()).__module__.split(".")[0])
    try:
        names = choose(f"model '{repo}'", quant, HfApi().list_repo_files(repo))
        first, *_ = [Path(hf_hub_download(repo, name)) for name in names]
        return first
    except (http.HTTPError, OSError, ValueError) as error:
        return _from_cache(repo, quant, first_line(error))


def choose(place: str, quant: str, files: Iterable[str]) -> list[str]:
    """Of the files those of one model: the quantization as a whole word of their name, or their name itself.

    Raises EngineError, naming the `place`, where none fits, several do, or a part is missing.
    """
    models = sorted(name for name in files if name.endswith(".gguf") and "mmproj" not in name.lower())
    word = re.compile(rf"(?<![a-z0-9_]){re.escape(quant.lower())}(?![a-z0-9_])")
    fitting = [name for name in models if quant in (name, Path(name).name)] or [
        name for name in models if word.search(_PART.sub("", name).removesuffix(".gguf").lower())
    ]
    whole = {_PART.sub("", name): name for name in reversed(fitting)}
    if not whole:
        raise EngineError(f"{place} has no .gguf file for '{quant}': it has {', '.join(models) or 'none'}")
    if len(whole) > 1:
        raise EngineError(
            f"{place} has several files for '{quant}': give one of {', '.join(sorted(whole.values()))} after the colon"
        )
    names = _all_parts(next(iter(whole.values())))
    missing = [name for name in names if name not in models]
    if missing:
        raise EngineError(f"{place} lacks {', '.join(missing)} for '{quant}': choose another quantization")
    return names


def _all_parts(name: str) -> list[str]:
    found = _PART.search(name)
    if found is None:
        return [name]
    total = found["total"]
    return [_PART.sub(f"-{number:05}-of-{total}", name) for number in range(1, int(total) + 1)]


def _from_cache(repo: str, quant: str, reason: str) -> Path:
    """What an earlier run has fetched, where the hub cannot be asked (HF_HUB_OFFLINE, no network): `reason`."""
    snapshot = _snapshot(repo)
    if snapshot is None:
        raise EngineError(
            f"model '{repo}:{quant}' could not be fetched from the hub ({reason}), and its cache has nothing of it:"
            " give a local .gguf path"
        )
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")]
    place = f"the hub cannot be asked ({reason}), and its cache of model '{repo}'"
    return snapshot / choose(place, quant, names)[0]


def _snapshot(repo: str) -> Path | None:
    """The folder of the repository's main branch in the hub's cache, or of what was fetched last."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = [item for item in scan_cache_dir().repos if (item.repo_type, item.repo_id) == ("model", repo)]
    except CacheNotFound:
        return None
    revisions = [revision for item in cached for revision in item.revisions]
    newest = max(revisions, key=lambda item: ("main" in item.refs, item.last_modified), default=None)
    return newest.snapshot_path if newest else None
