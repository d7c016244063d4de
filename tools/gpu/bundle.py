"""The programs of a trial: collected here into a folder that travels, found there.

The machine with the GPU has neither network nor our packages, so the bundle has every shared library that a bare Ubuntu
24.04 lacks. It is made on a machine with an older glibc and libstdc++ than that has, and these stay behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "build/gpu-bundle"
BUILDS = ("build/cuda-release", "build/release")  # where to look, in this order

FIDDLER = "fiddler"
PLUGIN = "libfiddler_cuda.so"
# Test programs that have something to do on a real device, and what tells them to use it instead of one that is played.
# They must say so on stdout, in a line `device: NAME`: without it nothing they found counts as found on a device.
CUDA_TESTS = ("cuda_test",)
CUDA_TEST_ENV = {"FIDDLER_TEST_CUDA": "1", "FIDDLER_SOURCE_DIR": str(REPOSITORY)}
PROGRAMS = (FIDDLER, PLUGIN, *CUDA_TESTS)
BUILD_TARGETS = ("fiddler", "fiddler_cuda", *CUDA_TESTS)

MANIFEST = "bundle.json"
BUNDLE_LIMIT = 60 << 20
JOURNEY_LIMIT = 64 << 20  # what a lent machine takes: the working tree and all that goes with it
# Part of every Ubuntu, or of the driver.
LEFT_BEHIND = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|libcuda|libnvidia.*)\.so.*"
)


class BundleError(Exception):
    pass


def output_of(command: list) -> str:
    """ "" if it cannot be run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def find_built(name: str, builds: list[Path]) -> Path | None:
    for build in builds:
        for path in (build / name, *sorted(build.glob(f"src/**/{name}"))):
            if path.is_file():
                return path
    return None


def needed_libraries(program: Path, search: str = "") -> tuple[dict[str, Path], list[str]]:
    """What to take along for `program`, by the name it is asked for; and names that the loader does not find here."""
    env = os.environ | ({"LD_LIBRARY_PATH": search} if search else {})
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, env=env, check=False).stdout
    found, lost = {}, []
    for line in listed.splitlines():
        match = re.match(r"\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", line)
        if not match or LEFT_BEHIND.fullmatch(match[1]):
            continue
        if match[2].strip() == "not found":
            lost.append(match[1])
        else:
            found[match[1]] = Path(match[2])
    return found, lost


def take(source: Path, target: Path) -> None:
    shutil.copy(source.resolve(), target)
    target.chmod(0o755)
    # One that cannot be stripped travels as it is.
    subprocess.run(["strip", "--strip-unneeded", target], capture_output=True, check=False)


def size_of(paths) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def tree_size() -> int:
    """Of the files of the working tree that git does not ignore."""
    names = output_of(["git", "ls-files", "-co", "--exclude-standard", "-z"]).split("\0")
    return size_of(REPOSITORY / name for name in names if name)


def make(folder: Path, builds: list[Path]) -> dict:
    """Fills `folder` anew; returns what is in it. Throws BundleError without a fiddler, and if it is too large."""
    # All from one build, so that they fit together; rather from one that has the plugin.
    able = [build for build in builds if find_built(FIDDLER, [build])]
    able.sort(key=lambda build: find_built(PLUGIN, [build]) is None)
    found = {name: find_built(name, able[:1]) for name in PROGRAMS}
    if found[FIDDLER] is None:
        raise BundleError(f"no {FIDDLER} in {' or '.join(map(str, builds))}: build it first (cmake --build build/release)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    libraries, lost = {}, []
    for name, source in found.items():
        if source is None:
            continue
        take(source, folder / name)
        more, unfound = needed_libraries(source)
        libraries |= more
        lost += unfound
    for name, source in libraries.items():
        take(source, folder / name)
    manifest = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": output_of(["git", "rev-parse", "HEAD"]).strip(),
        "changed_since": output_of(["git", "status", "--porcelain", "-uno"]).splitlines(),
        "from": {name: str(source) for name, source in found.items() if source},
        "missing": [name for name, source in found.items() if source is None],
        "libraries": sorted(libraries),
        "libraries_not_found": sorted(set(lost)),
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    size = size_of(folder.iterdir())
    if size > BUNDLE_LIMIT:
        raise BundleError(f"{folder}: {size / 2**20:.1f} MiB, the limit is {BUNDLE_LIMIT >> 20} MiB")
    if size + tree_size() > JOURNEY_LIMIT:
        raise BundleError(
            f"{folder}: {size / 2**20:.1f} MiB and the working tree's {tree_size() / 2**20:.1f} MiB are more "
            f"than the {JOURNEY_LIMIT >> 20} MiB that travel"
        )
    return manifest


# --- on the machine with the GPU


def library_folders(bundle: Path) -> list[str]:
    """Where the loader shall look: the bundle first, the system's CUDA last: the plugin opens cuBLASLt by its name."""
    folders = [bundle] if bundle.is_dir() else []
    last = [
        Path("/usr/local/nvidia/lib64"),
        Path("/usr/local/cuda/lib64"),
        *sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/lib")),
    ]
    has_cuda = lambda folder: any(folder.glob("libcublasLt.so*")) or any(folder.glob("libcuda.so*"))  # noqa: E731
    inherited = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    return [str(folder) for folder in folders] + inherited + [str(folder) for folder in last if has_cuda(folder)]


def environment(bundle: Path, work: Path) -> dict[str, str]:
    """Programs find their libraries in it, and keep what they cache (calibration, packed files) with the trial."""
    env = dict(os.environ)
    env["LD_LIBRARY_PATH"] = ":".join(library_folders(bundle))
    env["XDG_CACHE_HOME"] = str(work / "cache")
    return env


def runs(program: Path, env: dict[str, str]) -> bool:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, env=env, timeout=20, check=False)
        return done.returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def locate(name: str, bundle: Path) -> Path | None:
    """A program on this machine: in the bundle, else in a build."""
    if (path := bundle / name).is_file():
        if not os.access(path, os.X_OK):  # lost on the way
            with suppress(OSError):
                path.chmod(0o755)
        return path
    return find_built(name, [REPOSITORY / build for build in BUILDS])
