#!/usr/bin/env python3
"""Compiles small objects and expects tools/check_isa_objects to tell which ones share code."""

import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "check_isa_objects"


class CheckIsaObjects(unittest.TestCase):
    def check(self, name, source):
        """Runs the script on the object of one source; returns (exit code, output)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            subprocess.run(["c++", "-x", "c++", "-std=c++20", "-O0", "-c", "-", "-o", path], input=source, text=True, check=True)
            result = subprocess.run([SCRIPT, path], capture_output=True, text=True, check=False)
            return result.returncode, result.stdout

    def test_own_code_is_fine(self):
        source = "namespace { int Twice(int x) { return x + x; } }\nint F(int x) { return Twice(x); }"
        code, output = self.check("avx2.cc.o", source)
        self.assertEqual((code, output), (0, ""))

    def test_inline_function(self):
        code, output = self.check("avx2.cc.o", "inline int Twice(int x) { return x + x; }\nint F(int x) { return Twice(x); }")
        self.assertEqual(code, 1)
        self.assertIn("avx2.cc.o: Twice(int)", output)

    def test_standard_template(self):
        code, output = self.check("avx512.cc.o", "#include <algorithm>\nint F(int x) { return std::max(x, 1); }")
        self.assertEqual(code, 1)
        self.assertIn("std::max", output)

    def test_other_objects_may(self):
        code, output = self.check("generic.cc.o", "inline int Twice(int x) { return x + x; }\nint F(int x) { return Twice(x); }")
        self.assertEqual(code, 1)
        self.assertIn("no object", output)


if __name__ == "__main__":
    unittest.main()
