// The kernels for AVX-512 F, BW, VL and DQ. Compiled for that instruction set, unlike all other code: what is
// included here must bring no inline function that others share (tools/check_isa_objects tells).
#include "kernels/cpu/attend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kv_write.h"
#include "kernels/cpu/pack_f32.h"
#include "kernels/cpu/panel_f32.h"
#include "kernels/cpu/probes.h"
#include "kernels/cpu/simd_avx512.h"

namespace fiddler {

const CpuKernels& Avx512Kernels();  // declared where it is used, in dispatch.cc

namespace {

bool RunsHere() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

constexpr CpuKernels kAvx512 = {
    .isa = "avx512",
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

const CpuKernels& Avx512Kernels() { return kAvx512; }

}  // namespace fiddler
