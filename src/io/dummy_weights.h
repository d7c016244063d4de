// Weights made up while they are read, for benchmarks of models that are not at hand: right shapes, right
// sizes, random values that keep activations sane, never zeros (which would compress, skip and cache unlike
// real weights).
//
// The values of a tensor follow from (seed, name) alone: not from threads, machine or the order of requests.
//   matrices: uniform, mean 0, standard deviation 1 / sqrt(last dimension), so that W x is as large as x
//   vectors:  "...norm.weight" 1 + noise of deviation 0.05; every other one a bias of deviation 0.02
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/weight_source.h"

namespace fiddler {

class DummyWeights final : public WeightSource {
 public:
  // dtype: F32, F16 or BF16.
  DummyWeights(uint64_t seed, DType dtype);

  WeightIdentity Identity() const override;
  bool Has(std::string_view) const override { return false; }
  TensorInfo Require(std::string_view name, const Shape& shape) const override;
  void Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override;
  void Prefetch(const TensorInfo&, uint64_t, uint64_t) const override {}
  void Release(const TensorInfo&, uint64_t, uint64_t) const override {}

 private:
  const uint64_t seed_;
  const DType dtype_;
};

}  // namespace fiddler
