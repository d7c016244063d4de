"""Speed under every policy: loads a model with made-up weights once and runs a list of scenarios on it.

`fiddler bench MODEL --dummy-weights 1 --device cuda --gpu-memory SIZE --scenarios FILE.json` is to do that in one process:

    FILE.json   [{"policy": "balanced", "prompt": 32, "gen": 64, "batch": 1}, ...]     batch may be left out
    stdout, a line each, flushed at once (or lines of `bench --json`, in the order of the file):
    {"loaded": {"model", "device", "gpu_memory_bytes", "isa", "threads", "load_s", "weight_bytes",
                "limits": {"read_gbps", ...}}}                                         when the weights are in memory
    {"scenario": 0, "policy", "prompt", "gen", "batch", "seconds", "ttft_s", "inter_token_s", "inter_token_p50_s",
     "inter_token_p99_s", "tokens_per_s", "hit_rate", "expert_slices": {...}}          when that scenario is done
    {"scenario": 1, "error": "one line"}                                               it failed; the next one runs

A scenario gets a policy and slots of its own, filled as at the start of a run, and an untimed step of warm-up; it reads
`batch` prompts of random ids (seed 1) and generates `gen` tokens for each. `ttft_s`: until every prompt is read and every
sequence has its first token; `inter_token_s`: mean time of the gen - 1 steps after it (0 with gen 1); `tokens_per_s`:
batch * gen / seconds. `hit_rate`: of slices of the decode steps (with gen 1: of the prompt). Exit 0 if all ran or failed in
words, 1 if the model could not be loaded.

As long as a fiddler does not know the option, every scenario is a process that loads a small cut of the model: `bench` if it
takes --device, else `run`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu import machine
from gpu.engine import (  # fmt: skip
    DEMO,
    GIB,
    POLICIES,
    fiddler_of,
    fixed_memory,
    geometries,
    inspect,
    json_of,
    knows,
    memory_for_share,
    require_device,
    write_cut,
)
from gpu.peers import note_cut
from gpu.runner import Failed, Finished, Session, Skipped

GPU_MEMORY_GIB = 24
# These generate fewer tokens than asked for: time between tokens hardly changes under a policy whose residents never do,
# `expert-cache` has filled its caches with the prompt and its first tokens, and a token of `stream` reads all experts through the link, 2 s for Mixtral. With them all of a whole Mixtral's scenarios take
# some four minutes on the simulator's h100-16vcpu.
FEWER = {"fiddler": 32, "static-layers": 24, "cpu-experts": 24, "expert-cache": 32, "stream": 4}
CALIBRATED_FIRST = "mixtral-8x7b"  # by the step `calibrate`, which leaves this note
CALIBRATED = "calibrated"
CALIBRATE_SECONDS = 8  # of another geometry
ASSUMED_HARDWARE = "h100-16vcpu"
CUTS = (32, 24, 16, 12, 8, 6, 4, 2)
ONE_PROCESS_EACH_CUT = 4  # layers, where every scenario loads the model again
FILL_SHARE = 0.35  # of the step's time may go into making up weights
ROOM_BYTES = 4 * GIB  # of RAM, for everything but weights
TEARDOWN_S = 6  # giving back 90 GB of pinned memory takes a while
SCENARIO_LIMIT_S = 60  # of a process that runs one scenario


@dataclass(frozen=True)
class Scenario:
    policy: str
    prompt: int
    for_gen: int  # the cell of the benchmark's grid that it stands for
    batch: int = 1

    @property
    def gen(self) -> int:
        return min(self.for_gen, FEWER.get(self.policy, self.for_gen))

    def asked(self) -> dict:
        return {"policy": self.policy, "prompt": self.prompt, "gen": self.gen, "batch": self.batch}


def mixtral_scenarios() -> list[Scenario]:
    """The most telling first: what does not fit into the time is left out from the end."""
    streaming = ("balanced", "fiddler", "stream", "expert-cache")  # policies that copy when prompts are long
    scenarios = [Scenario(policy, 32, 64) for policy in POLICIES]
    scenarios += [Scenario(policy, tokens, 1) for tokens in (512, 2048) for policy in streaming]
    scenarios += [Scenario(policy, 128, 128) for policy in POLICIES]
    scenarios += [Scenario(policy, 32, 16, batch) for batch in (4, 8, 16) for policy in ("balanced", "fiddler")]
    scenarios += [Scenario(policy, tokens, 1) for tokens in (1024, 4096) for policy in streaming]
    # Without copies a prompt of 4096 tokens would take a minute of all cores.
    return scenarios + [Scenario(policy, 512, 1) for policy in ("static-layers", "cpu-experts")]


def qwen_scenarios() -> list[Scenario]:
    scenarios = [Scenario(policy, 32, 64) for policy in POLICIES]
    return scenarios + [Scenario("balanced", tokens, 1) for tokens in (512, 2048)] + [Scenario("balanced", 128, 128)]


def dry_scenarios() -> list[Scenario]:
    return [Scenario(policy, 8, 6) for policy in POLICIES] + [Scenario("balanced", 64, 1), Scenario("balanced", 8, 4, 2)]


def run_mixtral(session: Session) -> None:
    run(session, CALIBRATED_FIRST, mixtral_scenarios())


def run_qwen(session: Session) -> None:
    run(session, "qwen3-30b-a3b", qwen_scenarios())


def hardware_options(session: Session, geometry: str) -> list[str]:
    """What the policies count on: calibrated for this geometry's slices; where that fails, a machine like the one we expect."""
    if session.setting.dry_run:
        return []
    command = [fiddler_of(session), "calibrate", geometry, "--device", session.setting.device, "--json"]
    done = (session.work / CALIBRATED).exists() and geometry == CALIBRATED_FIRST
    if not done:
        calibration = session.run([*command, "--seconds", str(CALIBRATE_SECONDS)], 0.3 * session.left())
        done = calibration.code == 0
    session.put("counts_on", f"calibrated for {geometry}" if done else f"{ASSUMED_HARDWARE}: it could not be calibrated")
    return [] if done else ["--hardware", ASSUMED_HARDWARE]


