"""`--data_parallel_size N` of engine vllm: N of vLLM's servers on this machine, driven over HTTP as one engine.

vLLM itself does not run data-parallel replicas under one engine in one process. Each server has the gate, so that its
draws come from (seed, position) alone, as those of the engine in this process do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eager.engines._chat import check_template
from eager.engines._model_files import fingerprint
from eager.engines._vllm_api import current_platform
from eager.engines._vllm_servers import Place, Servers
from eager.engines._vllm_start import check_start, engine_values, find_model, model_files, vllm_versions
from eager.engines.base import EngineError
from eager.engines.openai import OpenAIEngine
from eager.engines.options_vllm import VLLMOptions

OF_A_SERVER = {
    "logits_processors": ["eager.engines.vllm_gate:Gate"],
    "generation_config": "vllm",  # no sampling of the model's own choice: requests say all
    "trust_request_chat_template": True,  # of whoever has the key, which is this process
    "enable_prompt_tokens_details": True,
    "disable_log_stats": False,  # /metrics
    "disable_uvicorn_access_log": True,
}
_AT_ONCE = 256  # sequences a replica, where nothing is said


class VLLMReplicas(OpenAIEngine):
    """See `Engine`; the options are those of `VLLMOptions`, for each replica."""

    name = "vllm"

    def __init__(self, model_name: str, **given: Any) -> None:
        options = VLLMOptions.of(given)
        check_template(options.chat_template)
        check_start(options)
        path = find_model(model_name, options)
        common = engine_values(model_name, path, options)
        self.servers = Servers(places(options), {**common, **OF_A_SERVER, "served_model_name": [model_name]})
        self._files = model_files(path, options)
        with ExitStack() as on_failure:
            on_failure.callback(self.servers.stop)
            super().__init__(
                model_name,
                base_url=",".join(self.servers.urls),
                api_key=self.servers.api_key,
                max_in_flight=min(65536, options.data_parallel_size * (options.capacity or _AT_ONCE)),
                draws="gate",
                **_chat_options(options, path, self._files),
            )
            on_failure.pop_all()

    def versions(self) -> dict[str, str]:
        return vllm_versions()

    def identity(self) -> dict[str, Any]:
        said = {name: value for name, value in super().identity().items() if name not in ("draws", "stop_token_ids")}
        return {**said, **({"model_files": fingerprint(self._files)} if self._files else {})}

    def shutdown(self) -> None:
        super().shutdown()
        self.servers.stop()


def places(options: VLLMOptions) -> list[Place]:
    """Each replica has devices of its own on a GPU, processors of its own on a CPU. EngineError where there are few."""
    n = options.data_parallel_size
    if current_platform.is_cpu():
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return [Place({}, cpus[i * len(cpus) // n : (i + 1) * len(cpus) // n]) for i in range(n)]
    n_each = options.tensor_parallel_size * options.pipeline_parallel_size
    devices = options.library.get("device_ids") or range(current_platform.device_count())
    if len(devices) < n * n_each:
        raise EngineError(
            f"{n} replicas of {n_each} GPUs each need {n * n_each}, and there are {len(devices)}: lower"
            " --data_parallel_size"
        )
    return [Place({"device_ids": list(devices[i * n_each : (i + 1) * n_each])}) for i in range(n)]


def _chat_options(options: VLLMOptions, path: str, files: Seq[Path]) -> dict[str, Any]:
    """The tokenizer is read here, as the engine in one process does; a strange one's code runs in the servers only."""
    chat = {name: getattr(options, name) for name in ("chat_template", "chat_template_kwargs", "chat_date")}
    given = {name: value for name, value in chat.items() if value is not None}
    folder = Path(str(options.library.get("tokenizer") or (path if not files else files[0].parent)))
    if folder.is_dir() and not options.trust_remote_code:
        given["tokenizer"] = str(folder)
    return {**given, "max_model_len": options.max_model_len}
