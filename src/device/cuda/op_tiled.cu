#include "device/cuda/products.h"
#include "kernels/cuda/product_tiled.cuh"

namespace fiddler::cuda {
namespace {

template <WeightFormat kFormat, int kTokens>
void LaunchWith(OpContext& context, const char* what, bool gate_up, const Tables& tables,
                const ProductArgs& args, const ProductExtent& extent) {
  const LaunchShape shape = {.grid = dim3(static_cast<unsigned>(CeilDiv(extent.tokens, kTokens)),
                                          static_cast<unsigned>(CeilDiv(extent.panels, kTilePanels)),
                                          static_cast<unsigned>(extent.pieces)),
                             .block = dim3(kTiledThreads),
                             .shared_bytes = TiledSharedBytes<kFormat, kTokens>()};
  if (gate_up) {
    Launch(what, shape, context.stream, TiledKernel<kFormat, kTokens, true>, tables, args);
  } else {
    Launch(what, shape, context.stream, TiledKernel<kFormat, kTokens, false>, tables, args);
  }
}

template <WeightFormat kFormat>
void LaunchFormat(OpContext& context, const char* what, bool gate_up, const Tables& tables,
                  const ProductArgs& args, const ProductExtent& extent) {
  // Wide tiles read the weights half as often; but rather more blocks than SMs that do nothing.
  const int64_t wide = CeilDiv(extent.tokens, 128) * CeilDiv(extent.panels, kTilePanels) * extent.pieces;
  if (extent.tokens <= 64 || wide < context.num_sms)
    return LaunchWith<kFormat, 64>(context, what, gate_up, tables, args, extent);
  LaunchWith<kFormat, 128>(context, what, gate_up, tables, args, extent);
}

}  // namespace

void LaunchTiled(OpContext& context, const char* what, const ProductKernel& kernel, const Tables& tables,
                 const ProductArgs& args, const ProductExtent& extent) {
  switch (kernel.format) {
    case WeightFormat::kBF16:
      return LaunchFormat<WeightFormat::kBF16>(context, what, kernel.gate_up, tables, args, extent);
    case WeightFormat::kInt8:
      return LaunchFormat<WeightFormat::kInt8>(context, what, kernel.gate_up, tables, args, extent);
    case WeightFormat::kInt4:
      return LaunchFormat<WeightFormat::kInt4>(context, what, kernel.gate_up, tables, args, extent);
    default:
      throw std::runtime_error(std::string(what) + ": no tensor cores for this format");
  }
}

}  // namespace fiddler::cuda
