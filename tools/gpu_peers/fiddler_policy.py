"""The policy of the published Fiddler (arXiv 2402.07033) in PyTorch: our re-implementation from the paper, not its code.

Single batch, greedy, bf16. All but the experts is on the GPU, and as many experts as fit, the most popular first, which
never change. An expert that is not there and has s tokens runs on the CPU if c * s is less than copying its weights and
running it on the GPU, both measured at start; else its weights are copied. One expert after the other, no prediction; the
GPU's experts are queued before the CPU's begin, which is kinder to it than the published order.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from common import FILL_SHARE, Filler, cells_of, config_for, gpu_peak_bytes, main, measure, prompt_of, say, wait

PROFILE_TOKENS = 64  # of random text, to count which experts are popular
SPARE_BYTES = 1 << 30  # of the GPU's memory, for activations and what the libraries take


class Layer:
    def __init__(self, config: dict, filler: Filler, device: torch.device, dtype: torch.dtype) -> None:
        hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or hidden // heads
        self.neurons, self.hidden = config["intermediate_size"], hidden
        matrix = lambda rows, columns: filler(torch.empty(rows, columns, dtype=dtype, device=device))  # noqa: E731
        self.q, self.k = matrix(heads * self.head_dim, hidden), matrix(kv_heads * self.head_dim, hidden)
        self.v, self.o = matrix(kv_heads * self.head_dim, hidden), matrix(hidden, heads * self.head_dim)
        self.gate = matrix(config["num_local_experts"], hidden)
        self.norms = torch.ones(2, hidden, dtype=dtype, device=device)
        # [experts, 3, neurons * hidden]: an expert lies in one piece, so that one copy brings it
        self.experts = filler(torch.empty(config["num_local_experts"], 3, self.neurons * hidden, dtype=dtype))
        self.resident: dict[int, torch.Tensor] = {}
        self.counts = [0] * config["num_local_experts"]

    def run(self, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """weights [3, neurons * hidden] and x [tokens, hidden] on the same device."""
        w1, w3 = (weights[i].view(self.neurons, self.hidden) for i in (0, 1))
        return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), weights[2].view(self.hidden, self.neurons))


class Model:
    def __init__(self, config: dict, device: torch.device, dtype: torch.dtype, filler: Filler, fill_seconds: float) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        vocabulary = (config["vocab_size"], config["hidden_size"])
        self.embedding = filler(torch.empty(vocabulary, dtype=dtype, device=device))
        self.head = filler(torch.empty(vocabulary, dtype=dtype, device=device))
        self.norm = torch.ones(config["hidden_size"], dtype=dtype, device=device)
        self.layers: list[Layer] = []
        self.pinned = device.type == "cuda"
        started = time.monotonic()
        for index in range(config["num_hidden_layers"]):
            self.layers.append(Layer(config, filler, device, dtype))
            self.pin(self.layers[-1].experts)
            # Rather fewer layers than nothing measured.
            if (time.monotonic() - started) * (index + 2) / (index + 1) > fill_seconds:
                break
        self.bytes_on_gpu = 2 * self.embedding.numel() * 2 + sum(
            2 * m.numel() for layer in self.layers for m in (layer.q, layer.k, layer.v, layer.o, layer.gate)
        )
        self.expert_bytes = self.layers[0].experts[0].numel() * self.layers[0].experts.element_size()
        self.buffer = torch.empty_like(self.layers[0].experts[0], device=device)  # of one fetched expert
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.positions = 0
        self.cpu_token_s = 0.0  # c; with fetch_s = 0 every expert that is not resident is fetched
        self.fetch_s = 0.0
        self.ran = {"resident": 0, "fetched": 0, "cpu": 0}

    def pin(self, tensor: torch.Tensor) -> None:
        """Where that is refused, copies are slower, and the peer says so."""
        if not self.pinned:
            return
        runtime = torch.cuda.cudart()
        try:
            status = runtime.cudaHostRegister(tensor.data_ptr(), tensor.numel() * tensor.element_size(), 0)
            self.pinned = status == runtime.cudaError.success
            if not self.pinned:
                torch.zeros(1, device=self.device)  # the next kernel would be blamed for that error
        except (RuntimeError, AttributeError, TypeError):
            self.pinned = False

    # --- where experts are, and what they cost

    def place(self, budget: float) -> int:
        """The most popular experts of what was counted, onto the GPU; returns how many."""
        room = int((budget - self.bytes_on_gpu - self.expert_bytes - SPARE_BYTES) // self.expert_bytes)
        ranked = sorted(
            ((count, -i, e) for i, layer in enumerate(self.layers) for e, count in enumerate(layer.counts)), reverse=True
        )
        for _, layer, expert in ranked[: max(room, 0)]:
            self.layers[-layer].resident[expert] = self.layers[-layer].experts[expert].to(self.device)
        return min(max(room, 0), len(ranked))

    def calibrate(self) -> None:
        """Medians over experts that are in no cache."""
        x = torch.randn(1, self.config["hidden_size"]).to(self.dtype)
        on_gpu, cpu, fetch = x.to(self.device), [], []
        for layer in (self.layers * 5)[:5]:
            for expert in (0, 1):
                started = time.monotonic()
                layer.run(layer.experts[expert], x)
                cpu.append(time.monotonic() - started)
                wait(self.device)
                started = time.monotonic()
                self.buffer.copy_(layer.experts[expert], non_blocking=True)
                layer.run(self.buffer, on_gpu)
                wait(self.device)
                fetch.append(time.monotonic() - started)
        self.cpu_token_s, self.fetch_s = sorted(cpu)[len(cpu) // 2], sorted(fetch)[len(fetch) // 2]

    # --- a step

    def reset(self, positions: int) -> None:
        kv_heads, head_dim = self.config["num_key_value_heads"], self.layers[0].head_dim
        shape = (1, kv_heads, positions, head_dim)
        self.keys = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in self.layers]
        self.values = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in self.layers]
        self.positions, self.ran = 0, dict.fromkeys(self.ran, 0)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [1, n] to logits [1, vocab] after the last."""
        x = F.embedding(ids[0].to(self.device), self.embedding)  # [n, hidden]
        angles = self.angles(len(x))
        for index, layer in enumerate(self.layers):
            x = x + self.attend(index, self.normed(x, layer.norms[0]), angles)
            x = x + self.mix(layer, self.normed(x, layer.norms[1]))
        self.positions += len(ids[0])
        return F.linear(self.normed(x[-1:], self.norm), self.head)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits(ids).argmax(-1, keepdim=True)

    def normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.config["rms_norm_eps"]).to(self.dtype) * weight

    def angles(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        half = torch.arange(0, self.layers[0].head_dim, 2, device=self.device).float() / self.layers[0].head_dim
        places = torch.arange(self.positions, self.positions + tokens, device=self.device).float()
        turn = torch.outer(places, 1 / self.config["rope_theta"] ** half).repeat(1, 2)  # [n, head_dim]
        return turn.cos().to(self.dtype), turn.sin().to(self.dtype)

    def attend(self, index: int, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        layer, tokens = self.layers[index], len(x)
        split = lambda y: y.view(1, tokens, -1, layer.head_dim).transpose(1, 2)  # noqa: E731  [1, heads, n, head_dim]
        turned = lambda y: y * angles[0] + torch.cat((-y.chunk(2, -1)[1], y.chunk(2, -1)[0]), -1) * angles[1]  # noqa: E731
        end = self.positions + tokens
        self.keys[index][:, :, self.positions : end] = turned(split(F.linear(x, layer.k)))
        self.values[index][:, :, self.positions : end] = split(F.linear(x, layer.v))
        query, keys, values = turned(split(F.linear(x, layer.q))), self.keys[index][:, :, :end], self.values[index][:, :, :end]
        # A prompt is read in one piece, so either nothing is before it or it is one token.
        y = F.scaled_dot_product_attention(query, keys, values, is_causal=tokens > 1, enable_gqa=True)
        return F.linear(y.transpose(1, 2).reshape(tokens, -1), layer.o)

    def mix(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden]."""
        chosen, experts = F.linear(x, layer.gate).float().softmax(-1).topk(self.config["num_experts_per_tok"], -1)
        shares = (chosen / chosen.sum(-1, keepdim=True)).to(self.dtype)
        y = torch.zeros_like(x)
        later = []
        by_expert: dict[int, list[tuple[int, int]]] = {}
        for token, row in enumerate(experts.tolist()):  # the one wait for the GPU of a layer
            for rank, expert in enumerate(row):
                by_expert.setdefault(expert, []).append((token, rank))
        for expert, uses in sorted(by_expert.items()):
            layer.counts[expert] += len(uses)
            tokens, ranks = (torch.tensor(column, device=self.device) for column in zip(*uses))
            share = shares[tokens, ranks, None]
            if expert in layer.resident:
                self.ran["resident"] += 1
                y.index_add_(0, tokens, share * layer.run(layer.resident[expert], x[tokens]))
            elif self.cpu_token_s == 0 or self.cpu_token_s * len(uses) > self.fetch_s:
                self.ran["fetched"] += 1
                self.buffer.copy_(layer.experts[expert], non_blocking=True)
                y.index_add_(0, tokens, share * layer.run(self.buffer, x[tokens]))
            else:
                later.append((expert, tokens, share))
        for expert, tokens, share in later:
            self.ran["cpu"] += 1
            y.index_add_(0, tokens, share * layer.run(layer.experts[expert], x[tokens].cpu()).to(self.device))
        return y


def peer(options: argparse.Namespace) -> None:
    started = time.monotonic()
    device, config, dtype = torch.device(options.device), config_for(options), torch.bfloat16
    model = Model(config, device, dtype, Filler(dtype), FILL_SHARE * options.seconds)
    filled = time.monotonic() - started
    model.reset(PROFILE_TOKENS)
    model.step(prompt_of(PROFILE_TOKENS, config["vocab_size"]))
    resident = model.place(options.gpu_memory_gib * 2**30)
    model.calibrate()
    say("about", {"what": "our re-implementation of the published Fiddler's policy in PyTorch", "torch": torch.__version__,
                  "geometry": options.geometry, "layers": len(model.layers), "gpu_memory_gib": options.gpu_memory_gib,
                  "fill_s": filled, "pinned": model.pinned, "resident_experts": resident, "threads": torch.get_num_threads(),
                  "experts": len(model.layers) * config["num_local_experts"],
                  "cpu_token_s": model.cpu_token_s, "fetch_s": model.fetch_s})  # fmt: skip
    for prompt, gen in cells_of(options):
        if time.monotonic() - started > options.seconds:
            return
        model.reset(prompt + gen)
        result = measure(model.step, prompt_of(prompt, config["vocab_size"]), gen, device, started + options.seconds)
        hits = model.ran["resident"] / max(sum(model.ran.values()), 1)
        say("result", result | {"hit_rate": hits, "ran": model.ran, "gpu_peak_bytes": gpu_peak_bytes(device)})


if __name__ == "__main__":
    main(peer, __doc__)
