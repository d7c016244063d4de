// The emulated device behind the table of C functions, so that everything that uses it crosses the border.
#include "device/emulated.h"

#include <exception>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "device/command_queues.h"
#include "device/emulated_memory.h"
#include "device/emulated_ops.h"
#include "device/pinned_memory.h"
#include "device/workers.h"

// What the table's functions get. Members die from the last to the first: the queues, and their thread,
// before what their commands use.
struct FiddlerDevice {
  FiddlerDevice(const fiddler::EmulatorOptions& options, const fiddler::CpuKernels& kernels)
      : memory(options.memory_bytes, fiddler::emulated::Workers(options.pool)),
        ops(MakeOps(options, memory, kernels)),
        queues(*ops, fiddler::emulated::Streams(pinned, options.drop_wait),
               fiddler::emulated::Schedule(options.adversary_seed),
               /*threaded=*/options.pool == nullptr) {}

  static std::unique_ptr<fiddler::emulated::EmulatedOps> MakeOps(
      const fiddler::EmulatorOptions& options, const fiddler::emulated::EmulatedMemory& memory,
      const fiddler::CpuKernels& kernels) {
    const fiddler::emulated::Workers workers(options.pool);
    if (options.make_ops) return options.make_ops(memory, kernels, workers);
    return std::make_unique<fiddler::emulated::EmulatedOps>(memory, kernels, workers);
  }

  fiddler::emulated::EmulatedMemory memory;
  fiddler::emulated::PinnedMemory pinned;
  std::unique_ptr<fiddler::emulated::EmulatedOps> ops;
  fiddler::emulated::CommandQueues queues;
};

namespace fiddler {
namespace {

using emulated::AwaitFlag;
using emulated::Command;
using emulated::FfnWork;
using emulated::Operation;
using emulated::PostFlag;
using emulated::RecordEvent;
using emulated::Streams;
using emulated::WaitEvent;

// Of the calling thread, as plugin.h has it.
thread_local std::string last_error;

// No exception leaves: what `body` throws becomes a status and a text.
template <typename Body>
int32_t Call(const Body& body) noexcept {
  last_error.clear();
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error";
  }
  return 1;
}

// The same, for all that is of no use on a device that has failed.
template <typename Body>
int32_t CallIfAlive(FiddlerDevice* device, const Body& body) noexcept {
  return Call([&] {
    device->queues.ThrowIfFailed();
    body();
  });
}

// `release` runs once nothing uses the memory any more, on a device that has failed too.
template <typename Release>
int32_t CallOnceDone(FiddlerDevice* device, std::string_view call, const Release& release) noexcept {
  return Call([&] {
    device->queues.Drain(call);
    release();
    device->queues.ThrowIfFailed();
  });
}

// For what changes what is queued: edit(Streams&).
template <typename Editing>
int32_t Edit(FiddlerDevice* device, const Editing& edit) noexcept {
  return CallIfAlive(device, [&] { device->queues.Edit(edit); });
}

int32_t Push(FiddlerDevice* device, FiddlerStream stream, Command command) noexcept {
  return Edit(device, [&](Streams& streams) { streams.Push(stream, std::move(command)); });
}

template <typename T>
void RequirePointer(const T* pointer, std::string_view what) {
  if (pointer == nullptr) throw Error("{}: a null pointer", what);
}

const char* ErrorText(FiddlerDevice*) { return last_error.c_str(); }
const char* Name(FiddlerDevice*) { return kEmulatedDeviceName; }
void Close(FiddlerDevice* device) { delete device; }

int32_t Memory(FiddlerDevice* device, FiddlerMemory* memory) {
  return Call([&] {
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
    device->queues.Drain("set_scratch");
    device->memory.Translate(address, bytes, fiddler::emulated::EmulatedMemory::kAlignment, "set_scratch");
    device->ops->SetScratch(address, bytes);
  });
}

int32_t AllocatePinned(FiddlerDevice* device, uint64_t bytes, void** data) {
  return CallIfAlive(device, [&] {
    RequirePointer(data, "allocate_pinned");
    *data = device->pinned.Allocate(bytes);
  });
}

int32_t ReleasePinned(FiddlerDevice* device, void* data) {
  return CallOnceDone(device, "release_pinned", [&] { device->pinned.Release(data); });
}

int32_t Pin(FiddlerDevice* device, const void* data, uint64_t bytes) {
  return CallIfAlive(device, [&] { device->pinned.Pin(data, bytes); });
}

int32_t Unpin(FiddlerDevice* device, const void* data) {
  return CallOnceDone(device, "unpin", [&] { device->pinned.Unpin(data); });
}

int32_t CreateStream(FiddlerDevice* device, FiddlerStream* stream) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(stream, "create_stream");
    *stream = streams.CreateStream();
  });
}

int32_t CreateEvent(FiddlerDevice* device, FiddlerEvent* event) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(event, "create_event");
    *event = streams.CreateEvent();
  });
}

int32_t Record(FiddlerDevice* device, FiddlerStream stream, FiddlerEvent event) {
  return Push(device, stream, RecordEvent{.event = event});
}

int32_t WaitForEvent(FiddlerDevice* device, FiddlerStream stream, FiddlerEvent event) {
  return Push(device, stream, WaitEvent{.event = event});
}

