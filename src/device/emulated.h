// A device for machines that have none: computes with the CPU's kernels, but is as unforgiving as a GPU can
// be. Its memory has a hard cap and addresses of its own, which the host cannot read; whatever is allocated,
// released or being copied to is poisoned (every byte 0xFF: NaNs in all formats); its streams run in any
// order that events allow, chosen by a seed. So a missing wait, a use after release, an overrun give an error
// or NaNs, every time the same.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "device/device.h"
#include "kernels/ops.h"

namespace fiddler {

struct EmulatorOptions {
  uint64_t memory_bytes = 0;
  // Whose turn it is when several streams could go on, and how early copies begin and how late they end.
  // Nothing: in the order of the calls.
  std::optional<uint64_t> adversary_seed;
  // Work runs when the host waits for it, on the waiting thread and this pool: nothing depends on time. Null:
  // on a thread of its own as soon as it may, single-threaded.
  ThreadPool* pool = nullptr;
  // For tests: the n-th wait_event (from 0) is forgotten.
  std::optional<int64_t> drop_wait;
};

// `kernels` and the pool must outlive the device. Throws Error if memory is short.
std::unique_ptr<Device> OpenEmulatedDevice(const EmulatorOptions& options, const CpuKernels& kernels);

// For tests: wait_events so far, also those of segments, at each launch; what drop_wait counts.
int64_t EmulatedWaits(Device& device);

}  // namespace fiddler
