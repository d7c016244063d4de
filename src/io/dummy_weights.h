// Weights made up in memory, for benchmarks of models that are not at hand: right shapes, right sizes, random
// values that keep activations sane, never zeros (which would compress, skip and cache unlike real weights).
//
// The values of a tensor follow from (seed, name) alone: not from threads, machine or the order of requests.
//   matrices: uniform, mean 0, standard deviation 1 / sqrt(last dimension), so that W x is as large as x
//   vectors:  "...norm.weight" 1 + noise of deviation 0.05; every other one a bias of deviation 0.02
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "base/memory.h"
#include "base/progress.h"
#include "io/weight_source.h"

namespace fiddler {

class DummyWeights final : public WeightSource {
 public:
  // dtype: F32, F16 or BF16. Require() fills with that many threads and advances `progress`, which must
  // outlive this object, by the bytes it makes; Start and Finish are the caller's, who knows the total.
  DummyWeights(uint64_t seed, DType dtype, Progress& progress, unsigned threads);

  bool Has(std::string_view) const override { return false; }
  const TensorView* Find(std::string_view) const override { return nullptr; }
  // Makes the tensor the first time; later calls must name the same shape. Throws Error if memory is short.
  TensorView Require(std::string_view name, const Shape& shape) override;
  void Release(const TensorView& tensor) override;

 private:
  struct Tensor {
    Shape shape;
    std::span<std::byte> bytes;  // in arena_
  };

  void Fill(std::string_view name, const Tensor& tensor);

  const uint64_t seed_;
  const DType dtype_;
  Progress& progress_;
  const unsigned threads_;

  std::mutex mutex_;  // guards what is below; held while a tensor is made, which uses all threads anyway
  HugePageArena arena_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace fiddler