int32_t Synchronize(FiddlerDevice* device, FiddlerStream stream) {
  return CallIfAlive(device, [&] { device->queues.Synchronize(stream); });
}

int32_t CopyIn(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress to, const void* from,
               uint64_t bytes) {
  return Edit(device, [&](Streams& streams) {
    if (bytes > 0) RequirePointer(from, "copy_in: from");
    auto* const host = static_cast<std::byte*>(const_cast<void*>(from));  // read only: to_device
    streams.Push(stream, emulated::Copy{.to_device = true, .device = to, .host = host, .bytes = bytes});
  });
}

int32_t CopyOut(FiddlerDevice* device, FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes) {
  return Edit(device, [&](Streams& streams) {
    if (bytes > 0) RequirePointer(to, "copy_out: to");
    auto* const host = static_cast<std::byte*>(to);
    streams.Push(stream, emulated::Copy{.to_device = false, .device = from, .host = host, .bytes = bytes});
  });
}

int32_t ClearMemory(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress to, uint64_t bytes) {
  return Push(device, stream, emulated::Clear{.to = to, .bytes = bytes});
}

int32_t Post(FiddlerDevice* device, FiddlerStream stream, uint32_t* flag) {
  return Push(device, stream, PostFlag{.flag = flag});
}

int32_t Await(FiddlerDevice* device, FiddlerStream stream, uint32_t* flag) {
  return Push(device, stream, AwaitFlag{.flag = flag});
}

int32_t SetFlag(FiddlerDevice* device, uint32_t* flag) {
  return CallIfAlive(device, [&] {
    device->pinned.RequireFlag(flag, "set_flag");
    device->queues.SetFlag(flag);
  });
}

int32_t WaitFlag(FiddlerDevice* device, uint32_t* flag, double seconds) {
  return CallIfAlive(device, [&] {
    device->pinned.RequireFlag(flag, "wait_flag");
    device->queues.WaitFlag(flag, seconds);
  });
}

int32_t BeginCapture(FiddlerDevice* device, FiddlerStream stream) {
  return Edit(device, [&](Streams& streams) { streams.BeginCapture(stream); });
}

int32_t EndCapture(FiddlerDevice* device, FiddlerStream stream, FiddlerSegment* segment) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(segment, "end_capture");
    *segment = streams.EndCapture(stream);
  });
}

int32_t Launch(FiddlerDevice* device, FiddlerStream stream, FiddlerSegment segment) {
  return Edit(device, [&](Streams& streams) { streams.Launch(stream, segment); });
}

int32_t ReleaseSegment(FiddlerDevice* device, FiddlerSegment segment) {
  return Edit(device, [&](Streams& streams) { streams.ReleaseSegment(segment); });
}

// Any operation whose arguments hold no pointers.
template <typename Args>
int32_t Operate(FiddlerDevice* device, FiddlerStream stream, const Args* args) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(args, "arguments");
    streams.Push(stream, Operation(*args));
  });
}

int32_t Ffn(FiddlerDevice* device, FiddlerStream stream, const FiddlerFfn* args) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(args, "ffn");
    streams.Push(stream, Operation(std::make_shared<const FfnWork>(*args)));
  });
}

int32_t ReadProbe(FiddlerDevice* device, FiddlerStream stream, FiddlerAddress data, uint64_t bytes) {
  return Push(device, stream, Operation(emulated::ReadProbe{.data = data, .bytes = bytes}));
}

int32_t ProductProbe(FiddlerDevice* device, FiddlerStream stream, int64_t rounds, double* operations) {
  return Edit(device, [&](Streams& streams) {
    RequirePointer(operations, "product_probe: operations");
    const emulated::ProductProbe probe = {.rounds = rounds};
    *operations = device->ops->OperationsOf(probe);
    streams.Push(stream, Operation(probe));
  });
}

constexpr FiddlerDeviceApi kEmulatedApi = {
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
    .clear = ClearMemory,
    .post = Post,
    .await = Await,
    .set_flag = SetFlag,
    .wait_flag = WaitFlag,
    .begin_capture = BeginCapture,
    .end_capture = EndCapture,
    .launch = Launch,
    .release_segment = ReleaseSegment,
    .rms_norm = Operate<FiddlerRmsNorm>,
    .mat_mul = Operate<FiddlerMatMul>,
    .rotate_store = Operate<FiddlerRotateStore>,
    .attend = Operate<FiddlerAttend>,
    .add = Operate<FiddlerAdd>,
    .sigmoid = Operate<FiddlerSigmoid>,
    .route = Operate<FiddlerRoute>,
    .ffn = Ffn,
    .read_probe = ReadProbe,
    .product_probe = ProductProbe,
};

}  // namespace

std::unique_ptr<Device> OpenEmulatedDevice(const EmulatorOptions& options, const CpuKernels& kernels) {
  return std::make_unique<Device>(kEmulatedApi, new FiddlerDevice(options, kernels));
}

int64_t EmulatedWaits(Device& device) {
  CHECK(&device.api() == &kEmulatedApi, "{}", device.name());
  return device.handle()->queues.Edit([](const Streams& streams) { return streams.num_waits(); });
}

}  // namespace fiddler
