// Random numbers of other distributions than base/rng.h has, the same on every machine: only additions,
// multiplications, divisions and square roots, which IEEE 754 rounds alike everywhere. The logarithm of a C
// library is not among them, so here is one.
#pragma once

#include <cstdint>

#include "base/rng.h"

namespace fiddler {

// The natural logarithm of a normal positive number, to about 1e-15.
double PortableLog(double x);

// Normal with mean 0 and variance 1, by the polar method (Marsaglia and Bray, 1964).
class NormalVariates {
 public:
  explicit NormalVariates(uint64_t seed) : rng_(seed) {}

  double Next();

 private:
  Rng rng_;
  double spare_ = 0;  // the method makes two at a time
  bool has_spare_ = false;
};

// Standard Gumbel: the top k of logits with one added to each are k draws without replacement from their
// softmax (Yellott, 1977).
double NextGumbel(Rng& rng);

}  // namespace fiddler
