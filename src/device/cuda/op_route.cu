#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "kernels/cuda/route.cuh"

namespace fiddler::cuda {

void Route(OpContext& context, const FiddlerRoute& args) {
  constexpr const char* kOp = "route";
  RequireSize(kOp, "tokens", args.tokens, 0);
  RequireSize(kOp, "num_experts", args.num_experts, 1, kMostRoutedExperts);
  RequireSize(kOp, "top_k", args.top_k, 1, args.num_experts);
  if (args.tokens == 0) return;
  Launch(kOp,
         {.grid = dim3(static_cast<unsigned>(CeilDiv(args.tokens, kRouteWarps))),
          .block = dim3(kRouteWarps * kWarp),
          .shared_bytes = RouteSharedBytes(args.num_experts)},
         context.stream, RouteKernel,
         RouteParams{.tokens = args.tokens,
                     .num_experts = static_cast<int>(args.num_experts),
                     .top_k = static_cast<int>(args.top_k),
                     .renormalize = args.renormalize != 0,
                     .logits = At<const float>(args.logits),
                     .experts = At<int32_t>(args.experts),
                     .weights = At<float>(args.weights)});
}

}  // namespace fiddler::cuda
