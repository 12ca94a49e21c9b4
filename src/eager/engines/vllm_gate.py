"""EAGer's gate inside a vLLM server: a request of a tree stops itself exactly where the tree branches.

    vllm serve MODEL --logits-processors eager.engines.vllm_gate:Gate \\
        --worker-extension-cls eager.engines.vllm_gate.GateWorker

The gate sees every row of logits. For a request that carries a `Rule` it takes the entropy of the K best; where that
exceeds the tree's threshold it leaves only the reserved token, which is among the request's stop ids. Nothing is asked
of the server for other tokens, nothing is decoded past a branch, and the requests of others are not touched.
"""

from __future__ import annotations

import math
from typing import Any

from eager.engines._gate_rule import PREFIX, check_rule
from eager.engines._vllm_api import LogitsProcessor, SamplingParams as VLLMSamplingParams, V2LogitsProcessor, VllmConfig
from eager.engines._vllm_draw import DRAW_KEY
from eager.engines._vllm_gate_v1 import GateV1
from eager.engines._vllm_gate_v2 import GateV2
from eager.types import SamplingParams


class Gate(LogitsProcessor, V2LogitsProcessor):  # type: ignore[misc] # vLLM is not followed by the type checker
    """What a server loads, whichever of vLLM's two model runners it has: making one gives the gate for that runner."""

    def __new__(cls, vllm_config: VllmConfig, *given: Any) -> GateV1 | GateV2:
        return (GateV2 if vllm_config.use_v2_model_runner else GateV1)(vllm_config, *given)

    @classmethod
    def validate_params(cls, sampling_params: VLLMSamplingParams) -> None:
        """Raises ValueError, which vLLM answers with a 400, for arguments that are not right. Others' requests pass."""
        args = {name: value for name, value in (sampling_params.extra_args or {}).items() if name.startswith(PREFIX)}
        if DRAW_KEY in args:
            _check_draw(sampling_params, args.pop(DRAW_KEY))
        check_rule(sampling_params, args)


class GateWorker:
    """What a server's workers can do beside: asked through `collective_rpc`, which answers with one result a worker.

    Workers that draw no tokens (but the last of a pipeline) answer with what they know, which is nothing.
    """

    model_runner: Any

    def eager_gate(self) -> dict[str, Any] | None:
        """`runner` (1 or 2) and `trees`, the number kept; None where the server was started without the gate."""
        gate = _gate_of(self.model_runner)
        return None if gate is None else {"runner": gate.runner, "trees": len(gate)}

    def eager_take(self, tree: str) -> dict[str, Any] | None:
        """What the gate keeps of a tree, and forgets with that; None where it knows no such tree.

        `branches`: [sequence, position, entropy, threshold in force] of each pause. `entropies`: for each sequence, by
        its number as a text, [position of the first, entropies], None where none was taken. Positions count generated
        tokens from 0. There may be entropies of a few tokens that were never delivered, at the end.
        """
        gate = _gate_of(self.model_runner)
        return None if gate is None else gate.take(tree)


def _gate_of(runner: Any) -> GateV1 | GateV2 | None:
    """The gate among the logits processors of one of vLLM's model runners."""
    batch, sampler = getattr(runner, "input_batch", None), getattr(runner, "sampler", None)
    processors = [*getattr(getattr(batch, "logitsprocs", None), "all", ()), *getattr(sampler, "logits_processors", ())]
    return next((found for found in processors if isinstance(found, GateV1 | GateV2)), None)


def _check_draw(params: VLLMSamplingParams, args: Any) -> None:
    is_right = isinstance(args, list) and len(args) == 5 and all(_is_finite(value) for value in args)
    if not is_right or not all(isinstance(args[i], int) for i in (0, 3)) or not 0 <= args[0] < 1 << 64:
        raise ValueError(f"{DRAW_KEY} must be [seed, temperature, top_p, top_k, min_p], got {str(args)[:50]!r}")
    if params.temperature != 0:
        raise ValueError(f"temperature must be 0 beside {DRAW_KEY}, which draws with its own")
    try:
        SamplingParams(*args[1:])
    except ValueError as error:
        raise ValueError(f"{DRAW_KEY}: {error}") from error


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
