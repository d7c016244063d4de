#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "kernels/cuda/norm.cuh"

namespace fiddler::cuda {

void RmsNorm(OpContext& context, const FiddlerRmsNorm& args) {
  constexpr const char* kOp = "rms_norm";
  RequireSize(kOp, "rows", args.rows, 0);
  RequireSize(kOp, "cols", args.cols, 1);
  if (args.rows == 0) return;
  const bool vectors = args.cols % 4 == 0 && OnVector(args.x) && OnVector(args.y) && OnVector(args.weight);
  auto* const kernel = vectors && args.cols <= kRmsNormMostCols<2>   ? RmsNormKernel<2>
                       : vectors && args.cols <= kRmsNormMostCols<4> ? RmsNormKernel<4>
                       : vectors && args.cols <= kRmsNormMostCols<8> ? RmsNormKernel<8>
                                                                     : RmsNormAnyKernel;
  Launch(kOp,
         {.grid = dim3(static_cast<unsigned>(args.rows)),
          .block = dim3(kRmsNormThreads),
          .shared_bytes = kRmsNormSharedBytes},
         context.stream, kernel, args.cols, At<const float>(args.x), At<float>(args.y),
         At<const float>(args.weight), args.epsilon);
}

}  // namespace fiddler::cuda
