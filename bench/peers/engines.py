"""The engines of the race behind one interface: `open(format)` gives a session, `session.measure(case, ...)` tokens/s.

One engine is in memory at a time: a machine that holds the model once need not hold it twice. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Iterator, NamedTuple

from geometry import PeersError

HERE = Path(__file__).resolve().parent


class Case(NamedTuple):
    """Work: prompts of so many tokens, then so many more tokens, for so many sequences at once."""

    prompt: int
    gen: int
    batch: int

    def __str__(self) -> str:
        return f"{self.prompt}/{self.gen}/{self.batch}"


class Machine:
    """What the operating system says, and what it is asked to forget."""

    def describe(self) -> dict:
        info = Path("/proc/cpuinfo").read_text()
        model = re.search(r"model name\s*:\s*(.*)", info)
        return {
            "cpu": model[1].strip() if model else "unknown",
            "cores": os.cpu_count(),
            "memory_bytes": self.memory("MemTotal"),
            "kernel": os.uname().release,
            "huge_pages": Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
        }

    def memory(self, field: str) -> int:
        return 1024 * int(re.search(rf"{field}:\s*(\d+)", Path("/proc/meminfo").read_text())[1])

    def require_memory(self, size: int, what: str) -> None:
        available = self.memory("MemAvailable")
        if size > available:
            raise PeersError(f"{what} needs {size / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available")

    def forget(self, path: Path) -> None:
        """Drops files from the page cache."""
        for file in files_of(path):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, path: Path) -> None:
        """Brings files into the page cache, in order."""
        buffer = bytearray(16 << 20)
        for file in files_of(path):
            with file.open("rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def last_line(text: str) -> str:
    """What a failed program said: the last line, or the assertion that its backtrace follows."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "_ASSERT(" in line), lines[-1] if lines else "no message")


def run_json(command: list, name: str, environment: dict | None = None) -> dict | list:
    try:
        run = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=os.environ | (environment or {})
        )
    except OSError as error:
        raise PeersError(f"{name}: cannot run {command[0]}: {error.strerror}") from None
    if run.returncode != 0:
        raise PeersError(f"{name}: {last_line(run.stderr)} (exit code {run.returncode})")
    try:
        return json.loads(run.stdout)
    except ValueError:
        raise PeersError(f"{name}: expected JSON on stdout, got: {last_line(run.stdout)[:200]}") from None


# --- Fiddler


class Fiddler:
    name = "fiddler"

    def __init__(self, binary: Path, models: dict[str, Path] | None = None, arguments: dict[str, str] | None = None):
        self.binary, self.models, self.arguments = binary, models or {}, arguments or {}

    def about(self) -> dict:
        version = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        commit = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True)
        return {"version": version.stdout.strip(), "commit": commit.stdout.strip(), "arguments": self.arguments}

    def run(self, verb: str, model: Path | str, *arguments) -> dict:
        return run_json([self.binary, verb, model, *arguments], "fiddler")

    def limits(self, threads: int) -> dict:
        """Of the machine at this moment."""
        return self.run("bench", "demo", "--threads", threads, "--prompt", 8, "--gen", 1, "--repeat", 1, "--json")["limits"]

    def file(self, folder: Path, format: str) -> Path:
        return self.models.get(format, folder / ("hf" if format == "bf16" else f"{format}.gguf"))

    @contextmanager
    def open(self, folder: Path, format: str, machine: Machine) -> Iterator[FiddlerSession]:
        machine.read(self.file(folder, format))
        yield FiddlerSession(self, self.file(folder, format), shlex.split(self.arguments.get(format, "")))


@dataclass
class FiddlerSession:
    """Every measurement is a process that loads the model; it measures the limits in turn with its own work."""

    engine: Fiddler
    model: Path
    arguments: list[str]

    def about(self) -> dict:
        return {"model": self.model.name, "arguments": self.arguments}

    def measure(self, case: Case, threads: int, repeat: int) -> dict:
        work = ["--threads", threads, "--prompt", case.prompt, "--gen", case.gen, "--batch", case.batch]
        result = self.engine.run("bench", self.model, *work, "--repeat", repeat, "--json", *self.arguments)
        return {
            "prefill": [result["prefill"]["tokens_per_s"]],
            "decode": [result["decode"]["tokens_per_s"]],
            "limits": result["limits"],
            "flops_per_prompt_token": 1e9 * result["prefill"]["gflops"] / result["prefill"]["tokens_per_s"],
            "bytes_per_step": 1e9 * result["decode"]["gbps"] * case.batch / result["decode"]["tokens_per_s"],
        }


# --- peers as packages


