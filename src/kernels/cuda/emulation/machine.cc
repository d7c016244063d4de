#include "kernels/cuda/emulation/machine.h"

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "base/rng.h"

namespace fiddler::cuda::emulation {
namespace {

namespace context = boost::context;

constexpr unsigned kLanes = 32;
constexpr unsigned kMostThreads = 1024;  // of a block
constexpr size_t kMostShared = 227 << 10;
constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kGuardBytes = 1024;  // on either side of the shared memory
constexpr std::byte kPoison{0xff};    // NaNs
constexpr std::byte kGuard{0xa5};

float FloatOfBf16(uint32_t word, unsigned half) {
  return FloatOfBits(half == 0 ? word << 16 : word & 0xffff0000u);
}

struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;
  int group;
};

struct Thread {
  enum class State { kReady, kInWarpOperation, kAtBarrier, kDone };

  context::fiber fiber;    // suspended
  context::fiber machine;  // who goes on when this one waits
  State state = State::kDone;
  ThreadIndex index = {};
  unsigned number = 0;      // in the block
  uint64_t operations = 0;  // of its warp, so far
  std::vector<AsyncCopy> copies;
  int group = 0;
};

struct Warp {
  const char* kind = nullptr;  // of the operation in which lanes are waiting
  unsigned waiting = 0;
  alignas(16) std::byte lanes[2][kLanes * kExchangeBytes];  // of even and odd operations
};

thread_local Block* running_block = nullptr;

}  // namespace

class Block {
 public:
  explicit Block(Machine& machine) : machine_(machine) {}

  // A kernel begins.
  void Begin() { skips_.clear(); }

  void Run(dim3 index, dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body,
           Rng& rng);

  Thread& running() { return *running_; }
  std::byte* shared() { return shared_.data() + shared_begin_; }

  const std::byte* Exchange(const char* kind, const void* mine, size_t bytes);
  void Barrier();
  bool Skips(Caller where);
  void CopyAsync(void* to, const void* from, size_t bytes);
  void WaitForCopies(int in_flight);

 private:
  void Start(Thread& thread);
  void Resume(Thread& thread);
  void Suspend(Thread::State state);
  Thread* Next(Rng& rng);
  void OpenBarrier();
  void CheckGuards() const;

  Machine& machine_;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;  // those of the block first
  unsigned num_threads_ = 0;
  std::vector<Warp> warps_;
  Thread* running_ = nullptr;
  unsigned warp_ = 0;  // whose turn it is
  std::vector<std::byte> shared_;
  size_t shared_begin_ = 0;
  size_t shared_bytes_ = 0;
  std::optional<std::string> error_;
  std::map<std::pair<std::string_view, unsigned>, bool> skips_;  // by file and line
};

void Block::Run(dim3 index, dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body,
                Rng& rng) {
  body_ = &body;
  num_threads_ = size.x * size.y * size.z;
  error_.reset();
  threads_.reserve(kMostThreads);  // a fiber knows its thread by address
  if (threads_.size() < num_threads_) threads_.resize(num_threads_);
  warps_.assign(num_threads_ / kLanes, Warp());
  shared_.assign(2 * kGuardBytes + shared_bytes + 128, kGuard);
  const auto begin = reinterpret_cast<uintptr_t>(shared_.data() + kGuardBytes);
  shared_begin_ = kGuardBytes + (128 - begin % 128) % 128;
  shared_bytes_ = shared_bytes;
  std::fill_n(shared_.data() + shared_begin_, shared_bytes, kPoison);
  for (unsigned i = 0; i < num_threads_; ++i) {
    Thread& thread = threads_[i];
    thread.number = i;
    thread.index = {.thread = {i % size.x, i / size.x % size.y, i / size.x / size.y},
                    .block = {index.x, index.y, index.z},
                    .block_size = size,
                    .grid_size = grid};
    thread.state = Thread::State::kReady;
    thread.operations = 0;
    thread.copies.clear();
    thread.group = 0;
    if (!thread.fiber) Start(thread);
  }
  running_block = this;
  warp_ = static_cast<unsigned>(rng.NextBits() % warps_.size());
  while (Thread* next = Next(rng)) {
    Resume(*next);
    if (error_) break;
  }
  running_block = nullptr;
  if (!error_) CheckGuards();
  if (error_) {
    threads_.clear();  // ends those that are in the middle of something
    throw std::runtime_error(*error_);
  }
}

// A fiber serves one thread after another.
void Block::Start(Thread& thread) {
  thread.fiber = context::fiber(std::allocator_arg, context::protected_fixedsize_stack(kStackBytes),
                                [this, &thread](context::fiber&& machine) {
                                  thread.machine = std::move(machine);
                                  for (;;) {
                                    try {
                                      (*body_)();
                                    } catch (const std::exception& error) {
                                      error_ = error.what();
                                    }
                                    Suspend(Thread::State::kDone);
                                  }
                                  return std::move(thread.machine);
                                });
}

void Block::Resume(Thread& thread) {
  running_ = &thread;
  thread.fiber = std::move(thread.fiber).resume();
}

