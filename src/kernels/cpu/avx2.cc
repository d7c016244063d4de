// The kernels for AVX2, FMA and F16C. Compiled for that instruction set, unlike all other code: what is
// included here must bring no inline function that others share (tools/check_isa_objects tells).
#include "kernels/cpu/attend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/mat_mul.h"
#include "kernels/cpu/simd_avx2.h"

namespace fiddler {

const CpuKernels& Avx2Kernels();  // declared where it is used, in dispatch.cc

namespace {

bool RunsHere() {
  // Every CPU that has these two has F16C, which not every compiler can ask for.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

constexpr CpuKernels kAvx2 = {
    .isa = "avx2",
    .runs_here = RunsHere,
    .mat_mul = MatMul<Simd>,
    .rms_norm = RmsNorm<Simd>,
    .rope = Rope<Simd>,
    .attend = Attend<Simd>,
    .silu_mul = SiluMul<Simd>,
    .add = Add<Simd>,
    .scaled_add = ScaledAdd<Simd>,
    .fma_probe = FmaProbe<Simd>,
    .read_probe = ReadProbe<Simd>,
};

}  // namespace

const CpuKernels& Avx2Kernels() { return kAvx2; }

}  // namespace fiddler
