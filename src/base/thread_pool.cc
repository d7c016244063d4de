#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

// How often to look before sleeping: about 50 us, the length of the serial code between two regions of a
// token.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`: spins, then sleeps in the kernel.
void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void PinThisThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set),
                         &set);  // a hint: refused in some sandboxes, and that is fine
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, const Topology& topology) {
  CHECK(num_threads >= 1, "num_threads {}", num_threads);
  const bool pin = num_threads == static_cast<int>(topology.cores.size());
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  if (cpu_set_t before; pin && sched_getaffinity(0, sizeof(before), &before) == 0) {
    caller_affinity_ = before;
    PinThisThread(topology.cores.front().cpu);
  }
  for (int worker = 1; worker < num_threads; ++worker) {
    const int cpu = pin ? topology.cores[static_cast<size_t>(worker)].cpu : -1;
    try {
      threads_.emplace_back([this, worker, cpu] {
        if (cpu >= 0) PinThisThread(cpu);
        WorkerLoop(worker);
      });
    } catch (const std::system_error& error) {
      Stop();  // the threads that started would wait forever
      throw Error("threads: expected to start {}, got {}: {}", num_threads, worker, error.what());
    }
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  if (caller_affinity_) sched_setaffinity(0, sizeof(*caller_affinity_), &*caller_affinity_);
}

void ThreadPool::RunErased(Function function, void* context) {
  function_ = function;
  context_ = context;
  failed_.store(false, std::memory_order_relaxed);
  running_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  Work(0);
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) WaitWhile(running_, left);
  if (failed_.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::WorkerLoop(int worker) {
  for (uint32_t seen = 0;;) {
    WaitWhile(generation_, seen);
    ++seen;  // a region ends only when every worker left it, so none is skipped
    if (stop_) return;
    Work(worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_all();
  }
}

void ThreadPool::Work(int worker) noexcept {
  try {
    function_(context_, worker);
  } catch (...) {
    if (!failed_.exchange(true, std::memory_order_acq_rel)) failure_ = std::current_exception();
  }
}

Range SplitRange(int64_t count, int64_t parts, int64_t index, int64_t grain) {
  const int64_t grains = (count + grain - 1) / grain;
  const auto boundary = [&](int64_t part) { return std::min(count, grains * part / parts * grain); };
  return {boundary(index), boundary(index + 1)};
}

}  // namespace fiddler