# glibc asks for huge pages for what malloc takes from the system; needs transparent huge pages "madvise" or "always".
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class PeerProcess:
    """worker.py with one model loaded."""

    def __init__(self, machine: Machine, library: str, best: bool, file: Path) -> None:
        if not file.exists():
            raise PeersError(f"{file} is not there: run export.py")
        if best:
            machine.require_memory(int(size_of(file) * 1.03) + (1 << 30), f"{library} with {file.name}")
        self.messages = tempfile.TemporaryFile("w+", errors="replace")
        command = [sys.executable, HERE / "worker.py", library, file, json.dumps({"best": best})]
        environment = os.environ | (HUGE_PAGES if best else {})
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.messages, text=True, env=environment
        )
        self.library = library
        try:
            self.loaded = self.reply()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def reply(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.messages.seek(0)
            raise PeersError(f"{self.library}: ended with status {status}: {last_line(self.messages.read())[:300]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeersError(answer["error"])
        return answer

    def ask(self, **command) -> dict:
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; reply() says how
        return self.reply()


class PackagePeer:
    PACKAGES = {"llama.cpp": "llama-cpp-python", "ik_llama.cpp": "ik-llama-cpp-python"}

    def __init__(self, library: str, best: bool) -> None:
        self.library, self.best = library, best
        self.name = library + ("-best" if best else "")

    def about(self) -> dict:
        package = self.PACKAGES[self.library]
        try:
            return {"package": package, "version": metadata.version(package)}
        except metadata.PackageNotFoundError:
            raise PeersError(f"{self.name}: the package {package} is not installed: see bench/peers/README.md") from None

    def file(self, folder: Path, format: str) -> Path:
        return folder / f"{format}.gguf"

    @contextmanager
    def open(self, folder: Path, format: str, machine: Machine) -> Iterator[PackageSession]:
        file = self.file(folder, format)
        if not self.best and file.exists():
            machine.read(file)  # it maps the file
        with PeerProcess(machine, self.library, self.best, file) as process:
            if self.best:
                machine.forget(file)  # it has a copy
            yield PackageSession(process)


@dataclass
class PackageSession:
    process: PeerProcess

    def about(self) -> dict:
        return self.process.loaded

    def measure(self, case: Case, threads: int, repeat: int) -> dict:
        return self.process.ask(do="measure", threads=threads, repeat=repeat, **case._asdict())


# --- peers as programs


class ProgramPeer:
    """An installed llama-bench, of llama.cpp or of ik_llama.cpp. Every measurement is a process that loads the model."""

    OPTIONS = {
        ("llama.cpp", False): ["-mmp", "1"],
        ("llama.cpp", True): ["-mmp", "0", "-fa", "1"],
        ("ik_llama.cpp", False): ["-mmp", "1"],
        ("ik_llama.cpp", True): ["-rtr", "1", "-fmoe", "1", "-fa", "1"],
    }

    def __init__(self, library: str, best: bool, program: Path) -> None:
        self.library, self.best, self.program = library, best, program
        self.name = library + ("-best" if best else "")
        self.options = self.OPTIONS[library, best]

    def about(self) -> dict:
        return {"program": str(self.program), "options": self.options, "environment": HUGE_PAGES if self.best else {}}

    def file(self, folder: Path, format: str) -> Path:
        return folder / f"{format}.gguf"

    @contextmanager
    def open(self, folder: Path, format: str, machine: Machine) -> Iterator[ProgramSession]:
        machine.read(self.file(folder, format))
        yield ProgramSession(self, self.file(folder, format))


@dataclass
class ProgramSession:
    engine: ProgramPeer
    model: Path

    def about(self) -> dict:
        return {}

    def measure(self, case: Case, threads: int, repeat: int) -> dict:
        if case.batch != 1:
            raise PeersError(f"{self.engine.name}: llama-bench has no batches of sequences")
        ik = self.engine.library == "ik_llama.cpp"
        # Decoding after a prompt is spelled differently.
        decode = ["-gp", f"{case.prompt},{case.gen}"] if ik else ["-d", str(case.prompt)]
        common = [self.engine.program, "-m", self.model, "-t", threads, "-r", repeat, "-o", "json", *self.engine.options]
        environment = HUGE_PAGES if self.engine.best else {}
        prefill = run_json([*common, "-p", case.prompt, "-n", 0], self.engine.name, environment)
        gen = 0 if ik else case.gen
        decoded = run_json([*common, "-p", 0, "-n", gen, *decode], self.engine.name, environment)
        return {"prefill": prefill[-1]["samples_ts"], "decode": decoded[-1]["samples_ts"]}
