"""Trains the shipped demo model `models/demo`: a small Mixtral that tells fairy tales. CPU only.

    python3 -m venv venv && venv/bin/pip install -r tools/requirements.txt
    venv/bin/python tools/train_demo.py --minutes 95

Everything runs on the wall clock: the learning rate follows the elapsed share of `--minutes`, so a run ends on time on
any machine; a faster one sees more tokens. Every `--checkpoint-minutes` the folder `--out` is a complete model that
transformers (and Fiddler) can load, and `--state` is a file from which `--resume` goes on. Then run
`tools/eval_transformers.py` and `tools/golden_demo.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from demo_corpus import BOS, BOS_ID, EOS, EOS_ID, UNK, VOCAB_SIZE, batches, encode_documents, load_corpus, train_tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent


def demo_config() -> MixtralConfig:
    """The geometry of Mixtral-8x7B, scaled down: 10.8 million parameters, 4.8 million of them used for a token."""
    return MixtralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        initializer_range=0.02,
        router_aux_loss_coef=0.02,
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )


# ---- The model, made faster for training on a CPU ---------------------------------------------------------------


class Permute(torch.autograd.Function):
    """rows[order], whose gradient is a gather too (autograd's own would be a slow scatter-add)."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows[order]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inverse,) = ctx.saved_tensors
        return gradient[inverse], None, None


def sorted_experts(experts, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The same sum as transformers' MixtralExperts.forward, with the tokens sorted by expert: dense matmuls only."""
    tokens, top_k = top_k_index.shape
    chosen = top_k_index.reshape(-1)  # [tokens * top_k]
    order = chosen.argsort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    counts = torch.bincount(chosen, minlength=experts.num_experts).tolist()

    copies = hidden.unsqueeze(1).expand(tokens, top_k, -1).reshape(tokens * top_k, -1)
    inputs = Permute.apply(copies, order, inverse).split(counts)
    outputs = []
    for x, gate_up, down in zip(inputs, experts.gate_up_proj.unbind(0), experts.down_proj.unbind(0)):
        gate, up = (x @ gate_up.T).chunk(2, dim=-1)
        outputs.append((F.silu(gate) * up) @ down.T)
    unsorted = Permute.apply(torch.cat(outputs), inverse, order).view(tokens, top_k, -1)
    return (unsorted * top_k_weights.to(unsorted.dtype).unsqueeze(-1)).sum(dim=1)


def blocked_attention(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Causal grouped-query attention in blocks of queries: twice as fast here as torch's for short windows."""
    batch, heads, tokens, size = query.shape
    groups, block = key.size(1), 128
    query = (query * scaling).view(batch, groups, heads // groups, tokens, size)
    outputs = []
    for first in range(0, tokens, block):
        last = min(first + block, tokens)
        q = query[:, :, :, first:last].reshape(batch, groups, -1, size)  # the queries that share a key head
        future = torch.full((last - first, last), -torch.inf, dtype=query.dtype).triu(first + 1)
        scores = (q @ key[:, :, :last].mT).add_(future.repeat(heads // groups, 1))
        mixed = scores.softmax(dim=-1) @ value[:, :, :last]
        outputs.append(mixed.view(batch, heads, last - first, size))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def build_model(seed: int) -> MixtralForCausalLM:
    """Random weights in bfloat16; the optimizer holds the float32 masters."""
    torch.manual_seed(seed)
    ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
    ALL_ATTENTION_FUNCTIONS.register("blocked", blocked_attention)
    model = MixtralForCausalLM(demo_config())
    for parameter in model.parameters():  # not .to(bfloat16): the rotary frequencies must stay exact
        parameter.data = parameter.data.bfloat16()
    model.set_experts_implementation("sorted")
    model.set_attn_implementation("blocked")
    return model


def losses(model: MixtralForCausalLM, windows: Tensor) -> tuple[Tensor, Tensor]:
    """(mean next-token loss, load-balancing loss) for windows of [batch, context + 1] ids.

    transformers pools the load-balancing loss over all layers, which lets one layer's favourite expert hide behind
    another's; here it is the mean over the layers.
    """
    output = model.model(windows[:, :-1], use_cache=False, output_router_logits=True)
    logits = model.lm_head(output.last_hidden_state)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
    config = model.config
    per_layer = [
        load_balancing_loss_func((router,), config.num_local_experts, config.num_experts_per_tok)
        for router in output.router_logits
    ]
    return loss, torch.stack(per_layer).mean()


# ---- The optimizer ----------------------------------------------------------------------------------------------


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearest (semi-)orthogonal matrices of a batch [n, rows, columns], by Newton-Schulz (Jordan et al., Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(1) > matrices.size(2)
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


@dataclass
class Slot:
    """One parameter with its float32 master copy, its moments and one gradient a worker. All in shared memory."""

    parameter: torch.nn.Parameter
    gradients: Tensor  # [workers, *shape]
    master: Tensor
    first: Tensor
    second: Tensor | None  # None: updated by Muon, else by AdamW
    decay: bool

    def gradient(self, clip: float = 1.0) -> Tensor:
        """Mean over the workers, clipped to a norm of `clip`."""
        mean = self.gradients.float().mean(dim=0)
        return mean.mul_((clip / (mean.norm() + 1e-6)).clamp(max=1.0))


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for embeddings, head, routers and norms."""

    def __init__(self, model: MixtralForCausalLM, weight_decay: float, workers: int):
        self.weight_decay = weight_decay
        self.step_count = 0
        self.workers = workers
        self.slots = [self._slot(name, p) for name, p in model.named_parameters()]

    def _slot(self, name: str, parameter: torch.nn.Parameter) -> Slot:
        master = parameter.detach().float().clone().share_memory_()
        gradients = torch.zeros(self.workers, *parameter.shape, dtype=parameter.dtype).share_memory_()
        muon = "_proj" in name
        second = None if muon else torch.zeros_like(master).share_memory_()
        first = torch.zeros_like(master).share_memory_()
        return Slot(parameter, gradients, master, first, second, decay=muon or "lm_head" in name)

    def publish_gradients(self, worker: int) -> None:
        for slot in self.slots:
            slot.gradients[worker] = slot.parameter.grad
            slot.parameter.grad = None

    @torch.no_grad()
    def step(self, worker: int, learning_rate: float) -> None:
        """Updates the parameters that are this worker's to update."""
        self.step_count += 1
        for slot in self.slots[worker :: self.workers]:
            update = self._muon(slot) if slot.second is None else self._adam(slot)
            if slot.decay:
                slot.master.mul_(1 - learning_rate * self.weight_decay)
            slot.master.add_(update, alpha=-learning_rate)
            slot.parameter.copy_(slot.master)

    @staticmethod
    def _muon(slot: Slot, momentum: float = 0.95) -> Tensor:
        """Scaled to the typical update size of AdamW, so that both share a learning rate (Moonlight, section 2.2)."""
        gradient = slot.gradient()
        slot.first.lerp_(gradient, 1 - momentum)
        nesterov = gradient.lerp(slot.first, momentum)
        # gate_up_proj is [experts, gate rows then up rows, hidden]: two matrices an expert.
        matrices = nesterov.view(-1, nesterov.size(-2), nesterov.size(-1))
        if nesterov.dim() == 3 and nesterov.size(1) > 2 * nesterov.size(2):
            matrices = matrices.view(2 * nesterov.size(0), -1, nesterov.size(2))
        return orthogonalize(matrices).mul_(0.2 * math.sqrt(max(matrices.shape[1:]))).view_as(nesterov)

    def _adam(self, slot: Slot, beta1: float = 0.9, beta2: float = 0.98) -> Tensor:
        gradient = slot.gradient()
        slot.first.lerp_(gradient, 1 - beta1)
        slot.second.lerp_(gradient.square(), 1 - beta2)
        first = slot.first / (1 - beta1**self.step_count)
        second = slot.second / (1 - beta2**self.step_count)
        return first / (second.sqrt() + 1e-8)

    def state(self) -> dict:
        return {"step": self.step_count, "slots": [(s.master, s.first, s.second) for s in self.slots]}

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        self.step_count = state["step"]
        for slot, saved in zip(self.slots, state["slots"]):
            for tensor, value in zip((slot.master, slot.first, slot.second), saved):
                if tensor is not None:
                    tensor.copy_(value)
            slot.parameter.copy_(slot.master)


def learning_rate(progress: float, steps: int, peak: float, warmup_steps: int = 60, flat: float = 0.3) -> float:
    """Warm-up over the first steps, then flat, then linear to zero at progress 1."""
    return peak * min(1.0, (steps + 1) / warmup_steps, max(0.0, (1 - progress) / (1 - flat)))


# ---- Files ------------------------------------------------------------------------------------------------------


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a neighbour and renames it, so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.chmod(0o644)
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    replace_file(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))


def published_tensors(model: MixtralForCausalLM) -> dict[str, Tensor]:
    """The weights under the names of the published Mixtral checkpoints, one tensor a matrix."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        block = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith(".experts.gate_up_proj"):
            for expert, matrix in enumerate(tensor):
                gate, up = matrix.chunk(2)
                tensors[block.replace("gate_up_proj", f"{expert}.w1.weight")] = gate
                tensors[block.replace("gate_up_proj", f"{expert}.w3.weight")] = up
        elif name.endswith(".experts.down_proj"):
            for expert, matrix in enumerate(tensor):
                tensors[block.replace("down_proj", f"{expert}.w2.weight")] = matrix
        else:
            tensors[block] = tensor
    return {name: tensor.to(torch.bfloat16).contiguous().clone() for name, tensor in sorted(tensors.items())}


def export_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    replace_file(folder / "tokenizer.json", lambda partial: tokenizer.save(str(partial)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": False,
        "model_max_length": demo_config().max_position_embeddings,
    }
    write_json(folder / "tokenizer_config.json", settings)


def export_config(folder: Path) -> None:
    """The keys of the published Mixtral config.json, which every version of transformers understands."""
    config = demo_config()
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "hidden_act max_position_embeddings initializer_range rms_norm_eps num_local_experts num_experts_per_tok "
        "router_aux_loss_coef sliding_window attention_dropout tie_word_embeddings bos_token_id eos_token_id use_cache"
    )
    values = {key: getattr(config, key) for key in keys.split()}
    values |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16"}
    values |= {"rope_theta": config.rope_parameters["rope_theta"], "output_router_logits": False}
    write_json(folder / "config.json", dict(sorted(values.items())))
    write_json(folder / "generation_config.json", {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID})


def export_weights(model: MixtralForCausalLM, folder: Path) -> None:
    tensors = published_tensors(model)
    replace_file(folder / "model.safetensors", lambda partial: save_file(tensors, partial, {"format": "pt"}))


# ---- Training ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def greedy(model: MixtralForCausalLM, tokenizer: Tokenizer, prompt: str, tokens: int = 48) -> str:
    ids = tokenizer.encode(prompt).ids
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tokenizer.decode(ids)


class Run:
    """One training run: its model, optimizer, data and clock. Made once, then forked into the workers.

    Every worker is one single-threaded process with its share of each batch; they share weights, gradients and
    optimizer state and meet twice a step. On a machine that is busy with other work this is much faster than threads
    inside every operation, which would wait for each other a thousand times a step.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        corpus = load_corpus(options.corpus)
        self.tokenizer = self._tokenizer(["\n\n".join(d.heading + d.body) for d in corpus.documents])
        self.documents = encode_documents(corpus.documents, self.tokenizer)
        held_out = torch.tensor(self.tokenizer.encode(corpus.held_out).ids)
        self.held_out = held_out[: len(held_out) // options.context * options.context].view(-1, options.context)
        self.model = build_model(options.seed).share_memory()
        self.optimizer = Optimizer(self.model, options.weight_decay, options.workers)
        self.meeting = multiprocessing.get_context("fork").Barrier(options.workers)
        self.elapsed = torch.zeros(1, dtype=torch.float64).share_memory_()  # seconds, by the first worker's clock
        self.held_out_loss = torch.zeros(options.workers).share_memory_()
        if options.resume:
            state = torch.load(options.state)
            self.optimizer.load_state(state["optimizer"])
            self.elapsed.fill_(state["elapsed"])
        replace_file(options.out / "heldout.txt", lambda partial: partial.write_text(corpus.held_out))
        export_config(options.out)

    def _tokenizer(self, texts: list[str]) -> Tokenizer:
        """The one in the output folder if there is one: others may depend on its ids by now."""
        path = self.options.out / "tokenizer.json"
        if path.exists():
            return Tokenizer.from_file(str(path))
        tokenizer = train_tokenizer(texts)
        export_tokenizer(tokenizer, self.options.out)
        return tokenizer

    def describe(self) -> str:
        total = sum(p.numel() for p in self.model.parameters())
        tokens = sum(len(d.plain) for d in self.documents)
        return f"{total:,} parameters, {tokens:,} training tokens, {self.held_out.numel():,} held out"

    def step(self, worker: int, windows: Tensor, progress: float) -> dict[str, float]:
        options = self.options
        loss, balance = losses(self.model, windows)
        (loss + options.balance * balance).backward()
        self.optimizer.publish_gradients(worker)
        self.meeting.wait()
        rate = learning_rate(progress, self.optimizer.step_count, options.learning_rate)
        self.optimizer.step(worker, rate)
        return {"loss": loss.item(), "balance": balance.item(), "rate": rate}

    @torch.no_grad()
    def checkpoint(self, worker: int) -> None:
        """The loss is in bfloat16: good enough to watch a run (tools/eval_transformers.py is exact)."""
        mine = self.held_out[worker :: self.options.workers].split(self.options.batch)
        self.held_out_loss[worker] = float(np.mean([losses(self.model, w)[0].item() for w in mine]))
        self.meeting.wait()
        if worker == 0:
            loss = self.held_out_loss.mean().item()
            print(f"held out: loss {loss:.4f}, perplexity {math.exp(loss):.3f}", flush=True)
            print(greedy(self.model, self.tokenizer, "Once upon a time"), flush=True)
            export_weights(self.model, self.options.out)
            state = {"optimizer": self.optimizer.state(), "elapsed": self.elapsed.item()}
            replace_file(self.options.state, lambda partial: torch.save(state, partial))

    def work(self, worker: int) -> None:
        """The life of one worker."""
        options = self.options
        budget, interval = options.minutes * 60, options.checkpoint_minutes * 60
        start = time.monotonic() - self.elapsed.item()
        next_checkpoint = self.elapsed.item() + min(interval, 240)
        data = batches(self.documents, options.context, options.batch, options.seed)
        for epoch, windows in itertools.islice(data, self.optimizer.step_count, None):
            if worker == 0:
                self.elapsed.fill_(time.monotonic() - start)
            self.meeting.wait()  # all weights are updated, and all workers read the same clock
            elapsed = self.elapsed.item()
            if elapsed >= next_checkpoint or elapsed >= budget:
                self.checkpoint(worker)
                next_checkpoint = elapsed + interval
            if elapsed >= budget:
                break
            report = self.step(worker, torch.from_numpy(windows[worker :: options.workers]), elapsed / budget)
            if worker == 0 and self.optimizer.step_count % 20 == 0:
                print_report(self.optimizer.step_count, epoch, elapsed, report, windows.size)


def print_report(step: int, epoch: int, elapsed: float, report: dict[str, float], batch_tokens: int) -> None:
    values = ", ".join(f"{name} {value:.4g}" for name, value in report.items())
    print(f"step {step}, epoch {epoch}, {elapsed:.0f} s, {step * batch_tokens / 1e6:.2f}M tokens: {values}", flush=True)


def parse_options(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=REPOSITORY / "shared/demo-corpus", help="folder of text files")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "models/demo")
    parser.add_argument("--state", type=Path, default=Path("train_demo.state"), help="what --resume needs")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float, default=95, help="length of the whole run")
    parser.add_argument("--checkpoint-minutes", type=float, default=10)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--balance", type=float, default=0.02, help="weight of the load-balancing loss")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; they share every batch")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def keep_memory() -> None:
    """Tells glibc's malloc to keep what is freed: fresh pages for every large tensor cost a third of the time."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # malloc.h
    for parameter, value in ((m_mmap_max, 0), (m_trim_threshold, -1), (m_top_pad, 256 << 20), (m_arena_max, 1)):
        libc.mallopt(parameter, value)


def run_worker(worker: int, run: Run) -> None:
    run.work(worker)


def main() -> None:
    options = parse_options()
    keep_memory()
    torch.set_num_threads(1)
    run = Run(options)
    print(run.describe(), flush=True)
    torch.multiprocessing.start_processes(run_worker, (run,), options.workers, start_method="fork")


if __name__ == "__main__":
    main()
