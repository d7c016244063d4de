#include "device/cuda_runtime/state.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <thread>

#include "device/cuda_runtime/kernels.h"

namespace fiddler::cuda {
namespace {

// What the runtime takes later on: captured segments, local memory of kernels, its own lists. An estimate.
constexpr uint64_t kReserveBytes = uint64_t{512} << 20;

// Rows and weights of tokens for the FFNs of a few layers: 8 bytes a token and expert.
constexpr size_t kUploadBytes = size_t{8} << 20;

// Below this a kernel that writes across the link is done before a copy engine would have started.
constexpr uint64_t kSmallCopyBytes = uint64_t{64} << 10;

uint64_t OffsetTo(void* data) {  // from the host's address to the device's
  void* device = nullptr;
  Check(cudaHostGetDevicePointer(&device, data, 0), "cudaHostGetDevicePointer");
  return reinterpret_cast<uintptr_t>(device) - reinterpret_cast<uintptr_t>(data);
}

// Memory that is mapped for reading only has to be announced as such.
void Register(const HostRanges::Piece& piece) {
  constexpr unsigned kFlags = cudaHostRegisterPortable | cudaHostRegisterMapped;
  void* const data = reinterpret_cast<void*>(piece.begin);
  const cudaError_t status = cudaHostRegister(data, piece.bytes, kFlags);
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (cudaHostRegister(data, piece.bytes, kFlags | cudaHostRegisterReadOnly) == cudaSuccess) return;
  cudaGetLastError();
  Check(status, "pin");  // what is wrong with it as it is
}

template <typename T>
bool IsWord(T address) {
  return address % sizeof(uint32_t) == 0;
}

}  // namespace

DeviceMemory::DeviceMemory(uint64_t cap_bytes) {
  size_t free = 0;
  size_t installed = 0;
  Check(cudaMemGetInfo(&free, &installed), "cudaMemGetInfo");
  installed_bytes_ = installed;
  if (cap_bytes == 0 && free <= kReserveBytes) {
    Fail("too little memory: expected more than %s to be free, got %s of %s", SizeText(kReserveBytes).c_str(),
         SizeText(free).c_str(), SizeText(installed).c_str());
  }
  if (cap_bytes > free) {
    Fail("too little memory: expected %s to be free, got %s of %s", SizeText(cap_bytes).c_str(),
         SizeText(free).c_str(), SizeText(installed).c_str());
  }
  parts_.emplace(cap_bytes > 0 ? cap_bytes : free - kReserveBytes);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, parts_->cap_bytes());
  if (status != cudaSuccess) {
    cudaGetLastError();
    Fail("too little memory: expected %s in one piece, got: %s, with %s free",
         SizeText(parts_->cap_bytes()).c_str(), cudaGetErrorString(status), SizeText(free).c_str());
  }
  data_ = static_cast<std::byte*>(data);
}

DeviceMemory::~DeviceMemory() { cudaFree(data_); }

FiddlerMemory DeviceMemory::usage() const {
  return {.installed_bytes = installed_bytes_,
          .cap_bytes = parts_->cap_bytes(),
          .used_bytes = parts_->used_bytes(),
          .peak_bytes = parts_->peak_bytes()};
}

FiddlerAddress DeviceMemory::Allocate(uint64_t bytes) {
  return reinterpret_cast<FiddlerAddress>(data_ + parts_->Allocate(bytes));
}

void DeviceMemory::Release(FiddlerAddress address) {
  parts_->Release(address - reinterpret_cast<FiddlerAddress>(data_));
}

std::byte* DeviceMemory::Require(FiddlerAddress address, uint64_t bytes, const char* what) const {
  const uint64_t offset = address - reinterpret_cast<FiddlerAddress>(data_);
  if (!parts_->Contains(offset, bytes)) {
    Fail("%s: %" PRIu64 " bytes at %#" PRIx64 " do not lie in an allocation of this device", what, bytes,
         address);
  }
  return reinterpret_cast<std::byte*>(address);
}

HostMemory::~HostMemory() {
  for (const void* data : ranges_.All(HostRanges::Owner::kHost)) Unpin(data);
  for (const void* data : ranges_.All(HostRanges::Owner::kPlugin)) cudaFreeHost(const_cast<void*>(data));
}

void* HostMemory::Allocate(uint64_t bytes) {
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  void* data = nullptr;
  Check(cudaHostAlloc(&data, size, cudaHostAllocMapped | cudaHostAllocPortable), "allocate_pinned");
  for (const HostRanges::Piece& piece :
       ranges_.Add(data, size, HostRanges::Owner::kPlugin, "allocate_pinned")) {
    ranges_.SetPinned(piece, OffsetTo(data));
  }
  return data;
}

