"""transformers with accelerate's offload: what everyone gets with device_map and max_memory.

Layers that do not fit into the allowed memory of the GPU stay in RAM, and are copied whole for every step.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import FILL_SHARE, Filler, cells_of, config_for, gpu_peak_bytes, main, measure, prompt_of, say


def build(config: dict, filler: Filler):
    """The model in RAM, its weights made up in place (its own initialization would take minutes)."""
    from transformers import MixtralConfig, MixtralForCausalLM

    settings = MixtralConfig(
        **{key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype")}
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = MixtralForCausalLM(settings)
    finally:
        torch.set_default_dtype(torch.float32)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0) if "norm" in name else filler(parameter.data)
    # Tables of angles are no weights: to_empty left garbage in them.
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)
    return model


def layers_in_time(config: dict, seconds: float) -> int:
    """How many layers can be made up in this time, from a probe of the memory's speed."""
    probe = Filler(torch.bfloat16)
    probe(torch.empty(1 << 29, dtype=torch.bfloat16))
    layer = 2 * config["num_local_experts"] * 3 * config["hidden_size"] * config["intermediate_size"]
    return max(1, min(config["num_hidden_layers"], int(seconds / probe.seconds_for(layer))))


def peer(options: argparse.Namespace) -> None:
    import accelerate
    import transformers

    started = time.monotonic()
    device, config = torch.device(options.device), config_for(options)
    if options.device == "cuda":
        config["num_hidden_layers"] = layers_in_time(config, FILL_SHARE * options.seconds)
    model = build(config, Filler(torch.bfloat16))
    where = {"": "cpu"}
    if options.device == "cuda":
        memory = {0: int(options.gpu_memory_gib * 2**30), "cpu": 1 << 50}
        whole = list(model._no_split_modules or ())
        where = accelerate.infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
        # The cache stays where it is. Releases of transformers name it as a string, a list or a set.
        keep = getattr(model, "_skip_keys_device_placement", None) or ()
        keep = [keep] if isinstance(keep, str) else list(keep)
        model = accelerate.dispatch_model(model, device_map=where, main_device=0, skip_keys=keep)
    else:
        model = accelerate.cpu_offload(model, execution_device=device)  # the same hooks, without a GPU
    say("about", {"what": "transformers with accelerate's offload", "torch": torch.__version__,
                  "transformers": transformers.__version__, "accelerate": accelerate.__version__, "geometry": options.geometry,
                  "layers": config["num_hidden_layers"], "gpu_memory_gib": options.gpu_memory_gib,
                  "fill_s": time.monotonic() - started, "modules_on_gpu": sum(place == 0 for place in where.values()),
                  "modules": len(where)})  # fmt: skip
    for prompt, gen in cells_of(options):
        if time.monotonic() - started > options.seconds:
            return
        cache = None

        def step(ids: torch.Tensor) -> torch.Tensor:
            nonlocal cache
            out = model(input_ids=ids.to(device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            return out.logits[:, -1].argmax(-1, keepdim=True)

        result = measure(step, prompt_of(prompt, config["vocab_size"]), gen, device, started + options.seconds)
        say("result", result | {"gpu_peak_bytes": gpu_peak_bytes(device)})


if __name__ == "__main__":
    main(peer, __doc__)
