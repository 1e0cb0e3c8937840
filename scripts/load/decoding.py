"""How much decoding slows down while another checkpoint is loaded by the same process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from loaders import checkpoint
from loaders.memory.pool import Pool
from scripts.load.contestants import Files
from scripts.load.rounds import State, bring_about

_QUIET_S = 2.0


def decode_during_load(files: Files, pool: Pool, num_rounds: int) -> float:
    """Return tokens per second during a load over those of a quiet process; median of some rounds."""
    decoder = _Decoder(files.device)
    decoder.run_for(_QUIET_S / 2)
    ratios = []
    for _ in range(num_rounds):
        quiet = decoder.run_for(_QUIET_S)
        bring_about(State.FOUND, "ours", files, pool)
        loading = threading.Thread(target=_load, args=(files, pool))
        loading.start()
        busy = decoder.run_while(loading)
        loading.join()
        ratios.append(busy / quiet)
    return median(ratios)


def _load(files: Files, pool: Pool) -> None:
    checkpoint.load(files.converted, files.device, pool=pool).close()


class _Decoder:
    """A small Llama that decodes greedily, as an engine does."""

    def __init__(self, device: str) -> None:
        config = LlamaConfig(
            hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, vocab_size=8192
        )
        torch.manual_seed(0)
        model: torch.nn.Module = LlamaForCausalLM(config).bfloat16()
        self._model = model.to(device).eval()
        self._token = torch.zeros((4, 1), dtype=torch.long, device=device)

    def run_for(self, seconds: float) -> float:
        """Decode for so long; returns tokens per second."""
        end_s = time.monotonic() + seconds
        return self._run(lambda: time.monotonic() < end_s)

    def run_while(self, thread: threading.Thread) -> float:
        """Decode while a thread lives; returns tokens per second."""
        return self._run(thread.is_alive)

    @torch.inference_mode()
    def _run(self, goes_on: Callable[[], bool]) -> float:
        cache, num_steps, started_s = DynamicCache(), 0, time.monotonic()
        while goes_on() or not num_steps:
            if num_steps % 256 == 0:
                cache = DynamicCache()
            output = self._model(input_ids=self._token, past_key_values=cache, use_cache=True)
            self._token = output.logits[:, -1:].argmax(-1)
            # An engine hands every token out, and so waits for the device.
            self._token.tolist()
            num_steps += 1
        return num_steps * len(self._token) / (time.monotonic() - started_s)
