// For the tests of kernels: arrays that show where a kernel reads or writes beside them, random numbers, and
// the sets under test.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/dispatch.h"

namespace fiddler::testing {

// An array that ends where an unreadable page begins: one element too far is a crash. All bytes begin as
// 0xff, a NaN in every float format, and so do those before the array: reading there spoils results, writing
// there shows. Its alignment is that of an element, as sizes are mostly odd.
template <class T>
class GuardedArray {
 public:
  explicit GuardedArray(int64_t size)
      : size_(static_cast<size_t>(size)),
        page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
        bytes_((size_ * sizeof(T) + page_ - 1) / page_ * page_ + 2 * page_),
        pages_(static_cast<std::byte*>(
            mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))),
        data_(reinterpret_cast<T*>(pages_ + bytes_ - page_) - size_) {
    CHECK(pages_ != MAP_FAILED, "no memory for a test");
    CHECK(mprotect(pages_ + bytes_ - page_, page_, PROT_NONE) == 0);
    std::memset(pages_, 0xff, bytes_ - page_);
  }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;
  ~GuardedArray() { munmap(pages_, bytes_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return static_cast<int64_t>(size_); }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }

  bool FrontIntact() const {
    const std::byte* const front = pages_;
    return std::all_of(front, reinterpret_cast<const std::byte*>(data_),
                       [](std::byte b) { return b == std::byte{0xff}; });
  }

 private:
  size_t size_;
  size_t page_;
  size_t bytes_;
  std::byte* pages_;
  T* data_;
};

// As GuardedArray leaves it: nobody wrote here.
inline bool Untouched(float value) { return std::bit_cast<uint32_t>(value) == 0xffffffffu; }

// The same float, and the same zero; no two NaNs are told apart.
inline bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float Normal() { return normal_(engine_); }
  int64_t Range(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  int64_t Pick(std::span<const int64_t> values) {
    return values[static_cast<size_t>(Range(0, std::ssize(values) - 1))];
  }
  int64_t Pick(std::initializer_list<int64_t> values) {
    return Pick(std::span(values.begin(), values.size()));
  }
  bool Coin() { return Range(0, 1) == 1; }
  template <class Array>
  void FillNormal(Array& array, float scale = 1) {
    for (float& value : array) value = scale * Normal();
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Every set of this machine but the oracle.
inline std::vector<const CpuKernels*> FastKernels() {
  std::vector<const CpuKernels*> sets;
  for (const CpuKernels* kernels : SupportedKernels()) {
    if (kernels != &GenericKernels()) sets.push_back(kernels);
  }
  return sets;
}

}  // namespace fiddler::testing
