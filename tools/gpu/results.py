"""The one file that a trial writes: valid JSON at every moment, whatever kills the trial.

It is written whole and renamed over the last one after everything that becomes known. A dry run's file is of another
kind, and says so in its first line: nothing that reads measurements takes it for one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

MEASURED = "gpu-trial"
DRY = "gpu-trial dry run"
WARNING = "DRY RUN: no GPU was used; every figure in this file only shows that the steps work"


class ResultsError(Exception):
    """A file that is not what it should be."""


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


class Results:
    """`content["steps"]` has an entry a step, in the order in which they ran."""

    def __init__(self, path: Path, dry_run: bool, about: dict) -> None:
        self.path = path
        self.content = ({"warning": WARNING} if dry_run else {}) | {"kind": DRY if dry_run else MEASURED, "dry_run": dry_run}
        self.content |= about | {"steps": []}

    def take_over(self, earlier: dict) -> None:
        """Steps of an earlier trial of the same machine: they stay unless they run again. Throws ResultsError."""
        for key in ("kind", "gpu"):
            if earlier.get(key) != self.content.get(key):
                raise ResultsError(f"{key}: the earlier trial's is {earlier.get(key)!r}, this one's {self.content.get(key)!r}")
        known = {key: earlier.get(key) for key in ("started", "seconds", "command", "ended")}
        self.content["earlier"] = [*earlier.get("earlier", []), known]
        self.content["steps"] = earlier["steps"]

    def put(self, entry: dict) -> None:
        """Adds the entry of a step, or replaces what was known of that step."""
        steps = self.content["steps"]
        place = next((i for i, known in enumerate(steps) if known["name"] == entry["name"]), len(steps))
        steps[place : place + 1] = [entry]
        self.save()

    def save(self) -> None:
        write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")


def read(path: Path, dry_too: bool = False) -> dict:
    """The file of a trial. Throws ResultsError for anything else, and for a dry run unless `dry_too`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in (MEASURED, DRY):
        raise ResultsError(f"{path}: expected the file of a trial (kind '{MEASURED}'), got kind {kind!r}")
    # Both marks must agree that this was measured.
    if (kind == DRY or content.get("dry_run") is not False) and not dry_too:
        raise ResultsError(f"{path}: this was a dry run: nothing in it was measured on a GPU")
    return content


def data_of(content: dict, step: str) -> dict:
    """What a step found out, also if it was cut short; {}: nothing."""
    return next((entry["data"] for entry in content["steps"] if entry["name"] == step), {})
