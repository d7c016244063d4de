// The kernels for AVX-512 with BF16 and VNNI: products of BF16, INT8 and INT4 weights with x rounded to
// match; the rest as in avx512.cc, which also says what may be included here.
#include "kernels/cpu/attend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kv_cells_bf16.h"
#include "kernels/cpu/kv_write.h"
#include "kernels/cpu/panel_dot.h"
#include "kernels/cpu/probes.h"
#include "kernels/cpu/simd_avx512.h"

namespace fiddler {

const CpuKernels& Avx512Kernels();      // what has no faster instructions here comes from there
const CpuKernels& Avx512BF16Kernels();  // declared where it is used, in dispatch.cc

namespace {

bool RunsHere() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

using Int8 = Int8Core<Simd, WeightFormat::kInt8>;
using Int4 = Int8Core<Simd, WeightFormat::kInt4>;

int64_t NumTilesOf(Rounding rounding, int64_t tokens) {
  switch (rounding) {
    case Rounding::kNone:
      return Avx512Kernels().num_tiles(rounding, tokens);
    case Rounding::kBF16:
      return NumRuns<BF16Core<Simd>::kMaxTokens>(tokens);
    default:
      return NumRuns<Int8::kMaxTokens>(tokens);
  }
}

void Pack(const PackArgs& args) {
  switch (args.rounding) {
    case Rounding::kNone:
      return Avx512Kernels().pack(args);
    case Rounding::kBF16:
      return PackBF16<Simd>(args);
    case Rounding::kInt8Group64:
      return PackInt8<Simd, WeightFormat::kInt8>(args);
    case Rounding::kInt8Group32:
      return PackInt8<Simd, WeightFormat::kInt4>(args);
  }
}

void MatMul(const MatMulArgs& args) {
  switch (args.rounding) {
    case Rounding::kNone:
      return Avx512Kernels().mat_mul(args);
    case Rounding::kBF16:
      return MatMulPanels<BF16Core<Simd>>(args);
    case Rounding::kInt8Group64:
      return MatMulPanels<Int8>(args);
    case Rounding::kInt8Group32:
      return MatMulPanels<Int4>(args);
  }
}

void GateUp(const GateUpArgs& args) {
  switch (args.rounding) {
    case Rounding::kNone:
      return Avx512Kernels().gate_up(args);
    case Rounding::kBF16:
      return GateUpPanels<BF16Core<Simd>>(args);
    case Rounding::kInt8Group64:
      return GateUpPanels<Int8>(args);
    case Rounding::kInt8Group32:
      return GateUpPanels<Int4>(args);
  }
}

double BF16Probe(int64_t rounds) {
  constexpr int kChains = 14;  // latency 6
  const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f003f00));
  __m512 chains[kChains] = {};
  RunChains(
      rounds,
      chains, [&](__m512 chain) __attribute__((always_inline)) { return _mm512_dpbf16_ps(chain, x, x); });
  return 64.0 * kChains * static_cast<double>(rounds);
}

double Int8Probe(int64_t rounds) {
  constexpr int kChains = 14;
  const __m512i x = _mm512_set1_epi32(0x01020304);
  __m512i chains[kChains] = {};
  RunChains(
      rounds,
      chains, [&](__m512i chain) __attribute__((always_inline)) { return _mm512_dpbusd_epi32(chain, x, x); });
  return 128.0 * kChains * static_cast<double>(rounds);
}

constexpr CpuKernels kAvx512BF16 = {
    .isa = "avx512_bf16",
    .runs_here = RunsHere,
    .num_tiles = NumTilesOf,
    .pack = Pack,
    .mat_mul = MatMul,
    .gate_up = GateUp,
    .rms_norm = RmsNorm<Simd>,
    .rope = Rope<Simd>,
    .kv_write = KvWrite<Simd>,
    .attend = Attend<Simd, NativeBF16Cells>,
    .attend_segment = AttendSegment<Simd, NativeBF16Cells>,
    .attend_merge = AttendMerge<Simd>,
    .add = Add<Simd>,
    .add_rows = AddRows<Simd>,
    .f32_probe = F32Probe<Simd>,
    .bf16_probe = BF16Probe,
    .int8_probe = Int8Probe,
    .read_probe = ReadProbe<Simd>,
};

}  // namespace

const CpuKernels& Avx512BF16Kernels() { return kAvx512BF16; }

}  // namespace fiddler
