"""The fiddler binary as the steps use it: what it can do, what a model needs, the memory for a share of the experts."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from gpu.bundle import REPOSITORY
from gpu.runner import Failed, Finished, Session, Skipped

sys.path.insert(0, str(REPOSITORY / "bench/peers"))
from geometry import geometries  # noqa: E402  the product's own list

POLICIES = ("balanced", "fiddler", "expert-cache", "stream", "static-layers", "cpu-experts")
DEMO = REPOSITORY / "models/demo"
GIB = 1 << 30


@dataclass(frozen=True)
class Setting:
    """Of a trial; read by all steps."""

    dry_run: bool
    device: str  # cuda, or emulated in a dry run
    bundle: Path
    fiddler: Path | None = None  # given by --fiddler
    llama_bench: Path | None = None
    gguf: Path | None = None
    peers_python: str = sys.executable


def fiddler_of(session: Session) -> str:
    """The binary that the step `programs` settled on."""
    note = session.work / "fiddler.path"
    if not note.exists():
        raise Skipped("there is no fiddler: see the step 'programs'")
    return note.read_text()


def json_of(done: Finished, what: str) -> dict:
    """Throws Failed if it failed or printed something else."""
    if done.code != 0:
        raise Failed(f"{what}: {done.why()}")
    try:
        return json.loads(done.out)
    except ValueError:
        raise Failed(f"{what}: expected JSON, got: {done.out[:200]!r}") from None


def knows(session: Session, verb: str, option: str) -> bool:
    return option in session.run([fiddler_of(session), verb, "--help"], 20).out


def require_device(session: Session, verb: str) -> None:
    """Throws Skipped if this verb cannot use the device of the trial."""
    device = session.setting.device
    words = session.run([fiddler_of(session), verb, "--help"], 20).out
    if not (match := re.search(r"--device TEXT:\{(.*?)\}", words)):
        raise Skipped(f"this fiddler's {verb} takes no --device")
    if device not in match[1].split(","):
        raise Skipped(f"this fiddler's {verb} knows no --device {device}")


def inspect(session: Session, model: Path | str) -> dict:
    return json_of(session.run([fiddler_of(session), "inspect", model, "--json"], 60), f"inspect {model}")


def fixed_memory(session: Session, model: Path | str, arguments: tuple = ()) -> float:
    """Bytes of the GPU's memory that are no slots for experts, from the refusal of far too little."""
    run = [fiddler_of(session), "run", model, "--device", session.setting.device, "--gpu-memory", "1MiB",
           "--prompt-ids", "5", "-n", "64", "--temp", "0", *arguments]  # fmt: skip
    refusal = session.run(run, 60)
    match = re.search(r"need (\d+(?:\.\d+)?) ([KMG]iB)", refusal.err)
    if refusal.code == 0 or not match:
        raise Failed(f"expected 1 MiB of GPU memory to be refused with what is needed, got {refusal.why()}")
    return (float(match[1]) + 0.05) * {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[match[2]]  # it was rounded


def memory_for_share(session: Session, model: Path | str, share: float, arguments: tuple = ()) -> str:
    """--gpu-memory with room for this share of the experts."""
    experts = inspect(session, model)["packed_expert_bytes"]
    return f"{int(fixed_memory(session, model, arguments) + share * experts) >> 10}KiB"


def config_of_cut(name: str, layers: int) -> dict:
    return geometries()[name] | {"num_hidden_layers": layers}


def write_cut(session: Session, name: str, layers: int) -> Path:
    """config.json of a built-in geometry with so many layers: bench and run take the file as a model."""
    path = session.work / f"{name}-{layers}l.json"
    path.write_text(json.dumps(config_of_cut(name, layers)))
    return path
