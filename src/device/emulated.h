// A device for machines that have none: computes with the CPU's kernels, but is as unforgiving as a GPU can
// be. Its memory has a hard cap and addresses of its own, which the host cannot read; whatever is allocated
// or being copied to is poisoned (every byte 0xFF: NaNs in all formats); its streams run in any order that
// events allow, chosen by a seed. So a missing wait, a use after release, an overrun give an error or NaNs,
// every time the same.
//
// Memory. Every operand is checked when its operation runs, over all that the operation touches, down to
// what row numbers and block tables in device memory say. Addresses are never used again: one that was
// released is an error for ever. An error is the end of the device: every later call gives its text.
// Copies. The destination is poisoned when a copy begins, or, if it is in host memory, at the call; a launch
// is the call for what is in a segment. The source is read when the copy ends.
// Flags. One that is set before it was taken, or that holds neither 0 nor 1 (pinned memory begins poisoned),
// is an error.
// Waits. Where nothing can go on, the host's wait fails at once and says what each stream waits for.
// Close. What has not run by then never does.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "device/device.h"
#include "kernels/ops.h"

namespace fiddler {

namespace emulated {
class EmulatedMemory;
class EmulatedOps;
class Workers;
// Makes what computes; all references must outlive it.
using OpsFactory =
    std::function<std::unique_ptr<EmulatedOps>(const EmulatedMemory&, const CpuKernels&, const Workers&)>;
}  // namespace emulated

// What Device::name() says of it.
constexpr const char* kEmulatedDeviceName = "emulated GPU";

struct EmulatorOptions {
  uint64_t memory_bytes = 0;
  // Whose turn it is when several streams could go on, and how early copies begin and how late they end.
  // 12 seeds in a row have every strategy there is (schedule.h). Nothing: in the order of the calls.
  std::optional<uint64_t> adversary_seed = {};
  // Work runs when the host waits for it, on the waiting thread and this pool: nothing depends on time. Null:
  // on a thread of its own as soon as it may, single-threaded.
  ThreadPool* pool = nullptr;
  // For tests: the n-th wait_event (from 0) is forgotten.
  std::optional<int64_t> drop_wait = {};
  // For tests: what computes in place of the CPU's kernels.
  emulated::OpsFactory make_ops = {};
};

// `kernels` and the pool must outlive the device. Throws Error if memory is short.
std::unique_ptr<Device> OpenEmulatedDevice(const EmulatorOptions& options, const CpuKernels& kernels);

// For tests: wait_events so far, also those of segments, at each launch; what drop_wait counts.
int64_t EmulatedWaits(Device& device);

}  // namespace fiddler
