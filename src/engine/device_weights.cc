#include "engine/device_weights.h"

#include <span>

#include "base/error.h"
#include "engine/rope_table.h"

namespace fiddler {
namespace {

// Puts arrays into an arena, or only counts them (device == nullptr).
class Placer {
 public:
  Placer(DeviceArena& arena, Device* device, FiddlerStream stream)
      : arena_(arena), device_(device), stream_(stream) {}

  FiddlerAddress Bytes(const void* data, uint64_t bytes) {
    if (bytes == 0) return 0;
    const FiddlerAddress address = arena_.Take(bytes, "weights");
    if (device_ != nullptr) device_->CopyIn(stream_, address, data, bytes);
    return address;
  }
  FiddlerAddress Vector(std::span<const float> values) {
    return Bytes(values.data(), values.size() * sizeof(float));
  }
  FiddlerMatrix Matrix(const PackedMatrix& matrix) {
    return {.data = Bytes(matrix.data, matrix.bytes()),
            .rows = matrix.rows,
            .cols = matrix.cols,
            .format = static_cast<int32_t>(matrix.format),
            .padding = 0};
  }
  FiddlerAddress Ffn(const SlicedFfn& ffn) { return Bytes(ffn.data, ffn.bytes()); }

 private:
  DeviceArena& arena_;
  Device* const device_;
  const FiddlerStream stream_;
};

DeviceLayer Place(const PackedLayer& layer, Placer& placer) {
  return {.attention_norm = placer.Vector(layer.attention_norm),
          .q = placer.Matrix(layer.q),
          .k = placer.Matrix(layer.k),
          .v = placer.Matrix(layer.v),
          .o = placer.Matrix(layer.o),
          .q_bias = placer.Vector(layer.q_bias),
          .k_bias = placer.Vector(layer.k_bias),
          .v_bias = placer.Vector(layer.v_bias),
          .o_bias = placer.Vector(layer.o_bias),
          .q_norm = placer.Vector(layer.q_norm),
          .k_norm = placer.Vector(layer.k_norm),
          .ffn_norm = placer.Vector(layer.ffn_norm),
          .dense = placer.Ffn(layer.dense),
          .router = placer.Matrix(layer.router),
          .shared = placer.Ffn(layer.shared),
          .shared_router = placer.Matrix(layer.shared_router)};
}

DeviceWeights Place(const PackedModel& model, const RopeTable& rope, int64_t positions, Placer& placer) {
  DeviceWeights weights;
  for (const PackedLayer& layer : model.weights.layers) weights.layers.push_back(Place(layer, placer));
  weights.final_norm = placer.Vector(model.weights.final_norm);
  weights.head = placer.Matrix(model.weights.head);
  const auto angles = static_cast<size_t>(positions * model.spec.rope.rotary_dim / 2);
  weights.cosine = placer.Vector({rope.Cos(0), angles});
  weights.sine = placer.Vector({rope.Sin(0), angles});
  return weights;
}

}  // namespace

uint64_t DeviceWeightBytes(const PackedModel& model, int64_t positions) {
  DeviceArena arena;
  Placer placer(arena, nullptr, 0);
  Place(model, RopeTable(model.spec.rope, positions), positions, placer);
  return arena.taken();
}

DeviceWeights UploadWeights(const PackedModel& model, int64_t positions, Device& device, DeviceArena& arena) {
  const FiddlerStream stream = device.CreateStream();
  const RopeTable rope(model.spec.rope, positions);
  Placer placer(arena, &device, stream);
  try {
    DeviceWeights weights = Place(model, rope, positions, placer);
    device.Synchronize(stream);
    return weights;
  } catch (const Error&) {
    device.Synchronize(stream);  // copies that are queued look into `rope`
    throw;
  }
}

}  // namespace fiddler
