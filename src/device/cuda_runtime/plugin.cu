// The table of plugin.h for NVIDIA GPUs, and the one function that libfiddler_cuda.so exports. The parts are
// in state.h; what the operations do is in device/cuda/ops.h. Here: arguments that may be wrong, and
// exceptions, none of which crosses the border.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include "device/cuda/ops.h"
#include "device/cuda_runtime/state.h"

namespace fiddler::cuda {
namespace {

// A release waits so long for what is queued; a step of an engine takes no tenth of it.
constexpr double kDrainSeconds = 60;
constexpr double kCloseSeconds = 10;

// Of the calling thread, as plugin.h wants it.
thread_local std::string last_error;

// No exception leaves: what `body` throws becomes a status and a text.
template <typename Body>
int32_t Call(FiddlerDevice* device, const Body& body) noexcept {
  last_error.clear();
  try {
    cudaSetDevice(
        device->ordinal);  // every thread has a device of its own; next to nothing if it is this one
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error";
  }
  device->health.Examine(last_error);
  return 1;
}

// The same, for all that is of no use on a device that has failed.
template <typename Body>
int32_t CallIfAlive(FiddlerDevice* device, const Body& body) noexcept {
  return Call(device, [&] {
    device->health.ThrowIfDead();
    body();
  });
}

// `release` runs once nothing uses the memory any more, on a device that has failed too; but not on one that
// is stuck, which would wait with it.
template <typename Release>
int32_t CallOnceDone(FiddlerDevice* device, const char* call, const Release& release) noexcept {
  return Call(device, [&] {
    device->Drain(call, kDrainSeconds, /*set_awaited=*/false);
    if (!device->stuck) release();
    device->health.ThrowIfDead();
  });
}

template <typename T>
void RequirePointer(const T* pointer, const char* what) {
  if (pointer == nullptr) Fail("%s: a null pointer", what);
}

const char* ErrorText(FiddlerDevice*) { return last_error.c_str(); }
const char* Name(FiddlerDevice* device) { return device->properties.name.c_str(); }

void Close(FiddlerDevice* device) {
  Call(device, [&] {
    device->streams.AbandonCaptures();
    device->Drain("close", kCloseSeconds, /*set_awaited=*/true);
    if (!device->stuck) delete device;  // otherwise the driver frees it all when the process ends
  });
}

int32_t Memory(FiddlerDevice* device, FiddlerMemory* memory) {
  return Call(device, [&] {
    RequirePointer(memory, "memory");
    *memory = device->memory.usage();
  });
}

int32_t Allocate(FiddlerDevice* device, uint64_t bytes, FiddlerAddress* address) {
  return CallIfAlive(device, [&] {
    RequirePointer(address, "allocate");
    *address = device->memory.Allocate(bytes);
  });
}

int32_t Release(FiddlerDevice* device, FiddlerAddress address) {
  return CallOnceDone(device, "release", [&] { device->memory.Release(address); });
}

int32_t SetScratch(FiddlerDevice* device, FiddlerAddress address, uint64_t bytes) {
  return CallIfAlive(device, [&] {
    if (address % SubAllocator::kAlignment != 0) Fail("set_scratch: the address is not aligned");
    device->scratch = device->memory.Require(address, bytes, "set_scratch");
    device->scratch_bytes = bytes;
  });
}

int32_t AllocatePinned(FiddlerDevice* device, uint64_t bytes, void** data) {
  return CallIfAlive(device, [&] {
    RequirePointer(data, "allocate_pinned");
    *data = device->host.Allocate(bytes);
  });
}

// Flags in memory that goes are not to be set when the device closes.
void ForgetFlags(FiddlerDevice* device, const void* data, HostRanges::Owner owner, const char* call) {
  for (const HostRanges::Piece& piece : device->host.ranges().Find(data, owner, call)) {
    device->mailbox.Forget(reinterpret_cast<const void*>(piece.begin), piece.bytes);
  }
}

int32_t ReleasePinned(FiddlerDevice* device, void* data) {
  return CallOnceDone(device, "release_pinned", [&] {
    ForgetFlags(device, data, HostRanges::Owner::kPlugin, "release_pinned");
    device->host.Release(data);
  });
}

int32_t Pin(FiddlerDevice* device, const void* data, uint64_t bytes) {
  return CallIfAlive(device, [&] { device->host.Pin(data, bytes); });
}

int32_t Unpin(FiddlerDevice* device, const void* data) {
  return CallOnceDone(device, "unpin", [&] {
    ForgetFlags(device, data, HostRanges::Owner::kHost, "unpin");
    device->host.Unpin(data);
  });
}

int32_t CreateStream(FiddlerDevice* device, FiddlerStream* stream) {
  return CallIfAlive(device, [&] {
    RequirePointer(stream, "create_stream");
    *stream = device->streams.CreateStream();
  });
}

int32_t CreateEvent(FiddlerDevice* device, FiddlerEvent* event) {
  return CallIfAlive(device, [&] {
    RequirePointer(event, "create_event");
    *event = device->streams.CreateEvent();
  });
}

int32_t Record(FiddlerDevice* device, FiddlerStream stream, FiddlerEvent event) {
  return CallIfAlive(device, [&] { device->streams.Record(stream, event); });
}

int32_t WaitForEvent(FiddlerDevice* device, FiddlerStream stream, FiddlerEvent event) {
  return CallIfAlive(device, [&] { device->streams.WaitEvent(stream, event); });
}

int32_t Synchronize(FiddlerDevice* device, FiddlerStream stream) {
  return CallIfAlive(device, [&] { device->streams.Synchronize(stream); });
}

int32_t CopyIn(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress to, const void* from,
               uint64_t bytes) {
  return CallIfAlive(device, [&] {
    if (bytes > 0) RequirePointer(from, "copy_in: from");
    device->CopyIn(stream, to, from, bytes);
  });
}

int32_t CopyOut(FiddlerDevice* device, FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes) {
  return CallIfAlive(device, [&] {
    if (bytes > 0) RequirePointer(to, "copy_out: to");
    device->CopyOut(stream, to, from, bytes);
  });
}

int32_t Clear(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress to, uint64_t bytes) {
  return CallIfAlive(device, [&] {
    std::byte* const target = device->memory.Require(to, bytes, "clear: to");
    const cudaStream_t on = device->streams.At(stream);
    if (bytes > 0) Check(cudaMemsetAsync(target, 0, bytes, on), "clear");
  });
}

int32_t Post(FiddlerDevice* device, FiddlerStream stream, uint32_t* flag) {
  return CallIfAlive(device, [&] {
    device->mailbox.Post(device->streams.At(stream), device->host.RequireFlag(flag, "post"));
  });
}

int32_t Await(FiddlerDevice* device, FiddlerStream stream, uint32_t* flag) {
  return CallIfAlive(device, [&] {
    device->mailbox.Await(device->streams.At(stream), device->host.RequireFlag(flag, "await"));
  });
}

int32_t SetFlag(FiddlerDevice* device, uint32_t* flag) {
  return CallIfAlive(device, [&] { Mailbox::Set(device->host.RequireFlag(flag, "set_flag").host); });
}

int32_t WaitFlag(FiddlerDevice* device, uint32_t* flag, double seconds) {
  return CallIfAlive(device, [&] {
    device->host.RequireFlag(flag, "wait_flag");
    const auto look = [device] { device->health.ThrowIfFailed("wait_flag"); };
    if (!Mailbox::Wait(flag, seconds, look)) Fail("wait_flag: no answer within %g s", seconds);
  });
}

int32_t BeginCapture(FiddlerDevice* device, FiddlerStream stream) {
  return CallIfAlive(device, [&] { device->streams.BeginCapture(stream); });
}

int32_t EndCapture(FiddlerDevice* device, FiddlerStream stream, FiddlerSegment* segment) {
  return CallIfAlive(device, [&] {
    RequirePointer(segment, "end_capture");
    *segment = device->streams.EndCapture(stream);
  });
}

int32_t LaunchSegment(FiddlerDevice* device, FiddlerStream stream, FiddlerSegment segment) {
  return CallIfAlive(device, [&] { device->streams.Launch(stream, segment); });
}

int32_t ReleaseSegment(FiddlerDevice* device, FiddlerSegment segment) {
  return CallOnceDone(device, "release_segment", [&] { device->streams.ReleaseSegment(segment); });
}

// What an operation gets for its time.
class QueueingContext final : public OpContext {
 public:
  QueueingContext(FiddlerDevice& device, FiddlerStream on)
      : device_(device), capturing_(device.streams.capturing(on)) {
    stream = device.streams.At(on);
    scratch = device.scratch;
    scratch_bytes = device.scratch_bytes;
    num_sms = device.properties.num_sms;
  }