void Block::Suspend(Thread::State state) {
  Thread& thread = *running_;
  thread.state = state;
  thread.machine = std::move(thread.machine).resume();
}

// A ready lane of the warp whose turn it is, of another warp if there is none; null at the end.
Thread* Block::Next(Rng& rng) {
  const auto ready = [&](unsigned warp) -> Thread* {
    const auto first = static_cast<unsigned>(rng.NextBits() % kLanes);
    for (unsigned i = 0; i < kLanes; ++i) {
      Thread& thread = threads_[warp * kLanes + (first + i) % kLanes];
      if (thread.state == Thread::State::kReady) return &thread;
    }
    return nullptr;
  };
  for (int round = 0; round < 2; ++round) {
    if (Thread* thread = ready(warp_)) return thread;
    const auto first = static_cast<unsigned>(rng.NextBits() % warps_.size());
    for (unsigned i = 0; i < warps_.size(); ++i) {
      const unsigned warp = (first + i) % static_cast<unsigned>(warps_.size());
      if (Thread* thread = ready(warp)) {
        warp_ = warp;
        return thread;
      }
    }
    if (round == 0) OpenBarrier();
  }
  return nullptr;
}

// Nobody can go on: either all are done or all wait at a barrier.
void Block::OpenBarrier() {
  unsigned done = 0;
  unsigned waiting = 0;
  for (unsigned i = 0; i < num_threads_; ++i) {
    done += threads_[i].state == Thread::State::kDone;
    waiting += threads_[i].state == Thread::State::kAtBarrier;
  }
  if (done == num_threads_) return;
  if (waiting != num_threads_) {
    for (const Warp& warp : warps_) {
      if (warp.waiting == 0) continue;
      error_ =
          std::string(warp.kind) + ": only " + std::to_string(warp.waiting) + " lanes of a warp reach it";
      return;
    }
    error_ = "__syncthreads: " + std::to_string(waiting) + " threads wait, " + std::to_string(done) +
             " have ended";
    return;
  }
  for (unsigned i = 0; i < num_threads_; ++i) threads_[i].state = Thread::State::kReady;
}

void Block::CheckGuards() const {
  const auto intact = [](const std::byte* begin, const std::byte* end) {
    return std::all_of(begin, end, [](std::byte b) { return b == kGuard; });
  };
  const std::byte* const begin = shared_.data();
  if (!intact(begin, begin + shared_begin_) ||
      !intact(begin + shared_begin_ + shared_bytes_, begin + shared_.size())) {
    throw std::runtime_error("shared memory: a write beside its " + std::to_string(shared_bytes_) + " bytes");
  }
}

const std::byte* Block::Exchange(const char* kind, const void* mine, size_t bytes) {
  Thread& thread = *running_;
  Warp& warp = warps_[thread.number / kLanes];
  std::byte* const lanes = warp.lanes[thread.operations++ % 2];
  std::memcpy(lanes + thread.number % kLanes * kExchangeBytes, mine, bytes);
  if (warp.waiting == 0) warp.kind = kind;
  if (std::strcmp(warp.kind, kind) != 0) {
    throw std::runtime_error(std::string("lanes of a warp meet in ") + warp.kind + " and " + kind);
  }
  if (++warp.waiting < kLanes) {
    Suspend(Thread::State::kInWarpOperation);
    return lanes;
  }
  warp.waiting = 0;
  const unsigned first = thread.number / kLanes * kLanes;
  for (unsigned i = first; i < first + kLanes; ++i) threads_[i].state = Thread::State::kReady;
  return lanes;
}

void Block::Barrier() { Suspend(Thread::State::kAtBarrier); }

bool Block::Skips(Caller where) {
  const auto [found, is_new] = skips_.try_emplace({where.file, where.line}, false);
  if (is_new) {
    std::string site = where.file;
    site = site.substr(site.rfind('/') + 1) + ":" + std::to_string(where.line);
    machine_.sites_.insert(site);
    found->second = site == machine_.options.without;
  }
  return found->second;
}

void Block::CopyAsync(void* to, const void* from, size_t bytes) {
  if (!machine_.options.deferred_copies) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::fill_n(static_cast<std::byte*>(to), bytes, kPoison);
  running_->copies.push_back({to, from, bytes, running_->group});
}

void Block::WaitForCopies(int in_flight) {
  std::vector<AsyncCopy>& copies = running_->copies;
  const int begun = running_->group - in_flight;  // groups before it are waited for
  for (const AsyncCopy& copy : copies) {
    if (copy.group < begun) std::memcpy(copy.to, copy.from, copy.bytes);
  }
  std::erase_if(copies, [&](const AsyncCopy& copy) { return copy.group < begun; });
}

Machine::Machine() = default;
Machine::~Machine() = default;