def run(session: Session, geometry: str, scenarios: list[Scenario]) -> None:
    in_one = knows(session, "bench", "--scenarios")
    way = "bench --scenarios" if in_one else "bench" if knows(session, "bench", "--device") else "run"
    require_device(session, way.split()[0])
    if session.setting.dry_run:
        if geometry != "mixtral-8x7b":
            raise Skipped("dry run: one model is enough")
        model, memory, dummy, scenarios = DEMO, memory_for_share(session, DEMO, 0.25), [], dry_scenarios()
        about = {"geometry": "demo", "layers": 4, "of_layers": 4, "note": "dry run"}
    else:
        about = choose_cut(session, geometry, in_one)
        model, dummy = write_cut(session, geometry, about["layers"]), ["--dummy-weights", "1"]
        memory = gpu_memory(session, geometry, about, model)
        about["gpu_memory_gib"] = int(memory.removesuffix("KiB")) / 2**20
    session.put("model", about | {"gpu_memory": memory, "way": way} | sizes_of(inspect(session, model)))
    if geometry == CALIBRATED_FIRST:
        note_cut(session.work, about)
    session.put("beams", "the engine has no beam search yet: batch N stands for N beams, without their shared prompt")
    base = [model, *dummy, "--device", session.setting.device, "--gpu-memory", memory, *hardware_options(session, geometry)]
    done = run_in_one(session, base, scenarios) if in_one else run_each(session, way, base, scenarios)
    if done < len(scenarios):
        session.put("left_out", [asdict(scenario) for scenario in scenarios[done:]])
    if done == 0:
        raise Failed("no scenario came to its end")


