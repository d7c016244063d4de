"""A trial's file as tests need it: made up from round figures, never measured, kept nowhere."""

SLICE_BYTES, HIDDEN, NEURONS = 1 << 20, 4096, 64
# A HardwareProfile in which the calibration below is turned back.
HARDWARE = {"cpu_read_gbps": 100.0, "dram_gbps": 150.0, "cpu_gflops": 2000.0, "ram_bytes": 128 << 30, "handoff_seconds": 1e-05,
            "gpu_memory_bytes": 80 << 30, "gpu_memory_gbps": 2500.0, "gpu_gflops": 400000.0, "link_gbps": 50.0,
            "launch_seconds": 8e-06}  # fmt: skip
MODEL = {"geometry": "mixtral-8x7b", "layers": 32, "of_layers": 32, "why_cut": "", "gpu_memory": "24GiB", "way": "bench --scenarios",
         "weight_bytes": 93e9, "expert_bytes_per_token": 20e9, "dense_bytes": 3e9}  # fmt: skip
RATES = {"balanced": 8.0, "fiddler": 5.0, "expert-cache": 0.8, "stream": 0.5, "static-layers": 4.0, "cpu-experts": 4.5}


def samples(gbps, gflops):
    operations = 6.0 * HIDDEN * NEURONS * 512
    return [{"tokens": 1.0, "us": 1.0, "fitted_us": SLICE_BYTES / (gbps * 1e3)},
            {"tokens": 512.0, "us": 1.0, "fitted_us": operations / (gflops * 1e3)}]  # fmt: skip


def calibration():
    h = HARDWARE
    device = {"slice": samples(h["gpu_memory_gbps"], h["gpu_gflops"]), "start_us": 1e6 * h["launch_seconds"], "link": [],
              "link_slice_gbps": h["link_gbps"], "joint_gbps": h["dram_gbps"], "handoff_p50_us": 1e6 * h["handoff_seconds"],
              "handoff_p99_us": 30.0}  # fmt: skip
    return {"slices": [{"format": "bf16", "hidden": HIDDEN, "slice_neurons": NEURONS, "slice_bytes": SLICE_BYTES, "read_gbps": 110.0,
                        "cpu": samples(h["cpu_read_gbps"], h["cpu_gflops"]), "device": device}]}  # fmt: skip


def scenario(policy, prompt, gen, ttft_s, inter_token_s, batch=1, hit_rate=0.25):
    entry = {"policy": policy, "prompt": prompt, "for_gen": gen, "gen": gen, "batch": batch, "ttft_s": ttft_s, "inter_token_s": inter_token_s,
             "hit_rate": hit_rate, "end_to_end_tokens_per_s": batch * gen / (ttft_s + (gen - 1) * inter_token_s)}  # fmt: skip
    return entry | ({"decode_tokens_per_s": batch / inter_token_s} if gen > 1 else {})


def step(name, data, status="done", reason=""):
    return {"name": name, "about": "", "status": status, "reason": reason, "seconds": 1.0, "limit_s": 10, "data": data}


def trial(scenarios=None):
    """Scenarios by default: every policy at 32 / 64 as in RATES, two prompts, a batch."""
    if scenarios is None:
        scenarios = [scenario(policy, 32, 64, 0.5, 1 / rate) for policy, rate in RATES.items()]
        scenarios += [scenario("balanced", 512, 1, 1.5, 0.0), scenario("stream", 512, 1, 2.0, 0.0)]
        scenarios += [
            scenario("balanced", 32, 32, 1.0, 0.25, batch=4),
            {"policy": "fiddler", "prompt": 1, "for_gen": 1, "batch": 1, "error": "x"},
        ]
    machine = {"cpu": {"model": "Some CPU", "usable": 16}, "ram_bytes": HARDWARE["ram_bytes"], "commit": "abcdef0123456",
               "gpu": {"driver_version": "580", "memory.total": str(HARDWARE["gpu_memory_bytes"] >> 20), "pcie.link.gen.max": "5",
                       "pcie.link.width.max": "16"}}  # fmt: skip
    runs = [{"same": True}] * 23 + [{"same": False}]
    peer = {"about": {"what": "a peer", "layers": 32}, "results": [
        {"prompt": 32, "for_gen": 64, "ttft_s": 1.0, "inter_token_s": 0.5, "end_to_end_tokens_per_s": 2.0}]}  # fmt: skip
    return {"kind": "gpu-trial", "dry_run": False, "date": "2026-01-01", "gpu": "Some GPU", "steps": [
        step("environment", {"machine": machine}),
        step("cuda-tests", {"tests": [{"name": "cuda_test", "device": "Some GPU", "ran": 12, "failed": ["Norm.Rms: off by 2"]}]}, "failed", "1 of 1"),
        step("tokens", {"runs": runs}),
        step("calibrate", {"calibration": calibration()}),
        step("mixtral", {"model": MODEL, "scenarios": scenarios}),
        step("published-policy", peer),
        step("kernels", {"result": {"kernels": [{"name": "norm", "us": 12.34, "more": {}}, {"name": "attend", "percent_of_limit": 71.0}]}}),
        step("llama-bench", {}, "skipped", "none was given"),
    ]}  # fmt: skip
