#include "io/parallel_blocks.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/check.h"

namespace fiddler {

void ForEachBlock(size_t num_blocks, unsigned threads, const std::function<void(size_t)>& work) {
  CHECK(threads > 0);
  std::atomic<size_t> next = 0;
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto take_blocks = [&] {
    try {
      for (size_t block = next++; block < num_blocks; block = next++) work(block);
    } catch (...) {
      next = num_blocks;
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;  // join where they go out of scope
    const size_t extra = std::min<size_t>(threads, num_blocks) - (num_blocks > 0 ? 1 : 0);
    workers.reserve(extra);
    try {
      while (workers.size() < extra) workers.emplace_back(take_blocks);
    } catch (const std::system_error&) {
      // The system has no more threads to give: those there are do all the work.
    }
    take_blocks();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fiddler
