// The machine that plays a GPU: what it computes, and that it sees what a GPU would not forgive.
#include "kernels/cuda/emulation/machine.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/rng.h"
#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {
namespace {

std::string ErrorOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

// Every thread of a block reads what its neighbour, of another warp, wrote.
__global__ void RotateKernel(int* out) {
  auto* const shared = reinterpret_cast<int*>(SharedMemory());
  const unsigned thread = threadIdx.x;
  shared[thread] = static_cast<int>(blockIdx.x * blockDim.x + thread);
  __syncthreads();
  out[blockIdx.x * blockDim.x + thread] = shared[(thread + 37) % blockDim.x];
}

std::vector<int> Rotate(emulation::Machine& machine) {
  std::vector<int> out(3 * 128);
  Launch("rotate", {.grid = dim3(3), .block = dim3(128), .shared_bytes = 128 * sizeof(int)}, &machine,
         RotateKernel, out.data());
  return out;
}

TEST(MachineTest, BarriersAreNeeded) {
  std::vector<int> expected;
  for (int block = 0; block < 3; ++block) {
    for (int thread = 0; thread < 128; ++thread) expected.push_back(block * 128 + (thread + 37) % 128);
  }
  emulation::Machine machine;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    machine.options.seed = seed;
    machine.options.without.clear();
    EXPECT_EQ(Rotate(machine), expected);
    ASSERT_EQ(machine.sites().size(), 1u);
    machine.options.without = *machine.sites().begin();
    EXPECT_NE(Rotate(machine), expected);
  }
}

__global__ void TensorKernel(const uint32_t* a, const uint32_t* b, float* d) {
  const unsigned g = threadIdx.x / 4;
  const unsigned q = threadIdx.x % 4;
  const uint32_t words[4] = {a[g * 8 + q], a[(g + 8) * 8 + q], a[g * 8 + q + 4], a[(g + 8) * 8 + q + 4]};
  float sums[4] = {1, 1, 1, 1};
  MmaBf16(sums, words, b[g * 8 + q], b[g * 8 + q + 4]);
  d[g * 8 + 2 * q] = sums[0];
  d[g * 8 + 2 * q + 1] = sums[1];
  d[(g + 8) * 8 + 2 * q] = sums[2];
  d[(g + 8) * 8 + 2 * q + 1] = sums[3];
}

TEST(MachineTest, TensorCoresMultiply) {
  Rng rng(1);
  std::vector<float> a(16 * 16);
  std::vector<float> b(8 * 16);  // by column
  for (float& v : a) v = static_cast<float>(rng.NextBits() % 17) - 8;
  for (float& v : b) v = static_cast<float>(rng.NextBits() % 17) - 8;
  const auto pack = [](const std::vector<float>& from) {
    std::vector<uint32_t> words;
    for (size_t i = 0; i < from.size(); i += 2) words.push_back(PackBf16(from[i], from[i + 1]));
    return words;
  };
  std::vector<float> expected(16 * 8, 1);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      for (size_t k = 0; k < 16; ++k) expected[row * 8 + column] += a[row * 16 + k] * b[column * 16 + k];
    }
  }
  const std::vector<uint32_t> a_words = pack(a);
  const std::vector<uint32_t> b_words = pack(b);
  std::vector<float> d(16 * 8);
  emulation::Machine machine;
  Launch("tensor", {.grid = dim3(1), .block = dim3(32)}, &machine, TensorKernel, a_words.data(),
         b_words.data(), d.data());
  EXPECT_EQ(d, expected);
}

__global__ void CopyKernel(const uint4* from, uint4* to) {
  auto* const shared = reinterpret_cast<uint4*>(SharedMemory());
  CopyAsync16(shared + threadIdx.x, from + threadIdx.x);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  __syncthreads();
  to[threadIdx.x] = shared[(threadIdx.x + 40) % 64];
}

TEST(MachineTest, CopiesMustBeWaitedFor) {
  std::vector<uint4> from(64);
  for (unsigned i = 0; i < 64; ++i) from[i] = {i, i, i, i};
  const auto copied = [&](emulation::Machine& machine) {
    std::vector<uint4> to(64);
    Launch("copy", {.grid = dim3(1), .block = dim3(64), .shared_bytes = 64 * sizeof(uint4)}, &machine,
           CopyKernel, static_cast<const uint4*>(from.data()), to.data());
    for (unsigned i = 0; i < 64; ++i) {
      if (to[i].x != (i + 40) % 64) return false;
    }
    return true;
  };
  emulation::Machine machine;
  EXPECT_TRUE(copied(machine));
  machine.options.deferred_copies = true;
  EXPECT_TRUE(copied(machine));
  ASSERT_EQ(machine.sites().size(), 2u);
  for (const emulation::Site& site : machine.sites()) {
    EXPECT_EQ(site.find("machine_test.cc:"), 0u) << site;
    machine.options.without = site;
    EXPECT_FALSE(copied(machine)) << site;
  }
}

__global__ void EarlyExitKernel() {
  if (threadIdx.x < 5) return;
  __syncthreads();
}
__global__ void DivergentKernel(float* out) {
  if (threadIdx.x < 5) {
    *out = WarpSum(1.0f);
  } else {
    __syncwarp();
  }
}
__global__ void OverrunKernel() { SharedMemory()[64] = std::byte{1}; }
__global__ void MisalignedKernel(const std::byte* from, uint4* to) {
  *to = LoadOnce(reinterpret_cast<const uint4*>(from));
}

TEST(MachineTest, FaultsAreErrors) {
  emulation::Machine machine;
  const LaunchShape warp = {.grid = dim3(1), .block = dim3(32), .shared_bytes = 64};
  float sum = 0;
  alignas(16) std::byte bytes[32] = {};
  uint4 word;
  EXPECT_EQ(ErrorOf([&] { Launch("early", warp, &machine, EarlyExitKernel); }),
            "early: __syncthreads: 27 threads wait, 5 have ended");
  EXPECT_NE(ErrorOf([&] {
              Launch("divergent", warp, &machine, DivergentKernel, &sum);
            }).find("divergent: lanes of a warp meet in "),
            std::string::npos);
  EXPECT_EQ(ErrorOf([&] { Launch("overrun", warp, &machine, OverrunKernel); }),
            "overrun: shared memory: a write beside its 64 bytes");
  EXPECT_EQ(ErrorOf([&] { Launch("misaligned", warp, &machine, MisalignedKernel, bytes + 4, &word); }),
            "misaligned: an address that is no multiple of 16");
  EXPECT_NE(ErrorOf([&] {
              Launch("odd", {.grid = dim3(1), .block = dim3(33)}, &machine, OverrunKernel);
            }).find("whole warps"),
            std::string::npos);
  EXPECT_EQ(ErrorOf([&] { Launch("aligned", warp, &machine, MisalignedKernel, bytes + 16, &word); }), "");
}

}  // namespace
}  // namespace fiddler::cuda
