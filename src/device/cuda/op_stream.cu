#include "device/cuda/products.h"
#include "kernels/cuda/product_stream.cuh"

namespace fiddler::cuda {
namespace {

template <typename Product>
void LaunchWith(OpContext& context, const char* what, bool gate_up, const Tables& tables,
                const ProductArgs& args, const ProductExtent& extent) {
  const int64_t tiles = CeilDiv(extent.tokens, Product::kTokens);
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>(extent.panels), static_cast<unsigned>(tiles * args.splits),
                   static_cast<unsigned>(extent.pieces)),
      .block = dim3(kStreamThreads),
      .shared_bytes = StreamSharedBytes<Product>()};
  if (gate_up) {
    Launch(what, shape, context.stream, StreamKernel<Product, true>, tables, args);
  } else {
    Launch(what, shape, context.stream, StreamKernel<Product, false>, tables, args);
  }
}

template <WeightFormat kFormat>
void LaunchFormat(OpContext& context, const char* what, const ProductKernel& kernel, const Tables& tables,
                  const ProductArgs& args, const ProductExtent& extent) {
  const auto launch = [&]<typename Product>() {
    LaunchWith<Product>(context, what, kernel.gate_up, tables, args, extent);
  };
  const int64_t tokens = StreamTokens(kernel.rounding, extent.tokens);
  if (kernel.rounding == Rounding::kNone) {
    if (tokens == 1) return launch.template operator()<ExactProduct<kFormat, 1>>();
    return launch.template operator()<ExactProduct<kFormat, 8>>();
  }
  if constexpr (FastRounding(kFormat) != Rounding::kNone) {
    if constexpr (RoundsItself(FastRounding(kFormat), 1)) {
      if (kernel.rounds_x) return launch.template operator()<TensorProduct<kFormat, 1, true>>();
    }
    if (tokens == 8) return launch.template operator()<TensorProduct<kFormat, 1>>();
    if (tokens == 16) return launch.template operator()<TensorProduct<kFormat, 2>>();
    if (tokens == 32) return launch.template operator()<TensorProduct<kFormat, 4>>();
    if constexpr (kFormat == WeightFormat::kBF16) launch.template operator()<TensorProduct<kFormat, 8>>();
  }
}

}  // namespace

void LaunchStream(OpContext& context, const char* what, const ProductKernel& kernel, const Tables& tables,
                  const ProductArgs& args, const ProductExtent& extent) {
  switch (kernel.format) {
    case WeightFormat::kF32:
      return LaunchFormat<WeightFormat::kF32>(context, what, kernel, tables, args, extent);
    case WeightFormat::kF16:
      return LaunchFormat<WeightFormat::kF16>(context, what, kernel, tables, args, extent);
    case WeightFormat::kBF16:
      return LaunchFormat<WeightFormat::kBF16>(context, what, kernel, tables, args, extent);
    case WeightFormat::kInt8:
      return LaunchFormat<WeightFormat::kInt8>(context, what, kernel, tables, args, extent);
    case WeightFormat::kInt4:
      return LaunchFormat<WeightFormat::kInt4>(context, what, kernel, tables, args, extent);
  }
}

}  // namespace fiddler::cuda
