"""The steps that run other systems on the same geometry: tools/gpu_peers/ with PyTorch, and an installed llama-bench."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gpu.bundle import REPOSITORY
from gpu.runner import Failed, Session, Skipped

PEERS = REPOSITORY / "tools/gpu_peers"
IMPORT_LIMIT_S = 60
# Kind to the peers: glibc takes what malloc gets from the system as huge pages. They find their own libraries, not ours.
PEER_ENV = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
CUT_FILE = "mixtral.cut"  # what the step `mixtral` measured, so that peers take the same
CELLS = "32/64,128/128"
DRY = ("--geometry", "tiny-mixtral", "--device", "cpu", "--cells", "8/6")
DRY_GPU_GIB = "1.009"  # of which a peer keeps 1 for itself: half the experts of tiny-mixtral


def run_published_policy(session: Session) -> None:
    run_torch(session, "fiddler_policy.py", ("torch",))


def run_offload(session: Session) -> None:
    run_torch(session, "offload.py", ("torch", "transformers", "accelerate"))


def cut_of(session: Session) -> dict:
    """Of the scenarios, if they got that far; else small."""
    note = session.work / CUT_FILE
    return json.loads(note.read_text()) if note.exists() else {"layers": 4, "gpu_memory_gib": 3.0}


def note_cut(work: Path, model: dict) -> None:
    """`model`: what the scenarios say of theirs."""
    if "gpu_memory_gib" in model:  # a dry run has no cut
        (work / CUT_FILE).write_text(json.dumps({key: model[key] for key in ("layers", "gpu_memory_gib")}))


def run_torch(session: Session, script: str, needs: tuple[str, ...]) -> None:
    python = session.setting.peers_python
    probe = session.run(
        [python, "-c", f"import {', '.join(needs)}; print(torch.cuda.is_available())"], IMPORT_LIMIT_S, **PEER_ENV
    )
    if probe.code != 0:
        raise Skipped(f"{python} has not all of {', '.join(needs)}: {probe.why()}")
    if session.setting.dry_run:
        arguments = [*DRY, "--gpu-memory-gib", DRY_GPU_GIB]
    elif probe.out.strip() != "True":
        raise Skipped(f"{python}: torch sees no CUDA device")
    else:
        cut = cut_of(session)
        arguments = ["--layers", cut["layers"], "--gpu-memory-gib", cut["gpu_memory_gib"], "--cells", CELLS]
    count = 0

    def take(line: str) -> None:
        nonlocal count
        try:
            said = json.loads(line)
        except ValueError:
            return session.say(f"not JSON: {line[:200]}")
        if "about" in said:
            session.put("about", said["about"])
        elif "result" in said:
            count += 1
            session.add("results", said["result"])
        elif "error" in said:
            session.put("error", said["error"])

    # It stops by itself a little earlier, so that it can say what it has.
    command = [python, "-B", PEERS / script, *arguments, "--seconds", f"{0.8 * session.left():.0f}"]
    done = session.run(command, on_line=take, **PEER_ENV)
    if done.code != 0 or count == 0:
        last = next((line for line in reversed(done.out.splitlines()) if '"error"' in line), "")
        raise Failed(last or done.why())


def run_llama_bench(session: Session) -> None:
    program, model = session.setting.llama_bench, session.setting.gguf
    if not program or not model:
        raise Skipped("no --llama-bench PATH and --gguf FILE were given")
    if not (program.is_file() and os.access(program, os.X_OK)) or not model.is_file():
        raise Skipped(f"{program} or {model} is not there")
    layers = "0" if session.setting.dry_run else "99"
    # Attention and dense weights on the GPU, experts in RAM: its best for models that do not fit.
    command = [program, "-m", model, "-p", "128", "-n", "32", "-r", "2", "-ngl", layers, "-ot", "exps=CPU", "-o", "json"]
    session.put("command", [str(word) for word in command])
    done = session.run(command, **PEER_ENV)
    if done.code != 0:
        raise Failed(done.why())
    try:
        session.put("results", json.loads(done.out))
    except ValueError:
        raise Failed(f"expected JSON, got: {done.out[:200]!r}") from None
