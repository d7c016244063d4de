#!/usr/bin/env python3
"""What tools/cuda_resources makes of a compiler's log, and what it calls a fault."""

import sys
import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

sys.dont_write_bytecode = True
SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "cuda_resources"
loader = SourceFileLoader("cuda_resources", str(SCRIPT))
cuda_resources = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(cuda_resources)
Use = cuda_resources.Use

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN1a3OneEv' for 'sm_90'
ptxas info    : Function properties for _ZN1a3OneEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 388 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN1a3TwoEv' for 'sm_90'
ptxas info    : Function properties for _ZN1a3TwoEv
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 128 bytes smem
"""


class CudaResources(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(cuda_resources.parse(LOG), {"_ZN1a3OneEv": Use(32, 0, 0, 0), "_ZN1a3TwoEv": Use(255, 128, 16, 12)})

    def test_short_name(self):
        for long, short in [
            ("fiddler::cuda::AddKernel(long, float const*)", "AddKernel"),
            ("void fiddler::cuda::(anonymous namespace)::Dot<(fiddler::Rounding)2, 4>(fiddler::cuda::Args)", "Dot<(Rounding)2, 4>"),
            ("void fiddler::cuda::Get<std::pair<int, (int)3> >(int (*)(int))", "Get<std::pair<int, (int)3> >"),
        ]:
            self.assertEqual(cuda_resources.short_name(long), short)

    def faults(self, committed, found, release="13.0"):
        wanted = cuda_resources.table(committed, "13.0") if committed else ""
        return cuda_resources.faults(found, wanted, cuda_resources.table(found, release))

    def test_faults(self):
        fine = {"A": {"sm_90": Use(32, 0, 0, 0)}}
        self.assertEqual(self.faults(fine, fine), [])
        self.assertEqual(len(self.faults({}, fine)), 1)
        self.assertEqual(len(self.faults(fine, {})), 1)
        for other in [Use(33, 0, 0, 0), Use(31, 0, 0, 0), Use(32, 4, 0, 0)]:
            self.assertEqual(len(self.faults(fine, {"A": {"sm_90": other}})), 2)

    def test_another_compiler_may_take_other_registers_but_not_spill(self):
        fine = {"A": {"sm_90": Use(32, 0, 0, 0)}}
        self.assertEqual(self.faults(fine, {"A": {"sm_90": Use(40, 0, 0, 0)}}, "13.1"), [])
        self.assertEqual(len(self.faults(fine, {"A": {"sm_90": Use(32, 0, 8, 0)}}, "13.1")), 1)

    def test_spills_fail_whatever_the_table_says(self):
        for use in [Use(32, 0, 8, 0), Use(32, 0, 0, 4)]:
            kernels = {"A": {"sm_90": use}}
            self.assertEqual(len(self.faults(kernels, kernels)), 1)


if __name__ == "__main__":
    unittest.main()
