// The weights that every token passes, in device memory: everything but the embedding, of which a token needs
// one row, and the routed experts, which come and go (experts/expert_store.h).
#pragma once

#include <cstdint>
#include <vector>

#include "device/device_arena.h"
#include "engine/packed_weights.h"

namespace fiddler {

// Addresses are 0 where the model has no such thing.
struct DeviceLayer {
  FiddlerAddress attention_norm = 0;  // [hidden]
  FiddlerMatrix q = {};               // as in PackedLayer
  FiddlerMatrix k = {};
  FiddlerMatrix v = {};
  FiddlerMatrix o = {};
  FiddlerAddress q_bias = 0;
  FiddlerAddress k_bias = 0;
  FiddlerAddress v_bias = 0;
  FiddlerAddress o_bias = 0;
  FiddlerAddress q_norm = 0;
  FiddlerAddress k_norm = 0;

  FiddlerAddress ffn_norm = 0;  // [hidden]
  FiddlerAddress dense = 0;     // slices, one behind the other; so is shared
  FiddlerMatrix router = {};
  FiddlerAddress shared = 0;
  FiddlerMatrix shared_router = {};
};

struct DeviceWeights {
  std::vector<DeviceLayer> layers;
  FiddlerAddress final_norm = 0;  // [hidden]
  FiddlerMatrix head = {};        // [vocab_size, hidden]
  FiddlerAddress cosine = 0;      // [positions, rotary_dim / 2]
  FiddlerAddress sine = 0;        // [positions, rotary_dim / 2]
};

// Bytes that UploadWeights takes.
uint64_t DeviceWeightBytes(const PackedModel& model, int64_t positions);

// Takes memory from the arena (DeviceWeightBytes of it) and fills it. `model` need not outlive the result.
DeviceWeights UploadWeights(const PackedModel& model, int64_t positions, Device& device, DeviceArena& arena);

}  // namespace fiddler
