"""One peer in a process of its own: loads a GGUF file, then obeys commands, one JSON object a line.

    python worker.py {llama.cpp|ik_llama.cpp} FILE.gguf '{"best": true}'

    -> {"do": "measure", "threads": 2, "prompt": 128, "gen": 32, "batch": 1, "repeat": 3}
    <- {"prefill": [tokens/s, ...], "decode": [tokens/s, ...]}
    -> {"do": "losses", "threads": 2, "ids": [...]}
    <- {"losses": [-log p of every id but the first], "greedy": [the likeliest next id at every position]}

The first line it writes says what was loaded and how. A failure is {"error": "..."}. It ends with its input.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import os
import random
import sys
import time
from pathlib import Path

from geometry import PeersError


class LlamaCpp:
    """llama-cpp-python's low-level API. Plain: what everyone gets, weights mapped from the file. Best: read into memory,
    which race.py lets glibc put on huge pages. Repacking and flash attention are on by themselves in both."""

    package = "llama-cpp-python"

    def __init__(self, best: bool) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.settings = {"load_mode": "none" if best else "mmap", "flash_attn": "auto", "use_extra_bufts": True}

    def model_params(self):
        params = self.api.llama_model_default_params()
        mode = self.settings["load_mode"]
        params.load_mode = self.api.LLAMA_LOAD_MODE_NONE if mode == "none" else self.api.LLAMA_LOAD_MODE_MMAP
        params.use_extra_bufts = True
        return params

    def tune_context(self, params) -> None:
        params.no_perf = True

    def system_info(self) -> str:
        return self.api.llama_print_system_info().decode()

    def free_model(self, model) -> None:
        self.api.llama_model_free(model)

    def clear(self, context) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(context), False)

    def synchronize(self, context) -> None:
        self.api.llama_synchronize(context)


class IkLlamaCpp:
    """ik-llama-cpp-python. Best: `-rtr 1 -fmoe 1 -fa 1`: weights rearranged while loading, gate and up fused. Its own
    huge pages (-thp) serve mapped files only, which -rtr excludes: race.py lets glibc provide them."""

    package = "ik-llama-cpp-python"

    def __init__(self, best: bool) -> None:
        package = importlib.util.find_spec("ik_llama_cpp")
        if package is None:
            raise ImportError("no module ik_llama_cpp")
        try:
            from ik_llama_cpp import _ctypes_api
        except OSError:  # compiled here, its libllama.so does not say where the other one lies
            ctypes.CDLL(str(Path(package.origin).parent / "lib/libggml.so"), ctypes.RTLD_GLOBAL)
            from ik_llama_cpp import _ctypes_api

        self.api = _ctypes_api
        self.library = _ctypes_api._lib
        self.library.llama_print_system_info.restype = ctypes.c_char_p
        self.library.llama_synchronize.argtypes = [ctypes.c_void_p]
        self.settings = {"repack_tensors": best, "use_mmap": not best, "fused_moe_up_gate": True,
                         "fused_up_gate": True, "flash_attn": "for one sequence", "graph_reuse": True}  # fmt: skip

    def model_params(self):
        params = self.api.llama_model_default_params()
        params.repack_tensors = self.settings["repack_tensors"]
        params.use_mmap = self.settings["use_mmap"]
        params.flash_attn = True
        return params

    def tune_context(self, params) -> None:
        for name in ("fused_moe_up_gate", "fused_up_gate", "graph_reuse"):
            setattr(params, name, True)
        params.flash_attn = params.n_seq_max == 1  # with several sequences in a batch, version 0.1.5 aborts ("S > 0")

    def system_info(self) -> str:
        return self.library.llama_print_system_info().decode()

    def free_model(self, model) -> None:
        self.api.llama_free_model(model)

    def clear(self, context) -> None:
        self.api.llama_kv_cache_clear(context)

    def synchronize(self, context) -> None:
        self.library.llama_synchronize(context)


LIBRARIES = {"llama.cpp": LlamaCpp, "ik_llama.cpp": IkLlamaCpp}


class Peer:
    MAX_BATCH = 2048  # the peers' own default; they compute it in pieces of 512

    def __init__(self, library: LlamaCpp | IkLlamaCpp, file: Path) -> None:
        self.library, self.api = library, library.api
        self.api.llama_backend_init()
        self.model = self.api.llama_model_load_from_file(os.fsencode(file), library.model_params())
        if not self.model:
            raise PeersError(f"{file}: {library.package} cannot load it")
        self.vocab_size = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))

    def measure(self, threads: int, prompt: int, gen: int, batch: int, repeat: int) -> dict:
        context = Context(self, threads, sequences=batch, positions=prompt + gen)
        try:
            context.run(min(prompt, 512), min(gen, 4), seed=0)  # touches every buffer; not counted
            runs = [context.run(prompt, gen, seed=round) for round in range(1, repeat + 1)]
        finally:
            context.close()
        return {
            "prefill": [batch * prompt / prefill for prefill, _ in runs],
            "decode": [batch * gen / decode for _, decode in runs],
        }

    def losses(self, threads: int, ids: list[int]) -> dict:
        context = Context(self, threads, sequences=1, positions=len(ids))
        try:
            context.feed([(id, position, 0, True) for position, id in enumerate(ids)])
            rows = [self.api.llama_get_logits_ith(context.handle, i)[: self.vocab_size] for i in range(len(ids))]
        finally:
            context.close()
        losses = []
        for row, target in zip(rows, ids[1:]):
            largest = max(row)
            losses.append(largest + math.log(sum(math.exp(x - largest) for x in row)) - row[target])
        return {"losses": losses, "greedy": [max(range(len(row)), key=row.__getitem__) for row in rows]}


class Context:
    """Some sequences of equal length, read and continued together."""

    def __init__(self, peer: Peer, threads: int, sequences: int, positions: int) -> None:
        self.peer, self.api, self.sequences = peer, peer.api, sequences
        params = self.api.llama_context_default_params()
        # Some versions split n_ctx among the sequences in multiples of 256.
        params.n_ctx = sequences * (-(-positions // 256) * 256)
        params.n_batch = Peer.MAX_BATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        peer.library.tune_context(params)
        self.handle = self.api.llama_init_from_model(peer.model, params)
        if not self.handle:
            raise PeersError(f"{peer.library.package} cannot make a context of {params.n_ctx} positions")
        self.batch = self.api.llama_batch_init(Peer.MAX_BATCH, 0, 1)

    def close(self) -> None:
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.handle)

    def feed(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """(id, position, sequence, whether its logits are wanted), computed when this returns."""
        for first in range(0, len(tokens), Peer.MAX_BATCH):
            part = tokens[first : first + Peer.MAX_BATCH]
            self.batch.n_tokens = len(part)
            for i, (id, position, sequence, wanted) in enumerate(part):
                self.batch.token[i] = id
                self.batch.pos[i] = position
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = sequence
                self.batch.logits[i] = wanted
            if status := self.api.llama_decode(self.handle, self.batch):
                raise PeersError(f"{self.peer.library.package}: llama_decode returned {status}")
            self.peer.library.synchronize(self.handle)

    def run(self, prompt: int, gen: int, seed: int) -> tuple[float, float]:
        """Seconds to read the prompts and to continue them, with random tokens, as llama-bench does."""
        random.seed(seed)
        sequences = range(self.sequences)
        any_id = lambda: random.randrange(self.peer.vocab_size)  # noqa: E731
        self.peer.library.clear(self.handle)
        read = [(any_id(), t, s, t == prompt - 1) for s in sequences for t in range(prompt)]
        steps = [[(any_id(), prompt + t, s, True) for s in sequences] for t in range(gen)]
        started = time.perf_counter()
        self.feed(read)
        middle = time.perf_counter()
        for step in steps:
            self.feed(step)
        return middle - started, time.perf_counter() - middle


def huge_bytes() -> int:
    """Anonymous memory of this process on huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")), 0)


def main() -> None:
    # The libraries print on stdout: this keeps it for the protocol and sends theirs to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**fields) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    name, file, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    try:
        started = time.monotonic()
        library = LIBRARIES[name](options["best"])
        peer = Peer(library, file)
        reply(load_s=time.monotonic() - started, settings=library.settings, system_info=library.system_info(),
              huge_bytes=huge_bytes())  # fmt: skip
        for line in sys.stdin:
            command = json.loads(line)
            reply(**{"measure": peer.measure, "losses": peer.losses}[command.pop("do")](**command))
    except ImportError as error:
        reply(error=f"{name} is not installed ({error}): see bench/peers/README.md")
    except PeersError as error:
        reply(error=str(error))


if __name__ == "__main__":
    main()
