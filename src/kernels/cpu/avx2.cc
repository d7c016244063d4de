// The kernels for AVX2, FMA and F16C. Compiled for that instruction set, unlike all other code: what is
// included here must bring no inline function that others share (tools/check_isa_objects tells).
#include "kernels/cpu/attend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kv_write.h"
#include "kernels/cpu/pack_f32.h"
#include "kernels/cpu/panel_f32.h"
#include "kernels/cpu/probes.h"
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
    .num_tiles = [](Rounding, int64_t tokens) { return NumRuns<kF32Tokens<Simd>>(tokens); },
    .pack = PackF32<Simd, kF32Tokens<Simd>>,
    .mat_mul = MatMulF32<Simd>,
    .gate_up = GateUpF32<Simd>,
    .rms_norm = RmsNorm<Simd>,
    .rope = Rope<Simd>,
    .kv_write = KvWrite<Simd>,
    .attend = Attend<Simd, WidenedBF16Cells<Simd>>,
    .attend_segment = AttendSegment<Simd, WidenedBF16Cells<Simd>>,
    .attend_merge = AttendMerge<Simd>,
    .add = Add<Simd>,
    .add_rows = AddRows<Simd>,
    .f32_probe = F32Probe<Simd>,
    .bf16_probe = F32Probe<Simd>,
    .int8_probe = F32Probe<Simd>,
    .read_probe = ReadProbe<Simd>,
};

}  // namespace

const CpuKernels& Avx2Kernels() { return kAvx2; }

}  // namespace fiddler
