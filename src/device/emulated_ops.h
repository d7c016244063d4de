// What the operations of the emulated device do: the CPU's kernels, spread over some threads, on memory whose
// every operand is checked before anything is touched.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <variant>
#include <vector>

#include "device/emulated_memory.h"
#include "device/operands.h"
#include "device/plugin.h"
#include "device/workers.h"
#include "kernels/ops.h"

namespace fiddler::emulated {

// FiddlerFfn with its host arrays copied.
struct FfnWork {
  struct Slices {
    FiddlerSlices args = {};  // rows and weights point nowhere
    bool has_rows = false;
    bool has_weights = false;
    std::vector<int32_t> rows;   // [tokens]
    std::vector<float> weights;  // [tokens]
  };

  explicit FfnWork(const FiddlerFfn& ffn);

  FiddlerFfn args;
  std::vector<Slices> entries;
};

struct ReadProbe {
  FiddlerAddress data = 0;
  uint64_t bytes = 0;
};
struct ProductProbe {
  int64_t rounds = 0;
};

// shared_ptr: a segment and its launches, still queued, have the same arrays.
using Operation =
    std::variant<FiddlerRmsNorm, FiddlerMatMul, FiddlerRotateStore, FiddlerAttend, FiddlerAdd, FiddlerSigmoid,
                 FiddlerRoute, std::shared_ptr<const FfnWork>, ReadProbe, ProductProbe>;

// Between host and device memory, in two steps, between which the destination holds nothing.
struct Copy {
  bool to_device = false;
  FiddlerAddress device = 0;
  std::byte* host = nullptr;
  uint64_t bytes = 0;
};

struct Clear {
  FiddlerAddress to = 0;
  uint64_t bytes = 0;
};

// Memory for what an operation computes on the way; grows to what the largest needed. Move-only.
class Scratch {
 public:
  std::byte* Bytes(int64_t bytes);  // on a cache line; until the next call
  float* Floats(int64_t count) {
    return reinterpret_cast<float*>(Bytes(count * static_cast<int64_t>(sizeof(float))));
  }

 private:
  struct FreeAligned {
    void operator()(std::byte* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, FreeAligned> data_;
  int64_t bytes_ = 0;
};

// One thread at a time.
class EmulatedOps {
 public:
  // All must outlive this object.
  EmulatedOps(const EmulatedMemory& memory, const CpuKernels& kernels, Workers workers)
      : memory_(memory), kernels_(kernels), workers_(workers) {}

  virtual ~EmulatedOps() = default;

  // Throw Error if an operand is not what it must be.
  virtual void Run(const Operation& operation);
  void Run(const Clear& clear);
  void Begin(const Copy& copy);  // poisons device memory; that of the host was when the copy was asked for
  void End(const Copy& copy);
  virtual double OperationsOf(const ProductProbe& probe) const;
  // What operations may compute in; these ones have memory of their own.
  virtual void SetScratch(FiddlerAddress, uint64_t) {}

 protected:
  const EmulatedMemory& memory() const { return memory_; }

 private:
  // The tokens of a batch, looked up in device memory.
  struct Batch;
  struct Stretch;

  void Do(const FiddlerRmsNorm& args);
  void Do(const FiddlerMatMul& args);
  void Do(const FiddlerRotateStore& args);
  void Do(const FiddlerAttend& args);
  void Do(const FiddlerAdd& args);
  void Do(const FiddlerSigmoid& args);
  void Do(const FiddlerRoute& args);
  void Do(const std::shared_ptr<const FfnWork>& work);
  void Do(const ReadProbe& probe);
  void Do(const ProductProbe& probe);

  void Pack(PackArgs args);  // all tiles
  // Looks at `window` positions of each token, or all before it if that is 0.
  Batch Resolve(const FiddlerBatch& args, const FiddlerKv& kv, int64_t window,
                const Operands& operands) const;

  const EmulatedMemory& memory_;
  const CpuKernels& kernels_;
  const Workers workers_;
  Scratch packed_;    // x of products
  Scratch packed_h_;  // activations of FFNs
  Scratch per_worker_;
};

}  // namespace fiddler::emulated
