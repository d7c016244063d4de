// A fixed team of threads for short parallel regions. The calling thread is worker 0 and works too; the
// others spin briefly between regions and then sleep. Regions neither allocate nor lock.
//
// One thread at a time may start regions; regions do not nest. The first exception a body throws is rethrown
// by the call that started the region, after every worker has left it.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/topology.h"

namespace fiddler {

class ThreadPool {
 public:
  // `num_threads` counts the caller. Where there is one core for each, workers are pinned to the topology's
  // cores, the calling thread too as long as the pool lives: two on one core would halve the speed of both.
  // Throws Error if the system refuses a thread.
  ThreadPool(int num_threads, const Topology& topology);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Where the thread that made the pool might run before it was pinned: where threads beside the pool belong.
  // Nothing if it was not pinned.
  const std::optional<cpu_set_t>& caller_affinity() const { return caller_affinity_; }

  // Calls body(worker) once on every worker.
  template <typename Body>
  void Run(Body&& body) {
    RunErased(
        [](void* context, int worker) { (*static_cast<std::remove_reference_t<Body>*>(context))(worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Calls body(index, worker) for every index in [0, count), each once, handed out one at a time in order.
  template <typename Body>
  void ParallelFor(int64_t count, Body&& body) {
    if (count <= 0) return;
    if (count == 1 || threads_.empty()) {
      for (int64_t index = 0; index < count; ++index) body(index, 0);
      return;
    }
    next_index_.store(0, std::memory_order_relaxed);
    Run([&](int worker) {
      for (int64_t index; (index = next_index_.fetch_add(1, std::memory_order_relaxed)) < count;) {
        body(index, worker);
      }
    });
  }

 private:
  using Function = void (*)(void* context, int worker);

  void RunErased(Function function, void* context);
  void Stop();
  void WorkerLoop(int worker);
  void Work(int worker) noexcept;  // runs the current job, keeps its exception

  // The job: written by the caller before `generation_` moves on, read by workers after.
  Function function_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // written by the first worker that sets failed_

  alignas(64) std::atomic<uint32_t> generation_{0};  // one more for each region
  alignas(64) std::atomic<uint32_t> running_{0};     // workers, the caller apart, still in the region
  alignas(64) std::atomic<int64_t> next_index_{0};   // of ParallelFor

  std::vector<std::jthread> threads_;
  std::optional<cpu_set_t> caller_affinity_;  // of the calling thread before it was pinned
};

// The half-open range of `count` items that part `index` of `parts` gets; parts differ by at most one
// `grain`, and every boundary but the last is a multiple of `grain`.
struct Range {
  int64_t begin;
  int64_t end;
};
Range SplitRange(int64_t count, int64_t parts, int64_t index, int64_t grain = 1);

}  // namespace fiddler
