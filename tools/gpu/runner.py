"""Runs steps one after the other, each in a process group of its own that is killed at the step's limit.

A step is a Python function that gets a Session: it runs programs with it and says what it found, piece by piece. It
runs in a forked child, so nothing it does (hang, crash, eat all memory) can stop the others or lose what is known.
Child and parent speak through a file, never a pipe: a pipe stays open as long as any grandchild lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gpu.results import Results

POLL_S = 0.05
KILL_PATIENCE_S = 5  # a process stuck in the driver may not die at all; then we go on without it
LEAST_S = 1.0  # a step is not started with less time than this
TAIL = 2000  # characters of a program's messages that are kept


class Skipped(Exception):
    """The step cannot be done here; the message says why."""


class Failed(Exception):
    """The step was done and something is wrong; the message says what."""


@dataclass(frozen=True)
class Step:
    name: str
    about: str
    limit_s: float
    run: Callable[[Session], None]


@dataclass
class Finished:
    """A program that has ended: exit code, None if it was killed at its limit; and what it wrote."""

    code: int | None
    out: str
    err: str
    seconds: float

    def why(self) -> str:
        """One line for who reads the results."""
        lines = [line.strip() for line in (self.out + "\n" + self.err).splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("fiddler: ")), lines[-1] if lines else "no message")
        return f"killed after {self.seconds:.0f} s: {said[:300]}" if self.code is None else f"exit {self.code}: {said[:400]}"


@dataclass
class Session:
    """What a step is given. `setting`: whatever the steps of a trial share; read only."""

    setting: object
    deadline: float  # time.monotonic() when the step is killed
    work: Path  # a folder for files, the same for all steps
    record: Path  # one JSON object a line, what the parent reads
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    def put(self, key: str, value) -> None:
        self._write({"put": key, "value": value})

    def add(self, key: str, value) -> None:
        """One more of a list."""
        self._write({"add": key, "value": value})

    def _write(self, line: dict) -> None:
        with self.record.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def run(self, command: list, limit_s: float = 1e9, on_line: Callable[[str], None] | None = None, **env: str) -> Finished:
        """Runs a program to its end, its limit or a little before the step's. `on_line`: gets each line of stdout as it comes."""
        limit_s = min(limit_s, self.left() - 0.3)
        started = time.monotonic()
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            try:
                process = subprocess.Popen(
                    [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.env | env
                )
            except OSError as error:
                return Finished(127, "", f"cannot run {command[0]}: {error.strerror}", 0.0)
            passed_on = 0
            while process.poll() is None and time.monotonic() - started < limit_s:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                passed_on = self._pass_on(out, passed_on, on_line)
            code = process.poll()
            if code is None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_PATIENCE_S)
            self._pass_on(out, passed_on, on_line)
            seconds = time.monotonic() - started
            return Finished(code, text_of(out), text_of(err)[-TAIL:], seconds)

    @staticmethod
    def _pass_on(out, start: int, on_line) -> int:
        """Whole lines from `start` on; returns where the next begins."""
        if on_line is None:
            return start
        # The program writes through the same open file, so the position is shared: pread leaves it alone.
        size = os.fstat(out.fileno()).st_size
        whole = os.pread(out.fileno(), size - start, start)
        whole = whole[: whole.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").splitlines():
            on_line(line)
        return start + len(whole)


def text_of(file) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def wait_for(pid: int, patience_s: float) -> int | None:
    """The wait status of a child, None if it has not ended by then."""
    until = time.monotonic() + patience_s
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if done:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(POLL_S)


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all gone
        os.killpg(group, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Ends this process group soon after `parent` is gone, so that a killed trial leaves nothing on the GPU."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os.killpg(0, signal.SIGKILL)


class Runner:
    """Runs steps within a budget; `results` has at any moment all that is known."""

    def __init__(self, results: Results, setting: object, work: Path, log: Path, seconds: float, env: dict[str, str]) -> None:
        self.results, self.setting, self.work, self.log, self.env = results, setting, work, log, env
        self.end = time.monotonic() + seconds

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            self.run_step(step)

    def run_step(self, step: Step) -> None:
        left = self.end - time.monotonic()
        limit = min(step.limit_s, left)
        entry = {
            "name": step.name,
            "about": step.about,
            "status": "running",
            "reason": "",
            "seconds": 0.0,
            "limit_s": round(limit, 1),
            "data": {},
        }
        if left < LEAST_S:
            self.results.put(entry | {"status": "skipped", "reason": "no time left"})
            self.tell(f"{step.name}: skipped: no time left")
            return
        self.tell(f"{step.name} ...")
        self.results.put(entry)  # killed now, the file says what was running
        record = self.work / f"{step.name}.record"
        record.touch()
        started = time.monotonic()
        # Anything still buffered would be written by the child too.
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            self.be_child(step, record, started + limit, parent)
        end = self.follow(entry, child, record, started, limit)
        entry |= {"seconds": round(time.monotonic() - started, 2)} | end
        self.results.put(entry)
        self.tell(f"{step.name}: {entry['status']} in {entry['seconds']:.1f} s{': ' if entry['reason'] else ''}{entry['reason']}")

    def follow(self, entry: dict, child: int, record: Path, started: float, limit: float) -> dict:
        """Reads what the child says until it ends or its time is up; returns status and reason."""
        read, end, status = 0, {}, None
        try:
            while status is None and time.monotonic() - started < limit:
                status = wait_for(child, POLL_S)
                read, news = self.collect(entry, end, record, read)
                if news:
                    self.results.put(entry)
        finally:
            kill_group(child)  # what the step left running, too
        timed_out = status is None
        if timed_out and wait_for(child, KILL_PATIENCE_S) is None:
            end["reason"] = "; its process could not be killed"
        self.collect(entry, end, record, read)
        if timed_out:
            return {"status": "timeout", "reason": f"killed at its limit of {limit:.0f} s{end.get('reason', '')}"}
        if "status" in end:
            return end
        code = os.waitstatus_to_exitcode(status)
        how = f"exit {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return {"status": "failed", "reason": f"the step itself ended with {how}; see the log"}

    @staticmethod
    def collect(entry: dict, end: dict, record: Path, start: int) -> tuple[int, bool]:
        """Takes over whole lines from `start` on; returns where to go on, and whether there were any."""
        with record.open("rb") as file:
            file.seek(start)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        for line in map(json.loads, lines.splitlines()):
            if "put" in line:
                entry["data"][line["put"]] = line["value"]
            elif "add" in line:
                entry["data"].setdefault(line["add"], []).append(line["value"])
            else:
                end |= line
        return start + len(lines), bool(lines)

    def be_child(self, step: Step, record: Path, deadline: float, parent: int) -> None:
        """Never returns."""
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            threading.Thread(target=die_with, args=(parent,), daemon=True).start()
            with self.log.open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            print(f"=== {step.name}", file=sys.stderr, flush=True)
            session = Session(self.setting, deadline, self.work, record, self.env)
            end = {"status": "done", "reason": ""}
            try:
                step.run(session)
            except Skipped as reason:
                end = {"status": "skipped", "reason": str(reason)}
            except Failed as reason:
                end = {"status": "failed", "reason": str(reason)}
            except Exception as error:  # a mistake of the step's own: it must not look as if it had passed
                traceback.print_exc()
                end = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            session._write(end)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        finally:
            sys.stderr.flush()
            os._exit(0)

    @staticmethod
    def tell(text: str) -> None:
        print(text, flush=True)
