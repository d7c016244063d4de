"""What the machine of a trial is: read from the system and from nvidia-smi. Nothing is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from gpu.bundle import REPOSITORY, output_of

SMI_PLACES = ("/usr/bin/nvidia-smi", "/usr/local/nvidia/bin/nvidia-smi")
SMI_FIELDS = ("name", "driver_version", "memory.total", "memory.used", "compute_cap", "pcie.link.gen.max", "pcie.link.gen.current",
              "pcie.link.width.max", "pcie.link.width.current", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit",
              "temperature.gpu", "utilization.gpu")  # fmt: skip
PACKAGES = ("torch", "transformers", "accelerate", "triton", "numpy", "safetensors")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
NO_LIMIT = 1 << 50


def smi(*arguments: str) -> str:
    """What nvidia-smi prints; "" without one, or without a device."""
    program = shutil.which("nvidia-smi") or next((place for place in SMI_PLACES if Path(place).exists()), None)
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout if done.returncode == 0 else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def gpu_names() -> list[str]:
    return [line.strip() for line in smi("--query-gpu=name", "--format=csv,noheader").splitlines() if line.strip()]


def describe_gpu() -> dict:
    """One query a field: drivers refuse a whole query for one field that they do not know."""
    facts = {}
    for field in SMI_FIELDS:
        answer = smi(f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0").strip()
        if answer and "N/A" not in answer:
            facts[field] = answer
    return facts


def text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def memory_bytes(field: str) -> int:
    """MemTotal, MemAvailable; no more than what a container allows."""
    match = re.search(rf"^{field}:\s*(\d+) kB", text("/proc/meminfo"), re.MULTILINE)
    limit = text("/sys/fs/cgroup/memory.max")
    allowed = int(limit) if limit.isdigit() else NO_LIMIT
    if field == "MemAvailable" and allowed < NO_LIMIT:
        used = text("/sys/fs/cgroup/memory.current")
        allowed -= int(used) if used.isdigit() else 0
    return min(1024 * int(match[1]) if match else 0, allowed)


def describe_cpu() -> dict:
    info = text("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", info)
    flags = set((re.search(r"^flags\s*:\s*(.*)", info, re.MULTILINE) or [""] * 2)[1].split())
    return {"model": model[1] if model else "unknown", "cores": os.cpu_count(), "usable": len(os.sched_getaffinity(0)),
            "flags": [flag for flag in CPU_FLAGS if flag in flags]}  # fmt: skip


def package_versions() -> dict:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def describe() -> dict:
    return {
        "cpu": describe_cpu(),
        "ram_bytes": memory_bytes("MemTotal"),
        "ram_available_bytes": memory_bytes("MemAvailable"),
        "load_average": os.getloadavg()[0],
        "kernel": " ".join(os.uname()[0:3:2]),
        "system": (re.search(r'PRETTY_NAME="(.*)"', text("/etc/os-release")) or ["", ""])[1],
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))),
        "huge_pages": text("/sys/kernel/mm/transparent_hugepage/enabled"),
        "gpu": describe_gpu(),
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "commit": output_of(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]).strip(),
    }


def result_name(gpu: str, date: str) -> str:
    """DATE-GPU-gpu.json: `NVIDIA H100 80GB HBM3` is h100-80gb-hbm3."""
    return f"{date}-{re.sub(r'[^a-z0-9]+', '-', gpu.lower().replace('nvidia', '')).strip('-')}-gpu.json"
