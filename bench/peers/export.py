"""Random weights of one geometry in the formats of every engine: the same numbers for all of them.

    python export.py mixtral-4l --out /big/disk/mixtral-4l [--formats hf,bf16,q8_0,q4_0] [--seed 1]

Writes OUT/hf (config.json and bf16 safetensors), OUT/bf16.gguf, and from that OUT/q8_0.gguf and so on with llama.cpp's
own quantizer. What is already there, of the same geometry and seed, is kept. OUT/export.json says what is what.

Weights are normal with deviation 1/sqrt(fan in), norms near 1, made tensor by tensor from the seed and the tensor's name,
so no file is the source of another one's weights except for the quantizer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import zlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from statistics import NormalDist

from geometry import Geometry, GgufTensor, PeersError, Tensor, load

try:
    import numpy as np
except ImportError:
    sys.exit(f"export.py: needs numpy: pip install -r {Path(__file__).with_name('requirements.txt')}")

SHARD_BYTES = 4 << 30
# By the peer itself; f32 is for agree.py only.
QUANTIZED = {"f32": "LLAMA_FTYPE_ALL_F32", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
             "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}  # fmt: skip
# Bytes per weight, for the question whether the disk is large enough.
BYTES_PER_WEIGHT = {"hf": 2, "bf16": 2, "f32": 4, "q8_0": 1.07, "q4_0": 0.58, "q4_k_m": 0.63}
FORMATS = tuple(BYTES_PER_WEIGHT)


# --- weights


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """Round to nearest even; as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@lru_cache(maxsize=1)
def normal_quantiles() -> np.ndarray:
    """The 65,536 equally likely values that stand for a normal distribution: 16 random bits choose one."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)])


@lru_cache(maxsize=8)
def table(mean: float, deviation: float) -> np.ndarray:
    return bf16_bits(mean + deviation * normal_quantiles())


def weights(tensor: Tensor, seed: int) -> np.ndarray:
    """bf16 bits of one tensor, [tensor.shape]."""
    rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    values = table(1.0, 0.1) if tensor.is_norm else table(0.0, tensor.shape[-1] ** -0.5)
    bits = np.frombuffer(rng.bytes(2 * tensor.count), np.uint16)
    return np.take(values, bits).reshape(tensor.shape)


# --- Hugging Face


def write_hf(geometry: Geometry, seed: int, folder: Path) -> None:
    shards: list[list[Tensor]] = [[]]
    for tensor in geometry.tensors():
        if shards[-1] and 2 * sum(t.count for t in [*shards[-1], tensor]) > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)

    folder.mkdir(parents=True)
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        weight_map |= {tensor.name: file for tensor in shard}
        write_shard(folder / file, shard, seed)
    size = sum(2 * tensor.count for tensor in geometry.tensors())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(geometry.config, indent=2))


def write_shard(path: Path, shard: list[Tensor], seed: int) -> None:
    header, begin = {}, 0
    for tensor in shard:
        end = begin + 2 * tensor.count
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # so that the data starts aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in shard:
            weights(tensor, seed).tofile(file)


# --- GGUF


def gguf_values(tensor: GgufTensor, seed: int) -> np.ndarray:
    """As the peers expect them: float32, or the bits of bf16."""
    if tensor.stacked:
        values = np.empty(tensor.shape, np.uint16)
        for e, part in enumerate(tensor.parts):
            values[e] = weights(part, seed)
        return values
    values = weights(tensor.parts[0], seed)
    if tensor.rotated_heads:
        rows, columns = values.shape
        heads = tensor.rotated_heads
        # From [first half, second half] of a head to pairs of neighbours.
        values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return bf16_to_float32(values) if tensor.float32 else np.ascontiguousarray(values)


def write_gguf(geometry: Geometry, seed: int, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, geometry.gguf_arch)
    writer.add_name(geometry.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(geometry.num_hidden_layers)
    writer.add_context_length(geometry.max_position_embeddings)
    writer.add_embedding_length(geometry.hidden_size)
    writer.add_feed_forward_length(geometry.intermediate_size)
    writer.add_head_count(geometry.num_heads)
    writer.add_head_count_kv(geometry.num_kv_heads)
    writer.add_key_length(geometry.head_size)
    writer.add_value_length(geometry.head_size)
    writer.add_rope_dimension_count(geometry.head_size)
    writer.add_rope_freq_base(geometry.rope_theta)
    writer.add_layer_norm_rms_eps(geometry.rms_norm_eps)
    writer.add_expert_count(geometry.num_moe_experts)
    writer.add_expert_used_count(geometry.num_experts_per_tok)
    writer.add_expert_feed_forward_length(geometry.expert_width)
    writer.add_vocab_size(geometry.vocab_size)
    add_vocabulary(writer, geometry.vocab_size)

    tensors = geometry.gguf_tensors()
    float32 = (np.dtype(np.float32), gguf.GGMLQuantizationType.F32)
    bf16 = (np.dtype(np.uint16), gguf.GGMLQuantizationType.BF16)
    for tensor in tensors:
        item, kind = float32 if tensor.float32 else bf16
        size = sum(part.count for part in tensor.parts) * item.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, item, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(gguf_values(tensor, seed))
    writer.close()


def add_vocabulary(writer, size: int) -> None:
    """The smallest one that loads: three special tokens, all bytes, and fillers. Nothing is ever tokenised."""
    import gguf

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    names += [f"t{i}" for i in range(len(names), size)]
    kinds += [gguf.TokenType.NORMAL] * (size - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def quantize(source: Path, path: Path, format: str, threads: int) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, QUANTIZED[format])
    status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), params)
    if status != 0:
        raise PeersError(f"{path}: llama.cpp's quantizer failed with status {status}")


# --- what was written


def describe_gguf(path: Path, geometry: Geometry) -> dict:
    """Sizes, types, and what a token makes an engine read: everything once, its own experts, one row of the embedding."""
    import gguf

    types: dict[str, int] = {}
    dense = experts = 0
    for tensor in gguf.GGUFReader(path).tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
        size = int(tensor.n_bytes)
        if "_exps" in tensor.name:
            experts += size
        elif tensor.name != "token_embd.weight":
            dense += size
    return {"bytes": path.stat().st_size, "types": types, "dense_bytes": dense, "expert_bytes": experts}


def describe_hf(folder: Path, geometry: Geometry) -> dict:
    tensors = geometry.tensors()
    experts = sum(2 * t.count for t in tensors if ".experts." in t.name)
    rest = sum(2 * t.count for t in tensors) - experts
    return {
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "types": {"BF16": len(tensors)},
        "dense_bytes": rest - 2 * geometry.vocab_size * geometry.hidden_size,
        "expert_bytes": experts,
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class Exporter:
    def __init__(self, geometry: Geometry, seed: int, out: Path, threads: int) -> None:
        self.geometry, self.seed, self.out, self.threads = geometry, seed, out, threads
        self.manifest_file = out / "export.json"
        self.manifest = {"geometry": geometry.name, "seed": seed, "config": geometry.config, "formats": {}}
        if self.manifest_file.exists():
            found = json.loads(self.manifest_file.read_text())
            for field in ("geometry", "seed", "config"):
                if found[field] != self.manifest[field]:
                    raise PeersError(f"{self.manifest_file}: {field} is another one; choose another --out")
            self.manifest = found
        self.manifest["num_experts"] = geometry.num_moe_experts
        self.manifest["experts_per_token"] = geometry.num_experts_per_tok

    def path(self, format: str) -> Path:
        return self.out / ("hf" if format == "hf" else f"{format}.gguf")

    def have(self, format: str) -> bool:
        return format in self.manifest["formats"] and self.path(format).exists()

    def export(self, formats: list[str]) -> None:
        wanted = [format for format in FORMATS if format in formats and not self.have(format)]
        if any(format in QUANTIZED for format in wanted) and not self.have("bf16") and "bf16" not in wanted:
            wanted.insert(0, "bf16")
        self.require_packages(wanted)
        self.require_space(wanted)
        for format in wanted:
            self.write(format)

    def require_packages(self, formats: list[str]) -> None:
        needed = {"gguf": "gguf"} if set(formats) - {"hf"} else {}
        if set(formats) & set(QUANTIZED):
            needed["llama_cpp"] = "llama-cpp-python"
        for module, package in needed.items():
            try:
                __import__(module)
            except ImportError:
                raise PeersError(f"needs the package {package}: see bench/peers/README.md") from None

    def require_space(self, formats: list[str]) -> None:
        weights_count = sum(tensor.count for tensor in self.geometry.tensors())
        need = sum(BYTES_PER_WEIGHT[format] for format in formats) * weights_count
        self.out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.out).free
        if need > free:
            raise PeersError(f"{self.out}: {', '.join(formats)} need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")

    def write(self, format: str) -> None:
        path, started = self.path(format), time.monotonic()
        unfinished = path.with_name(path.name + ".tmp")
        for old in (path, unfinished):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        try:
            if format == "hf":
                write_hf(self.geometry, self.seed, unfinished)
            elif format == "bf16":
                write_gguf(self.geometry, self.seed, unfinished)
            else:
                quantize(self.path("bf16"), unfinished, format, self.threads)
        except OSError as error:
            raise PeersError(f"{unfinished}: {error.strerror or error}") from None
        unfinished.rename(path)
        about = describe_hf(path, self.geometry) if format == "hf" else describe_gguf(path, self.geometry)
        by = {"hf": "numpy", "bf16": "gguf"}.get(format, "llama-cpp-python")
        self.manifest["formats"][format] = about | {"written_by": f"{by} {version(by)}"}
        self.manifest_file.write_text(json.dumps(self.manifest, indent=1))
        print(f"{path}: {about['bytes'] / 1e9:.2f} GB in {time.monotonic() - started:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", help="a built-in geometry of Mixtral or Qwen3-MoE, tiny-mixtral or tiny-qwen3")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--formats", default="hf,bf16,q8_0,q4_0", help=f"of {','.join(FORMATS)}; default %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the quantizer")
    options = parser.parse_args()
    formats = options.formats.split(",")
    if unknown := set(formats) - set(FORMATS):
        parser.error(f"--formats: no such format: {', '.join(sorted(unknown))}")
    try:
        Exporter(load(options.geometry), options.seed, options.out, options.threads).export(formats)
    except PeersError as error:
        sys.exit(f"export.py: {error}")


if __name__ == "__main__":
    main()