  const void* ToDevice(const void* data, size_t bytes) override {
    if (capturing_) Fail("within a capture an operation cannot bring arrays of the host to the device");
    return device_.uploads.ToDevice(data, bytes, stream);
  }

 private:
  FiddlerDevice& device_;
  const bool capturing_;
};

// operation(OpContext&)
template <typename Operation>
void QueueOperation(FiddlerDevice& device, FiddlerStream stream, const Operation& operation) {
  QueueingContext context(device, stream);
  try {
    operation(context);
  } catch (...) {
    device.uploads.Mark(context.stream);  // what it brought may be on its way
    throw;
  }
  device.uploads.Mark(context.stream);
}

template <typename Args, void (*kOperation)(OpContext&, const Args&)>
int32_t Operate(FiddlerDevice* device, FiddlerStream stream, const Args* args) {
  return CallIfAlive(device, [&] {
    RequirePointer(args, "arguments");
    QueueOperation(*device, stream, [&](OpContext& context) { kOperation(context, *args); });
  });
}

int32_t QueueReadProbe(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress data, uint64_t bytes) {
  return CallIfAlive(device, [&] {
    device->memory.Require(data, bytes, "read_probe: data");
    QueueOperation(*device, stream, [&](OpContext& context) { ReadProbe(context, data, bytes); });
  });
}

int32_t QueueProductProbe(FiddlerDevice* device, FiddlerStream stream, int64_t rounds, double* operations) {
  return CallIfAlive(device, [&] {
    RequirePointer(operations, "product_probe");
    QueueOperation(*device, stream, [&](OpContext& context) { *operations = ProductProbe(context, rounds); });
  });
}

constexpr FiddlerDeviceApi kApi = {
    .abi_version = FIDDLER_DEVICE_ABI,
    .struct_bytes = sizeof(FiddlerDeviceApi),
    .error = ErrorText,
    .name = Name,
    .close = Close,
    .memory = Memory,
    .allocate = Allocate,
    .release = Release,
    .set_scratch = SetScratch,
    .allocate_pinned = AllocatePinned,
    .release_pinned = ReleasePinned,
    .pin = Pin,
    .unpin = Unpin,
    .create_stream = CreateStream,
    .create_event = CreateEvent,
    .record = Record,
    .wait_event = WaitForEvent,
    .synchronize = Synchronize,
    .copy_in = CopyIn,
    .copy_out = CopyOut,
    .clear = Clear,
    .post = Post,
    .await = Await,
    .set_flag = SetFlag,
    .wait_flag = WaitFlag,
    .begin_capture = BeginCapture,
    .end_capture = EndCapture,
    .launch = LaunchSegment,
    .release_segment = ReleaseSegment,
    .rms_norm = Operate<FiddlerRmsNorm, RmsNorm>,
    .mat_mul = Operate<FiddlerMatMul, MatMul>,
    .rotate_store = Operate<FiddlerRotateStore, RotateStore>,
    .attend = Operate<FiddlerAttend, Attend>,
    .add = Operate<FiddlerAdd, Add>,
    .sigmoid = Operate<FiddlerSigmoid, Sigmoid>,
    .route = Operate<FiddlerRoute, Route>,
    .ffn = Operate<FiddlerFfn, Ffn>,
    .read_probe = QueueReadProbe,
    .product_probe = QueueProductProbe,
};

constexpr int32_t kUnusable = FIDDLER_NO_DEVICE + 1;

int32_t Open(uint32_t abi_version, const FiddlerOpenOptions* options, const FiddlerDeviceApi** api,
             FiddlerDevice** device, std::string& error) {
  try {
    if (abi_version != FIDDLER_DEVICE_ABI) {
      Fail("another version: expected a program for version %u, got one for %u", FIDDLER_DEVICE_ABI,
           abi_version);
    }
    RequirePointer(options, "options");
    RequirePointer(api, "api");
    RequirePointer(device, "device");
    *device = new FiddlerDevice(*options);
    *api = &kApi;
    return 0;
  } catch (const NoDevice& reason) {
    error = reason.what();
    return FIDDLER_NO_DEVICE;
  } catch (const std::exception& reason) {
    error = reason.what();
  } catch (...) {
    error = "unknown error";
  }
  return kUnusable;
}

}  // namespace
}  // namespace fiddler::cuda

extern "C" __attribute__((visibility("default"))) int32_t fiddler_open_device(
    uint32_t abi_version, const FiddlerOpenOptions* options, const FiddlerDeviceApi** api,
    FiddlerDevice** device, char* error, uint64_t error_bytes) {
  std::string text;
  const int32_t status = fiddler::cuda::Open(abi_version, options, api, device, text);
  if (status != 0 && error != nullptr && error_bytes > 0) {
    std::snprintf(error, error_bytes, "%s", text.c_str());
  }
  return status;
}
