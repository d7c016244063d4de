#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "kernels/cuda/elementwise.cuh"

namespace fiddler::cuda {

void Add(OpContext& context, const FiddlerAdd& args) {
  RequireSize("add", "count", args.count, 0);
  if (args.count == 0) return;
  Launch("add",
         {.grid = dim3(static_cast<unsigned>(CeilDiv(args.count, kAddPerBlock))),
          .block = dim3(kElementwiseThreads)},
         context.stream, AddKernel, args.count, At<const float>(args.x), At<float>(args.y),
         OnVector(args.x) && OnVector(args.y));
}

void Sigmoid(OpContext& context, const FiddlerSigmoid& args) {
  RequireSize("sigmoid", "count", args.count, 0);
  if (args.count == 0) return;
  Launch("sigmoid",
         {.grid = dim3(static_cast<unsigned>(CeilDiv(args.count, kElementwiseThreads))),
          .block = dim3(kElementwiseThreads)},
         context.stream, SigmoidKernel, args.count, At<float>(args.x));
}

}  // namespace fiddler::cuda