def sizes_of(facts: dict) -> dict:
    """What a token reads if nothing is shared."""
    expert = facts["packed_expert_bytes"] / facts["moe_layers"] / facts["experts"]
    per_token = expert * facts["experts_per_token"] * facts["moe_layers"]
    return {"weight_bytes": facts["packed_bytes"], "expert_bytes_per_token": per_token,
            "dense_bytes": facts["packed_bytes"] - facts["packed_expert_bytes"]}  # fmt: skip


# --- how much of the model


def choose_cut(session: Session, geometry: str, in_one: bool) -> dict:
    """As many layers as free RAM and the time to make up weights allow; memory of the GPU in proportion."""
    full = geometries()[geometry]["num_hidden_layers"]
    rate = fill_rate(session, geometry)
    available = machine.memory_bytes("MemAvailable") - ROOM_BYTES
    layers, reason = 0, ""
    for layers in sorted({full, *(cut for cut in CUTS if cut < full)}, reverse=True):
        size = inspect(session, write_cut(session, geometry, layers))["packed_bytes"]
        if size > available:
            reason = f"{size / GIB:.0f} GiB do not fit into {available / GIB:.0f} GiB of free RAM"
        elif size / rate > FILL_SHARE * session.left():
            reason = f"making up {size / GIB:.0f} GiB at {rate / 1e9:.1f} GB/s leaves too little of {session.left():.0f} s"
        elif not in_one and layers > ONE_PROCESS_EACH_CUT:
            reason = "without bench --scenarios every scenario loads the model again"
        else:
            break
    else:
        raise Skipped(f"not even {layers} layers: {reason}")
    return {"geometry": geometry, "layers": layers, "of_layers": full, "fill_gbps": rate / 1e9, "why_cut": reason}


def gpu_memory(session: Session, geometry: str, about: dict, model: Path) -> str:
    """24 GiB; of a cut, what holds the share of its experts that 24 GiB hold of the whole model's."""
    if about["layers"] == about["of_layers"]:
        return f"{GPU_MEMORY_GIB << 20}KiB"
    dummy, whole = ("--dummy-weights", "1"), write_cut(session, geometry, about["of_layers"])
    room = GPU_MEMORY_GIB * GIB - fixed_memory(session, whole, dummy)
    return memory_for_share(session, model, min(room / inspect(session, whole)["packed_expert_bytes"], 1.0), dummy)


def fill_rate(session: Session, geometry: str) -> float:
    """Bytes of made-up weights a second, with two layers."""
    model = write_cut(session, geometry, 2)
    command = [
        fiddler_of(session),
        "run",
        model,
        "--dummy-weights",
        "1",
        "--device",
        "cpu",
        "--prompt-ids",
        "5",
        "-n",
        "1",
        "--json",
    ]
    loaded = json_of(session.run(command, 0.3 * session.left()), "filling two layers")
    return inspect(session, model)["packed_bytes"] / max(loaded["load_s"], 1e-3)


# --- running them


def run_in_one(session: Session, base: list, scenarios: list[Scenario]) -> int:
    """Returns how many lines of scenarios came."""
    file = session.work / "scenarios.json"
    file.write_text(json.dumps([scenario.asked() for scenario in scenarios]))
    count = 0

    def take(line: str) -> None:
        nonlocal count
        try:
            said = json.loads(line)
        except ValueError:
            return session.say(f"not JSON: {line[:200]}")
        if "loaded" in said:
            return session.put("loaded", said["loaded"])
        if "prefill" in said and count < len(scenarios):  # in the words of `bench --json`, in the order of the file
            said = {"scenario": count, **from_bench(scenarios[count], said)}
        if not isinstance(said.get("scenario"), int) or not 0 <= said["scenario"] < len(scenarios):
            return session.say(f"not a scenario: {line[:200]}")
        count += 1
        session.add("scenarios", entry_of(scenarios[said["scenario"]], "bench --scenarios", said))

    command = [fiddler_of(session), "bench", *base, "--scenarios", file, "--repeat", "1", "--json"]
    done = session.run(command, session.left() - TEARDOWN_S, on_line=take)
    if count == 0:
        raise Failed(done.why())
    if done.code != 0:
        session.put("ended", done.why())
    return count


