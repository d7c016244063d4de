"""What a machine could do at best, from the calibration in a trial's file: for the report and for predictions."""

from __future__ import annotations

from dataclasses import dataclass

from gpu.results import ResultsError, data_of

STORED_FORMAT = "bf16"  # what the scenarios' weights are kept in


@dataclass(frozen=True)
class Limits:
    """Rates in 10^9 bytes or operations a second."""

    cpu_gbps: float  # slices, one token, all threads
    cpu_gflops: float  # slices, many tokens
    read_gbps: float  # a plain read of memory by the CPU
    joint_gbps: float  # CPU and link together
    link_gbps: float
    gpu_gbps: float  # slices on the device, one token
    gpu_gflops: float
    handoff_p50_s: float
    handoff_p99_s: float
    gpu_start_s: float

    def decode_ceiling(self, model: dict, hit_rate: float) -> float:
        """Tokens/s of a single sequence at these hits, if misses are split between CPU and link at their best and nothing
        else takes time: the device reads all but the CPU's share, the host's memory gives every miss once."""
        experts, dense = model["expert_bytes_per_token"], model["dense_bytes"]
        missing = (1 - hit_rate) * experts
        host = missing / (min(self.joint_gbps, self.cpu_gbps + self.link_gbps) * 1e9)
        on_gpu = (dense + hit_rate * experts) / (self.gpu_gbps * 1e9)
        return 1 / max(host, on_gpu)


def slice_of(calibration: dict) -> dict:
    for entry in calibration.get("slices", []):
        if entry.get("format") == STORED_FORMAT and "device" in entry:
            return entry
    raise ResultsError(f"the calibration has no {STORED_FORMAT} slices of a device")


def limits_of(content: dict) -> Limits:
    """Throws ResultsError if the trial calibrated nothing with a device."""
    entry = slice_of(data_of(content, "calibrate").get("calibration", {}))
    size, device = entry["slice_bytes"], entry["device"]
    operations = 6.0 * entry["hidden"] * entry["slice_neurons"]
    gbps = lambda samples: size / (samples[0]["fitted_us"] * 1e3)  # noqa: E731
    gflops = lambda samples: operations * samples[-1]["tokens"] / (samples[-1]["fitted_us"] * 1e3)  # noqa: E731
    return Limits(cpu_gbps=gbps(entry["cpu"]), cpu_gflops=gflops(entry["cpu"]), read_gbps=entry["read_gbps"],
                  joint_gbps=device["joint_gbps"], link_gbps=device["link_slice_gbps"], gpu_gbps=gbps(device["slice"]),
                  gpu_gflops=gflops(device["slice"]), handoff_p50_s=device["handoff_p50_us"] / 1e6,
                  handoff_p99_s=device["handoff_p99_us"] / 1e6, gpu_start_s=device["start_us"] / 1e6)  # fmt: skip


def hardware_of(content: dict, name: str) -> dict:
    """A HardwareProfile (src/plan/hardware.h) of the machine, by what its slices took: for `fiddler simulate --hardware`."""
    limits, machine = limits_of(content), data_of(content, "environment").get("machine", {})
    memory = machine.get("gpu", {}).get("memory.total", "0")  # MiB
    return {"name": name, "cpu_read_gbps": limits.cpu_gbps, "dram_gbps": max(limits.joint_gbps, limits.cpu_gbps),
            "cpu_gflops": limits.cpu_gflops, "ram_bytes": machine.get("ram_bytes") or 1 << 40,
            "handoff_seconds": limits.handoff_p50_s, "gpu_memory_bytes": int(float(memory)) << 20 or 1 << 36,
            "gpu_memory_gbps": limits.gpu_gbps, "gpu_gflops": limits.gpu_gflops, "link_gbps": limits.link_gbps,
            "launch_seconds": limits.gpu_start_s}  # fmt: skip


def scenarios_of(content: dict, step: str) -> list[dict]:
    """Those that came to their end."""
    return [entry for entry in data_of(content, step).get("scenarios", []) if "error" not in entry]
