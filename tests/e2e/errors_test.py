"""Bad models, bad requests, bad flags: exit code 1 with one line that says what is wrong and where, or 2."""

from __future__ import annotations

import json
import os

import harness
from harness import DEMO, GOLDENS, TestCase, edit_config, fiddler

TINY = GOLDENS / "mixtral-base/model"
RUN_TINY = ("--prompt-ids", "1,2", "-n", "2")


class Models(TestCase):
    def test_whole_ones(self) -> None:
        for golden in ("mixtral-yarn", "olmoe-base", "qwen2-fused", "qwen3-window-bias"):
            result = self.succeed("inspect", GOLDENS / golden / "model", "--json").json()
            self.assertGreater(result["parameters"], result["active_parameters"])
        packed = self.succeed("inspect", "mixtral-8x7b", "--quant", "int4", "--json").json()
        self.assertEqual((packed["slice_neurons"], packed["slices_per_expert"]), (512, 28))
        self.assertEqual(packed["packed_expert_bytes"], 32 * 8 * 28 * packed["slice_bytes"])
        self.assertEqual((packed["expert_format"], packed["head_format"]), ("int4", "int8"))
        tensors = self.succeed("inspect", TINY, "--tensors", "--json").json()["tensors"]
        self.assertIn("lm_head.weight", {tensor["name"] for tensor in tensors})

    def test_not_there(self) -> None:
        for verb in (("run", "-p", "x"), ("inspect",), ("eval",), ("bench",)):
            self.refuse(verb[0], "/nowhere", *verb[1:], mentions=("/nowhere", "expected", "mixtral-8x7b"))
        empty = self.folder()
        self.refuse("inspect", empty, mentions=(f"{empty}/config.json", "expected", "got"))
        self.refuse("inspect", TINY / "model.safetensors", mentions=("model.safetensors", "expected"))
        self.refuse("inspect", "", mentions=("expected",))
        self.refuse("inspect", "/dev/null", mentions=("/dev/null", "expected"))

    def test_truncated_weights(self) -> None:
        model = self.copy_of(TINY)
        file = model / "model.safetensors"
        whole = file.read_bytes()
        for size in (0, 1, 7, 8, 9, 500, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            for verb in (("inspect",), ("run", *RUN_TINY)):
                self.refuse(verb[0], model, *verb[1:], mentions=(str(file), "expected", "got"))
        file.write_bytes(whole + b"\0")
        self.refuse("inspect", model, mentions=(str(file), "expected", "got"))

    def test_missing_files(self) -> None:
        model = self.copy_of(GOLDENS / "mixtral-yarn/model")
        (model / "model-00002-of-00003.safetensors").unlink()
        self.refuse("inspect", model, mentions=("model-00002-of-00003.safetensors", "expected"))
        (model / "model.safetensors.index.json").unlink()
        self.refuse("inspect", model, mentions=(str(model), "expected"))
        model = self.copy_of(TINY)
        (model / "model.safetensors").unlink()
        self.refuse("run", model, *RUN_TINY, mentions=(str(model), "safetensors"))

    def test_config_without_a_field(self) -> None:
        needed = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_local_experts",
                  "num_experts_per_tok", "intermediate_size")
        for field in needed:
            model = self.copy_of(TINY)
            edit_config(model, **{field: ...})
            self.refuse("inspect", model, mentions=(f"{model}/config.json", f"{field}: expected", "missing"))

    def test_config_that_is_not_supported(self) -> None:
        model = self.copy_of(TINY)
        file = str(model / "config.json")
        edit_config(model, architectures=["LlamaForCausalLM"])
        self.refuse("inspect", model, mentions=(file, "MixtralForCausalLM", '"LlamaForCausalLM"'))
        edit_config(model, architectures=["MixtralForCausalLM"], quantization_config={"bits": 4})
        self.refuse("inspect", model, mentions=(file, "quantization_config: expected", "--ignore-config-field"))
        self.succeed("inspect", model, "--ignore-config-field", "quantization_config")
        self.succeed("run", model, *RUN_TINY, "--ignore-config-field", "quantization_config")
        edit_config(model, **{"quantization_config": ..., "evil\n\x1b[2J": 1})
        self.refuse("inspect", model, mentions=(file, r"evil\n\u001b[2J"))
        (model / "config.json").write_text('{"hidden_size": ')
        self.refuse("inspect", model, mentions=(file, "expected JSON", "byte"))
        (model / "config.json").write_text('{"hidden_size": 1e999}')
        self.refuse("inspect", model, mentions=(file, "expected JSON", "too large"))
        self.refuse("inspect", GOLDENS / "mixtral-dynamic/model", mentions=("rope_type", "dynamic"))

    def test_a_shape_that_is_not_what_the_config_says(self) -> None:
        model = self.copy_of(TINY)
        edit_config(model, vocab_size=132)
        tensor = "model.embed_tokens.weight"
        self.refuse("inspect", model, mentions=("model.safetensors", tensor, "[132, 48]", "[131, 48]"))

    def test_bad_tokenizers(self) -> None:
        model = self.copy_of(TINY)
        self.refuse("run", model, "-p", "x", mentions=("tokenizer.json", "--prompt-ids"))
        good = json.loads((DEMO / "tokenizer.json").read_text())
        bad = ("", "{", "{}", "[]", "null", json.dumps(good | {"model": {"type": "WordPiece"}}),
               json.dumps(good | {"decoder": {"type": "Unheard"}}), json.dumps(good)[:5000], "\0" * 100)
        file = model / "tokenizer.json"
        for text in bad:
            file.write_text(text)
            self.refuse("run", model, "-p", "x", "-n", "2", mentions=(str(file), "expected", "got"))
        # A vocabulary larger than the model's: the text has tokens the model does not know.
        file.write_text(json.dumps(good))
        self.refuse("run", model, "-p", "Once upon a time", "-n", "2", mentions=("131",))