def run_each(session: Session, way: str, base: list, scenarios: list[Scenario]) -> int:
    """A process each; returns how many were tried before the time was up."""
    slowest = 1.0
    for index, scenario in enumerate(scenarios):
        if session.left() < 1.5 * slowest:
            return index
        if way == "run" and scenario.batch > 1:
            session.add("scenarios", entry_of(scenario, way, {"error": "run has no batches, and bench takes no --device yet"}))
            continue
        done = session.run([fiddler_of(session), way, *base, "--policy", scenario.policy, "--json", *arguments_of(way, scenario)],
                           SCENARIO_LIMIT_S)  # fmt: skip
        slowest = max(slowest, done.seconds)
        session.add("scenarios", entry_of(scenario, way, said_by(way, scenario, done)))
    return len(scenarios)


def arguments_of(way: str, scenario: Scenario) -> list[str]:
    if way == "bench":
        return ["--prompt", str(scenario.prompt), "--gen", str(scenario.gen), "--batch", str(scenario.batch), "--repeat", "1"]
    ids = ",".join(str(5 + 7 * i % 1000) for i in range(scenario.prompt))
    return ["--prompt-ids", ids, "-n", str(scenario.gen), "--temp", "0", "--ignore-eos"]


def from_bench(scenario: Scenario, said: dict) -> dict:
    """Adds times to what `bench --json` says."""
    prefill, decode = said["prefill"], said["decode"]
    hits = (decode if scenario.gen > 1 else prefill).get("expert_slices", {}).get("hit_rate")
    return said | {
        "ttft_s": scenario.batch * scenario.prompt / prefill["tokens_per_s"],
        "inter_token_s": scenario.batch / decode["tokens_per_s"],
        "hit_rate": hits,
    }


def said_by(way: str, scenario: Scenario, done: Finished) -> dict:
    """In the words of bench --scenarios."""
    try:
        said = json_of(done, way)
        if way == "bench":
            return from_bench(scenario, said)
        # run's rate is of what follows the first token
        ttft, inter = said["ttft_s"], 1 / said["tokens_per_s"] if said["tokens"] > 1 and said["tokens_per_s"] > 0 else 0.0
    except (Failed, KeyError, ZeroDivisionError) as error:
        return {"error": str(error) if isinstance(error, Failed) else f"{way}: unexpected JSON: {error!r}"}
    said |= {"ttft_s": ttft, "inter_token_s": inter}
    return said | {"hit_rate": said.get("expert_slices", {}).get("hit_rate")}


def entry_of(scenario: Scenario, way: str, said: dict) -> dict:
    """`end_to_end_tokens_per_s` is of the whole cell: computed from both times if fewer tokens were generated."""
    entry = asdict(scenario) | {"gen": scenario.gen, "way": way}
    if "error" in said:
        return entry | {"error": said["error"]}
    try:
        seconds = said["ttft_s"] + (scenario.for_gen - 1) * said["inter_token_s"]
        entry |= {"ttft_s": said["ttft_s"], "inter_token_s": said["inter_token_s"], "hit_rate": said.get("hit_rate"),
                  "end_to_end_tokens_per_s": scenario.batch * scenario.for_gen / seconds}  # fmt: skip
    except (KeyError, TypeError, ZeroDivisionError) as error:
        return entry | {"error": f"{way}: unexpected figures: {error!r}"}
    if scenario.gen > 1 and said["inter_token_s"] > 0:
        entry["decode_tokens_per_s"] = scenario.batch / said["inter_token_s"]
    return entry | {"said": said}
