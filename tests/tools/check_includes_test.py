#!/usr/bin/env python3
"""Plants breaches in a temporary tree and expects tools/check_includes to name each one, and nothing else."""

import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "check_includes"


class CheckIncludes(unittest.TestCase):
    def check(self, files):
        """Runs the script on a tree of {path below src/: text}; returns (exit code, lines of output)."""
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "src").mkdir()
            for path, text in files.items():
                file = Path(root) / "src" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            result = subprocess.run([SCRIPT, root], capture_output=True, text=True, check=False)
            self.assertEqual(result.stderr, "")
            return result.returncode, result.stdout.splitlines()

    def assert_clean(self, files):
        self.assertEqual(self.check(files), (0, []))

    def assert_breach(self, files, *expected):
        code, lines = self.check(files)
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 1, lines)
        for part in expected:
            self.assertIn(part, lines[0])

    def test_down_and_own_folder_are_fine(self):
        self.assert_clean({
            "engine/forward.cc": '#include "engine/forward.h"\n#include "model/spec.h"\n#include <vector>\n#include <fmt/format.h>\n',
            "model/arch/mixtral.cc": '#include "io/safetensors.h"\n#include "kernels/ops.h"\n#include "base/json.h"\n',
            "cli/run.cc": '#include "serve/http.h"\n#include "plan/layer_plan.h"\n',
        })

    def test_up(self):
        self.assert_breach({"base/error.h": '#pragma once\n\n#include "io/file.h"\n'},
                           "src/base/error.h:3:", "io/file.h", "dependencies point down")
        self.assert_breach({"kernels/ops.h": '#include "model/spec.h"\n'}, "ops.h:1:", "dependencies point down")
        self.assert_breach({"engine/engine_test.cc": '# include "serve/http.h"\n'}, "engine_test.cc:1:")

    def test_sibling(self):
        self.assert_breach({"kv/cache.cc": '#include "model/spec.h"\n'}, "cache.cc:1:", "siblings")
        self.assert_clean({"sim/hit_rates.cc": '#include "experts/cache_policy.h"\n'})
        self.assert_breach({"sim/hit_rates.cc": '#include "model/spec.h"\n'}, "hit_rates.cc:1:", "siblings")
        self.assert_breach({"experts/cache_policy.cc": '#include "sim/belady.h"\n'}, "cache_policy.cc:1:", "sees only")

    def test_plan_sees_only_base(self):
        self.assert_clean({"plan/layer_plan.cc": '#include "base/check.h"\n#include "plan/layer_plan.h"\n'})
        self.assert_breach({"plan/layer_plan.cc": '#include "kernels/ops.h"\n'}, "plan/ sees only")

    def test_serve_sees_only_the_engine_header_and_text(self):
        self.assert_clean({"serve/openai.cc": '#include "engine/engine.h"\n#include "text/tokenizer.h"\n#include "base/json.h"\n'})
        self.assert_breach({"serve/openai.cc": '#include "engine/forward.h"\n'}, "serve/ sees only")

    def test_cuda_headers(self):
        self.assert_clean({"kernels/cuda/gemm.cu": "#include <cuda_runtime.h>\n", "device/cuda_device.cc": "#include <cublas_v2.h>\n"})
        self.assert_breach({"device/host.cc": "#include <cuda_runtime.h>\n"}, "host.cc:1:", "CUDA headers")
        self.assert_breach({"engine/moe.cc": '#include "cublas_v2.h"\n'}, "moe.cc:1:", "CUDA headers")

    def test_model_names(self):
        self.assert_clean({
            "model/arch/qwen.cc": 'const char* kName = "qwen3_moe";\n',
            "cli/builtin.cc": "int mixtral;\n",
            "engine/rope_table.cc": "case RopeSpec::Scaling::kLlama3:\n",
            "plan/memory_plan_test.cc": "// Mixtral\nint mixtral_layers = 32;\n",
            "kernels/ops.h": "// as in Mixtral /* */\n/* and\n   OLMoE */ int graphics, sophia;\n",
        })
        self.assert_breach({"engine/moe.cc": 'int x;\nif (name == "// Mixtral") return;\n'}, "moe.cc:2:", "names Mixtral")
        self.assert_breach({"io/gguf.cc": '"llama.context_length"\n'}, "names llama")
        self.assert_breach({"kv/cache.h": "bool is_gpt_oss;\n"}, "names gpt_oss")
        self.assert_breach({"engine/ffn.cc": "if (kLlama3 && is_llama3) return;\n"}, "names llama")

    def test_paths_and_folders(self):
        self.assert_breach({"io/file.cc": '#include "file.h"\n'}, "named by their path")
        self.assert_breach({"io/file.cc": '#include "../base/check.h"\n'}, "named by their path")
        self.assert_breach({"misc/file.cc": "int x;\n"}, "src/misc", "has a level")

    def test_comments_do_not_count(self):
        self.assert_clean({"base/check.h": '// #include "engine/engine.h"\n/*\n#include "cli/main.h"\n*/\n'})


if __name__ == "__main__":
    unittest.main()