void HostMemory::Release(void* data) {
  ranges_.Find(data, HostRanges::Owner::kPlugin, "release_pinned");
  ranges_.Remove(data);
  Check(cudaFreeHost(data), "release_pinned");
}

// After a failure the pieces before stay as they are: the GPU may be reading them.
void HostMemory::Pin(const void* data, uint64_t bytes) {
  for (const HostRanges::Piece& piece : ranges_.Add(data, bytes, HostRanges::Owner::kHost, "pin")) {
    Register(piece);
    ranges_.SetPinned(piece, OffsetTo(reinterpret_cast<void*>(piece.begin)));
  }
}

void HostMemory::Unpin(const void* data) {
  const std::vector<HostRanges::Piece> pieces = ranges_.Find(data, HostRanges::Owner::kHost, "unpin");
  cudaError_t status = cudaSuccess;
  for (const HostRanges::Piece& piece : pieces) {
    void* const begin = reinterpret_cast<void*>(piece.begin);
    if (!ranges_.DeviceAddress(begin, 1)) continue;  // its turn never came
    const cudaError_t failed = cudaHostUnregister(begin);
    if (status == cudaSuccess) status = failed;
  }
  ranges_.Remove(data);
  Check(status, "unpin");
}

Flag HostMemory::RequireFlag(uint32_t* flag, const char* call) const {
  const std::optional<uint64_t> device = ranges_.DeviceAddress(flag, sizeof(*flag));
  if (!device || !IsWord(reinterpret_cast<uintptr_t>(flag))) {
    Fail("%s: a flag at %p does not lie, aligned, in pinned memory", call, static_cast<void*>(flag));
  }
  return {.host = flag, .device = reinterpret_cast<uint32_t*>(*device)};
}

}  // namespace fiddler::cuda

using fiddler::cuda::Check;

FiddlerDevice::FiddlerDevice(const FiddlerOpenOptions& options)
    : ordinal(options.ordinal),
      properties(fiddler::cuda::EnterDevice(options.ordinal)),
      uploads(fiddler::cuda::kUploadBytes),
      memory(options.memory_bytes) {}

void FiddlerDevice::CopyIn(FiddlerStream stream, FiddlerAddress to, const void* from, uint64_t bytes) {
  const cudaStream_t on = streams.At(stream);
  std::byte* const target = memory.Require(to, bytes, "copy_in: to");
  const auto* const source = static_cast<const std::byte*>(from);
  host.ranges().CopyInParts(from, bytes, [&](uint64_t offset, uint64_t part) {
    Check(cudaMemcpyAsync(target + offset, source + offset, part, cudaMemcpyHostToDevice, on), "copy_in");
  });
}

void FiddlerDevice::CopyOut(FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes) {
  using fiddler::cuda::IsWord;
  const cudaStream_t on = streams.At(stream);
  const std::byte* const source = memory.Require(from, bytes, "copy_out: from");
  auto* const target = static_cast<std::byte*>(to);
  if (bytes > 0 && bytes <= fiddler::cuda::kSmallCopyBytes && IsWord(bytes) && IsWord(from) &&
      IsWord(reinterpret_cast<uintptr_t>(to))) {
    if (const std::optional<uint64_t> mapped = host.ranges().DeviceAddress(to, bytes)) {
      return fiddler::cuda::QueueCopyWords(on, reinterpret_cast<uint32_t*>(*mapped),
                                           reinterpret_cast<const uint32_t*>(source),
                                           static_cast<uint32_t>(bytes / sizeof(uint32_t)));
    }
  }
  host.ranges().CopyInParts(to, bytes, [&](uint64_t offset, uint64_t part) {
    Check(cudaMemcpyAsync(target + offset, source + offset, part, cudaMemcpyDeviceToHost, on), "copy_out");
  });
}

void FiddlerDevice::Drain(const char* call, double seconds, bool set_awaited) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPause = std::chrono::microseconds(20);
  const Clock::time_point start = Clock::now();
  try {
    while (!stuck && !streams.Drained()) {
      if (set_awaited) mailbox.SetAwaited();
      if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) {
        stuck = true;
        fiddler::cuda::Fail("%s: what is queued has not ended for %g s", call, seconds);
      }
      std::this_thread::sleep_for(kPause);
    }
  } catch (const std::exception& error) {
    if (stuck) {
      health.Bury(error.what());
    } else {
      health.Examine(error.what());
    }
  }
}