class Requests(TestCase):
    def test_tokens_the_model_does_not_have(self) -> None:
        for ids in ("131", "1,2,999999", "2147483647"):
            self.refuse("run", TINY, "--prompt-ids", ids, mentions=("0 to 130", ids.split(",")[-1]))
        for ids in ("x", "99999999999", "1.5", "1,,x"):
            self.refuse("run", TINY, "--prompt-ids", ids, mentions=("--prompt-ids", ids.split(",")[-1]))
        for ids in ("", " , "):
            self.refuse("run", TINY, "--prompt-ids", ids, mentions=("--prompt-ids", "got none"))

    def test_more_than_the_context(self) -> None:
        prompt = self.folder() / "prompt.txt"
        prompt.write_text("word " * 4000)
        self.refuse("run", DEMO, "-f", prompt, "-n", "1", mentions=("2048", "expected", "got"))
        self.refuse("run", DEMO, "-p", "x", "-n", "2000000000", mentions=("2048", "expected", "got"))
        self.refuse("run", DEMO, "-p", "x", "--context", "1000000", mentions=("2048", "expected", "got"))

    def test_empty_prompts(self) -> None:
        # With a token that begins every text there is one to continue; without, there is nothing.
        result = self.succeed("run", DEMO, "-p", "", "-n", "3", "--json").json()
        self.assertEqual(result["prompt_tokens"], 1)
        model = self.copy_of(TINY)
        tokenizer = json.loads((DEMO / "tokenizer.json").read_text()) | {"post_processor": None}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.refuse("run", model, "-p", "", "-n", "3", mentions=("prompt", "expected"))
        self.refuse("run", DEMO, "-f", "/nowhere/prompt", mentions=("/nowhere/prompt",))

    def test_sampling_out_of_range(self) -> None:
        for flag, value, name in (("--temp", "-1", "temp"), ("--temp", "nan", "temp"), ("--top-p", "0", "top"),
                                  ("--top-p", "1.5", "top"), ("--min-p", "-0.1", "min"), ("--top-k", "-2", "top"),
                                  ("--repeat-penalty", "0", "penalty")):
            run = fiddler("run", TINY, *RUN_TINY, flag, value)
            self.assertEqual(run.code, 1 if value == "nan" else 2, run.err)
            self.assertEqual(run.out, b"")
            self.assertIn(name, run.err.splitlines()[-1 if run.code == 1 else 0])


class Usage(TestCase):
    def test_wrong_flags(self) -> None:
        for arguments in ((), ("fly",), ("run",), ("run", DEMO), ("run", DEMO, "-p"), ("inspect",),
                          ("inspect", DEMO, "--tensor"), ("eval", DEMO, "--context", "0"),
                          ("eval", DEMO, "--context", "1"), ("bench", DEMO, "--batch", "0")):
            self.misuse(*arguments)
        for more in (("extra",), ("--no-such-flag",), ("-n", "0"), ("-n", "-1"), ("-n", "many"), ("-n", "9" * 30),
                     ("--temp", "hot"), ("--seed", "-x"), ("-f", "y"), ("--threads", "0"), ("--threads", "99999")):
            self.misuse("run", DEMO, "-p", "x", *more)

    def test_help_and_version(self) -> None:
        for arguments in (("--help",), ("run", "--help"), ("eval", "--help"), ("--version",)):
            run = self.succeed(*arguments)
            self.assertIn(b"fiddler" if arguments == ("--version",) else b"Usage", run.out)

    def test_unknown_kernels(self) -> None:
        run = fiddler("run", TINY, *RUN_TINY, env=os.environ | {"FIDDLER_ISA": "mmx"})
        self.assertEqual(run.code, 1)
        self.the_error(run, mentions=("FIDDLER_ISA", "generic", "'mmx'"))


if __name__ == "__main__":
    harness.main()
