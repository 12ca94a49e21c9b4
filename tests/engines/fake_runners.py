"""vLLM's two model runners as a logits processor sees them, over a made-up model on the CPU.

A request is put in by `add`; `step` decodes one token for each of those that it names, as a scheduler would: in any
order, some put out of the batch and back again. Both take real `SamplingParams` and hand out what the gate left.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

from eager.engines._vllm_gate_v1 import GateV1
from eager.engines._vllm_gate_v2 import GateV2

CPU = torch.device("cpu")
MAX_REQUESTS, MAX_LENGTH = 64, 64


@dataclass(eq=False)
class Request:
    params: SamplingParams
    prompt: list
    seed: int
    outputs: list = field(default_factory=list)
    n_unfinished: int = 0  # prefill steps to come whose token is thrown away
    has_ended: bool = False  # its scheduler, a step ahead, has it decoded once more all the same

    @property
    def tokens(self):
        return [*self.prompt, *self.outputs]


class Runner:
    """`model.logits(tokens)` is the raw row, `model.draw(tokens, seed)` the token where the gate leaves several."""

    def __init__(self, model):
        self.model = model

    def _rows(self, requests):
        rows = [self.model.logits([7] if request.n_unfinished else request.tokens) for request in requests]
        return torch.stack(rows)

    def _sample(self, requests, logits):
        """Append what is drawn; a token of an unfinished prefill is thrown away."""
        for request, row in zip(requests, logits, strict=True):
            is_thrown_away = request.has_ended or request.n_unfinished > 0
            request.n_unfinished = max(0, request.n_unfinished - 1)
            if is_thrown_away:
                continue
            left = torch.isfinite(row).nonzero().flatten().tolist()
            request.outputs.append(left[0] if len(left) == 1 else self.model.draw(request.tokens, request.seed))


class RunnerV1(Runner):
    """The V1 runner's persistent batch: who is not scheduled leaves it, others move into the gaps."""

    def __init__(self, model):
        super().__init__(model)
        self.gate = GateV1(None, CPU, False)
        self._batch = []

    def add(self, request):
        pass

    def step(self, scheduled):
        self.gate.update_state(self._update(scheduled))
        logits = self.gate.apply(self._rows(self._batch))
        self._sample(self._batch, logits)

    def _update(self, scheduled):
        batch, removed, added, moved = self._batch, [], [], []
        gaps = [i for i, request in enumerate(batch) if request not in scheduled]
        removed = sorted(gaps, reverse=True)
        for request in [request for request in scheduled if request not in batch]:
            if gaps:
                index = gaps.pop(0)
                batch[index] = request
                removed.remove(index)
            else:
                index = len(batch)
                batch.append(request)
            added.append((index, request.params, request.prompt, request.outputs))
        for gap in gaps:
            while batch and batch[-1] not in scheduled:
                batch.pop()
            if gap < len(batch):
                moved.append((len(batch) - 1, gap, MoveDirectionality.UNIDIRECTIONAL))
                batch[gap] = batch.pop()
        return BatchUpdate(len(batch), removed, added, moved) if removed or added or moved else None


class RunnerV2(Runner):
    """The V2 runner's slots: rows in another order every step; who was preempted comes back in another slot."""

    def __init__(self, model, rng, processor=GateV2):
        super().__init__(model)
        self._rng = rng
        tokens = torch.zeros((MAX_REQUESTS, MAX_LENGTH), dtype=torch.int32)
        self.states = SimpleNamespace(
            device=CPU,
            max_num_reqs=MAX_REQUESTS,
            vocab_size=model.vocabulary,
            all_token_ids=SimpleNamespace(gpu=tokens),
            prompt_len=SimpleNamespace(np=np.zeros(MAX_REQUESTS, dtype=np.int32)),
            prefill_len=SimpleNamespace(np=np.zeros(MAX_REQUESTS, dtype=np.int32)),
        )
        config = SimpleNamespace(
            speculative_config=None, parallel_config=SimpleNamespace(enable_batch_sharded_sampling=False)
        )
        self.gate = processor(config, self.states)
        self._slots = {}
        self._free = list(range(MAX_REQUESTS))

    def add(self, request):
        slot = self._slots[request] = self._free.pop(self._rng.randrange(len(self._free)))
        self.states.prompt_len.np[slot] = len(request.prompt)
        self.states.prefill_len.np[slot] = len(request.tokens)
        self.states.all_token_ids.gpu[slot] = 0
        self.gate.add_request(slot, request.params)
        self.gate.apply_staged_writes()

    def step(self, scheduled):
        for request in [request for request in self._slots if request not in scheduled]:
            if not request.n_unfinished and self._rng.random() < 0.3:
                self._free.append(self._slots.pop(request))  # preempted, or done with
        for request in scheduled:
            if request not in self._slots:
                self.add(request)
        rows = self._rng.sample(scheduled, len(scheduled))
        self._sample(rows, self.gate.apply(self._rows(rows), self._context(rows)))

    def _context(self, rows):
        slots = [self._slots[request] for request in rows]
        lengths = [len(request.tokens) - bool(request.n_unfinished) for request in rows]
        for slot, request in zip(slots, rows, strict=True):
            self.states.all_token_ids.gpu[slot, : len(request.tokens)] = torch.tensor(request.tokens)
        mapping = torch.tensor(slots)
        return LogitsContext(
            expanded_idx_mapping=mapping,
            idx_mapping=mapping,
            idx_mapping_np=mapping.numpy(),
            expanded_local_pos=torch.zeros(len(rows), dtype=torch.int32),
            input_ids=torch.tensor([request.tokens[length - 1] for request, length in zip(rows, lengths, strict=True)]),
            pos=torch.tensor(lengths) - 1,
            seq_lens_upper_bound_np=np.array(lengths, dtype=np.int32),
        )


RUNNERS = {"v1": lambda model, rng: RunnerV1(model), "v2": RunnerV2}
