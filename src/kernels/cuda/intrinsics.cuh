// What kernels ask of the machine beyond C++: shared memory, loads that bypass the cache, asynchronous
// copies, tensor cores, BF16. The instructions are those of sm_80, which every later GPU has too.
#pragma once

#include "kernels/cuda/cuda.h"

namespace fiddler::cuda {

#ifdef __CUDACC__

// Of this block, as many bytes as the launch asked for; on 128 bytes.
__device__ inline std::byte* SharedMemory() {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  return reinterpret_cast<std::byte*>(shared_memory);
}

// 16 bytes of global memory that this kernel reads once: they need no place in the first cache.
__device__ __forceinline__ uint4 LoadOnce(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// 16 bytes from global to shared memory. They are there for this thread after CopyAsyncWait, for the others
// of the block after a barrier behind that.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
// 8 bytes, the same way.
__device__ __forceinline__ void CopyAsync8(void* shared, const void* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(global) : "memory");
}
// Closes a group of copies.
__device__ __forceinline__ void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `kInFlight` of this thread's groups are on their way.
template <int kInFlight>
__device__ __forceinline__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}

// d += a b on tensor cores (PTX: mma.m16n8k16, bf16 to f32). Lane 4 g + q of the warp has, a word being two
// neighbours along k, the first in its low half:
//   a  words (row g, k pair q), (g + 8, q), (g, q + 4), (g + 8, q + 4)
//   b  words (k pair q, column g), (q + 4, g)
//   d  (row g, columns 2 q and 2 q + 1), then the same of row g + 8
__device__ __forceinline__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of unsigned bytes (a) and signed ones (b), sums in int32 (PTX: mma.m16n8k32): words hold four
// neighbours along k, so q counts quads of k.
__device__ __forceinline__ void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats, each rounded to the nearest BF16, ties to even; `low` in the low half.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// 2^x, relatively off by 2^-22 at most; 0 below the normal numbers.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a word that is not 0.
__device__ __forceinline__ int LowestBit(uint32_t word) { return __ffs(static_cast<int>(word)) - 1; }

__device__ __forceinline__ float FloatOfBits(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t BitsOfFloat(float value) { return __float_as_uint(value); }

#else

using emulation::BitsOfFloat;
using emulation::CopyAsync16;
using emulation::CopyAsync8;
using emulation::CopyAsyncCommit;
using emulation::CopyAsyncWait;
using emulation::Exp2;
using emulation::FloatOfBits;
using emulation::LoadOnce;
using emulation::LowestBit;
using emulation::MmaBf16;
using emulation::MmaU8S8;
using emulation::PackBf16;
using emulation::SharedMemory;

#endif

// The halves of a word of two BF16.
__device__ __forceinline__ float LowBf16(uint32_t word) { return FloatOfBits(word << 16); }
__device__ __forceinline__ float HighBf16(uint32_t word) { return FloatOfBits(word & 0xffff0000u); }

// Over the warp, to all of its lanes.
__device__ __forceinline__ float WarpSum(float value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kWholeWarp, value, lanes);
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, lanes));
  }
  return value;
}

}  // namespace fiddler::cuda
