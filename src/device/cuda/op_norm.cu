#include "device/cuda/ops.h"
#include "kernels/cuda/norm.cuh"

namespace fiddler::cuda {

namespace {

template <typename T>
T* At(FiddlerAddress address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

void RmsNorm(OpContext& context, const FiddlerRmsNorm& args) {
  if (args.rows == 0) return;
  Launch("rms_norm",
         {.grid = dim3(static_cast<unsigned>(args.rows)),
          .block = dim3(kRmsNormThreads),
          .shared_bytes = kRmsNormSharedBytes},
         context.stream, RmsNormKernel, args.cols, At<const float>(args.x), At<float>(args.y),
         At<const float>(args.weight), args.epsilon);
}

}  // namespace fiddler::cuda
