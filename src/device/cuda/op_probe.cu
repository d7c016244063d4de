#include "device/cuda/ops.h"
#include "kernels/cuda/probe.cuh"

namespace fiddler::cuda {

void ReadProbe(OpContext& context, FiddlerAddress data, uint64_t bytes) {
  constexpr unsigned kBlocksPerSm = 8;
  const auto count = static_cast<int64_t>(bytes / sizeof(uint4));
  if (count == 0) return;
  Launch("read_probe",
         {.grid = dim3(kBlocksPerSm * static_cast<unsigned>(context.num_sms)), .block = dim3(kProbeThreads)},
         context.stream, ReadProbeKernel, reinterpret_cast<const uint4*>(data), count,
         reinterpret_cast<uint32_t*>(context.scratch));
}

double ProductProbe(OpContext& context, int64_t rounds) {
  constexpr unsigned kBlocksPerSm = 4;
  const unsigned blocks = kBlocksPerSm * static_cast<unsigned>(context.num_sms);
  Launch("product_probe", {.grid = dim3(blocks), .block = dim3(kProbeThreads)}, context.stream,
         ProductProbeKernel, rounds, reinterpret_cast<float*>(context.scratch));
  return kProductFlops * kProbeTiles * (kProbeThreads / kWarp) * static_cast<double>(rounds) *
         static_cast<double>(blocks);
}

}  // namespace fiddler::cuda
