// Plays a GPU on one thread of the host, so that CUDA kernels can be tested without one: a fiber for each
// thread of a block, blocks one after another. Every choice that hardware makes is made as badly as a seed
// can: a warp runs on alone until a barrier stops all of it, lanes run on alone until they meet in an
// operation of their warp, copies arrive at the last moment, and shared memory begins as NaNs. So a barrier
// that is missing gives wrong numbers, the same ones every time. What cannot be seen: fences, occupancy,
// speed.
//
// Errors (a barrier that not all threads reach, lanes that meet in different operations, addresses that are
// not aligned, bytes beside the shared memory) throw std::runtime_error out of Launch.
//
// Barriers can be taken out, one place in the sources at a time: for tests that prove that each is needed.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// In CUDA a keyword; here only its spelling: __restrict is one of the host's compilers'.
#define __restrict__ __restrict

// NOLINTBEGIN(readability-identifier-naming,google-explicit-constructor): CUDA's own names and conversions
struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// NOLINTEND(readability-identifier-naming,google-explicit-constructor)

namespace fiddler::cuda::emulation {

class Machine;
class Block;

// A place in the sources where threads wait for each other or for copies: "attend.cuh:123".
using Site = std::string;

// Where a function was called: who wants to know takes file and line as its last parameters, with these
// defaults. Two, for of a struct in their place g++ says where it was declared.
struct Caller {
  const char* file;
  unsigned line;
};
#define FIDDLER_CALLER const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

struct MachineOptions {
  uint64_t seed = 0;             // of the order of blocks, warps and lanes
  bool deferred_copies = false;  // asynchronous copies arrive when waited for, not at once
  Site without;                  // what threads do not wait for
};

class Machine {
 public:
  Machine();
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  MachineOptions options;

  // Runs a kernel to its end: `thread` is what each of its threads does. Throws std::runtime_error.
  void Run(const char* what, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

  // Where threads have waited so far.
  const std::set<Site>& sites() const { return sites_; }

 private:
  friend class Block;
  std::unique_ptr<Block> block_;  // all blocks, one after another: its fibers are used again
  std::set<Site> sites_;
};

// What the thread that is running is.
struct ThreadIndex {
  uint3 thread;
  uint3 block;
  dim3 block_size;
  dim3 grid_size;
};
const ThreadIndex& Running();

// Waits for all lanes of the warp in the same operation, `kind`; then `lanes` has what each brought,
// `bytes` of them, until this lane's next operation.
const std::byte* Exchange(const char* kind, const void* mine, size_t bytes);
inline constexpr size_t kExchangeBytes = 32;  // of a lane, at most

void SyncThreads(Caller where);
void SyncWarp(Caller where);
void RequireWholeWarp(unsigned mask);
void RequireAligned(const void* address, size_t alignment);

template <typename T>
T Shuffle(const char* kind, unsigned mask, T value, unsigned from_lane) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  RequireWholeWarp(mask);
  const std::byte* const lanes = Exchange(kind, &value, sizeof(T));
  T result;
  std::memcpy(&result, lanes + from_lane % 32 * kExchangeBytes, sizeof(T));
  return result;
}
unsigned Lane();

std::byte* SharedMemory();
uint4 LoadOnce(const uint4* from);
void CopyAsync16(void* shared, const void* global);
void CopyAsync8(void* shared, const void* global);
void CopyAsyncCommit();
void WaitForCopies(int in_flight, Caller where);
template <int kInFlight>
void CopyAsyncWait(FIDDLER_CALLER) {
  WaitForCopies(kInFlight, {file, line});
}
void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
uint32_t PackBf16(float low, float high);
inline int LowestBit(uint32_t word) { return std::countr_zero(word); }
inline float Exp2(float x) { return std::exp2(x); }
inline float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t BitsOfFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace fiddler::cuda::emulation

// NOLINTBEGIN(readability-identifier-naming): CUDA's own names
using cudaStream_t = fiddler::cuda::emulation::Machine*;

#define threadIdx (fiddler::cuda::emulation::Running().thread)
#define blockIdx (fiddler::cuda::emulation::Running().block)
#define blockDim (fiddler::cuda::emulation::Running().block_size)
#define gridDim (fiddler::cuda::emulation::Running().grid_size)

inline void __syncthreads(FIDDLER_CALLER) { fiddler::cuda::emulation::SyncThreads({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, FIDDLER_CALLER) {
  fiddler::cuda::emulation::RequireWholeWarp(mask);
  fiddler::cuda::emulation::SyncWarp({file, line});
}
template <typename T>
T __shfl_sync(unsigned mask, T value, unsigned lane) {
  return fiddler::cuda::emulation::Shuffle("__shfl_sync", mask, value, lane);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned lanes) {
  return fiddler::cuda::emulation::Shuffle("__shfl_xor_sync", mask, value,
                                           fiddler::cuda::emulation::Lane() ^ lanes);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
  const unsigned lane = fiddler::cuda::emulation::Lane();
  return fiddler::cuda::emulation::Shuffle("__shfl_down_sync", mask, value,
                                           lane + lanes < 32 ? lane + lanes : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  fiddler::cuda::emulation::RequireWholeWarp(mask);
  const std::byte* const lanes =
      fiddler::cuda::emulation::Exchange("__ballot_sync", &predicate, sizeof predicate);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    int other;
    std::memcpy(&other, lanes + lane * fiddler::cuda::emulation::kExchangeBytes, sizeof other);
    result |= other != 0 ? 1u << lane : 0u;
  }
  return result;
}
// NOLINTEND(readability-identifier-naming)
