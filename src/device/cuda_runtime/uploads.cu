#include <cstring>

#include "device/cuda_runtime/check.h"
#include "device/cuda_runtime/uploads.h"

namespace fiddler::cuda {
namespace {

// Operations in flight that have brought something: an engine queues a few for each layer.
constexpr int kMaxMarks = 256;

}  // namespace

Uploads::Uploads(size_t bytes) : ring_(bytes, kMaxMarks), events_(kMaxMarks) {
  void* pinned = nullptr;
  void* device = nullptr;
  Check(cudaHostAlloc(&pinned, bytes, cudaHostAllocPortable), "cudaHostAlloc");
  pinned_ = static_cast<std::byte*>(pinned);
  Check(cudaMalloc(&device, bytes), "cudaMalloc");
  device_ = static_cast<std::byte*>(device);
  for (cudaEvent_t& event : events_) {
    Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
}

Uploads::~Uploads() {
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  cudaFree(device_);
  cudaFreeHost(pinned_);
}

const void* Uploads::ToDevice(const void* data, size_t bytes, cudaStream_t stream) {
  std::optional<size_t> place;
  while (!place) {
    place = bytes <= ring_.bytes() ? ring_.Take(bytes) : std::nullopt;
    if (!place && !RetireOldest()) {
      Fail("arrays of one operation: expected at most %s, got another %s", SizeText(ring_.bytes()).c_str(),
           SizeText(bytes).c_str());
    }
  }
  std::memcpy(pinned_ + *place, data, bytes);
  Check(cudaMemcpyAsync(device_ + *place, pinned_ + *place, bytes, cudaMemcpyHostToDevice, stream),
        "arrays of an operation");
  return device_ + *place;
}

void Uploads::Mark(cudaStream_t stream) {
  if (ring_.MarksFull()) RetireOldest();
  if (const std::optional<int> mark = ring_.Mark()) {
    Check(cudaEventRecord(events_[static_cast<size_t>(*mark)], stream), "record");
  }
}

// Nearly always done long ago: then nobody waits.
bool Uploads::RetireOldest() {
  const std::optional<int> oldest = ring_.Oldest();
  if (!oldest) return false;
  Check(cudaEventSynchronize(events_[static_cast<size_t>(*oldest)]), "an operation before");
  ring_.Retire();
  return true;
}

}  // namespace fiddler::cuda