void Machine::Run(const char* what, dim3 grid, dim3 block, size_t shared_bytes,
                  const std::function<void()>& thread) {
  const auto fail = [&](const std::string& why) { throw std::runtime_error(std::string(what) + ": " + why); };
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMostThreads || threads % kLanes != 0) {
    fail("expected a block of whole warps, up to 1024 threads, got " + std::to_string(threads));
  }
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (blocks == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    fail("expected a grid of 1 to 2^31 - 1 by 65535 by 65535 blocks, got " + std::to_string(grid.x) + " by " +
         std::to_string(grid.y) + " by " + std::to_string(grid.z));
  }
  if (shared_bytes > kMostShared) fail("shared memory: " + std::to_string(shared_bytes) + " bytes");
  if (!block_) block_ = std::make_unique<Block>(*this);
  block_->Begin();
  Rng rng(options.seed);
  const uint64_t first = rng.NextBits() % blocks;
  try {
    for (uint64_t i = 0; i < blocks; ++i) {
      const uint64_t b = (first + i) % blocks;
      const dim3 index(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                       static_cast<unsigned>(b / grid.x / grid.y));
      block_->Run(index, grid, block, shared_bytes, thread, rng);
    }
  } catch (const std::runtime_error& error) {
    fail(error.what());
  }
}

const ThreadIndex& Running() { return running_block->running().index; }
unsigned Lane() { return running_block->running().number % kLanes; }
std::byte* SharedMemory() { return running_block->shared(); }

const std::byte* Exchange(const char* kind, const void* mine, size_t bytes) {
  return running_block->Exchange(kind, mine, bytes);
}

void SyncThreads(Caller where) {
  if (!running_block->Skips(where)) running_block->Barrier();
}

void SyncWarp(Caller where) {
  if (running_block->Skips(where)) return;
  const int nothing = 0;
  running_block->Exchange("__syncwarp", &nothing, sizeof nothing);
}

void RequireWholeWarp(unsigned mask) {
  if (mask != 0xffffffffu) throw std::runtime_error("expected an operation of the whole warp");
}

void RequireAligned(const void* address, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
    throw std::runtime_error("an address that is no multiple of " + std::to_string(alignment));
  }
}

uint4 LoadOnce(const uint4* from) {
  RequireAligned(from, sizeof(uint4));
  return *from;
}

void CopyAsync16(void* shared, const void* global) {
  RequireAligned(shared, 16);
  RequireAligned(global, 16);
  running_block->CopyAsync(shared, global, 16);
}
void CopyAsync8(void* shared, const void* global) {
  RequireAligned(shared, 8);
  RequireAligned(global, 8);
  running_block->CopyAsync(shared, global, 8);
}
void CopyAsyncCommit() { ++running_block->running().group; }
void WaitForCopies(int in_flight, Caller where) {
  if (!running_block->Skips(where)) running_block->WaitForCopies(in_flight);
}

namespace {

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};

Fragments FragmentsOf(const std::byte* lanes, unsigned lane) {
  Fragments fragments;
  std::memcpy(&fragments, lanes + lane * kExchangeBytes, sizeof fragments);
  return fragments;
}

// The word of a that row and k / (elements of a word) lie in, and that of b.
uint32_t WordOfA(const std::byte* lanes, unsigned row, unsigned k_word) {
  return FragmentsOf(lanes, row % 8 * 4 + k_word % 4).a[row / 8 + k_word / 4 * 2];
}
uint32_t WordOfB(const std::byte* lanes, unsigned column, unsigned k_word) {
  return FragmentsOf(lanes, column * 4 + k_word % 4).b[k_word / 4];
}

// Of d's number i.
unsigned RowOf(unsigned i) { return Lane() / 4 + (i >= 2 ? 8 : 0); }
unsigned ColumnOf(unsigned i) { return Lane() % 4 * 2 + i % 2; }

}  // namespace

void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const std::byte* const lanes = Exchange("mma bf16", &mine, sizeof mine);
  for (unsigned i = 0; i < 4; ++i) {
    double sum = d[i];
    for (unsigned word = 0; word < 8; ++word) {
      const uint32_t x = WordOfA(lanes, RowOf(i), word);
      const uint32_t y = WordOfB(lanes, ColumnOf(i), word);
      for (unsigned half = 0; half < 2; ++half) {
        sum += static_cast<double>(FloatOfBf16(x, half)) * static_cast<double>(FloatOfBf16(y, half));
      }
    }
    d[i] = static_cast<float>(sum);
  }
}

void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const std::byte* const lanes = Exchange("mma u8 s8", &mine, sizeof mine);
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned word = 0; word < 8; ++word) {
      const uint32_t x = WordOfA(lanes, RowOf(i), word);
      const uint32_t y = WordOfB(lanes, ColumnOf(i), word);
      for (unsigned byte = 0; byte < 4; ++byte) {
        d[i] += static_cast<int32_t>(x >> 8 * byte & 0xff) * static_cast<int8_t>(y >> 8 * byte & 0xff);
      }
    }
  }
}

uint32_t PackBf16(float low, float high) {
  const auto round = [](float value) -> uint32_t {
    const uint32_t bits = BitsOfFloat(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return round(low) | round(high) << 16;
}

}  // namespace fiddler::cuda::emulation
