// What people see on stderr: notes, and a progress line with rate and time left where stderr is a terminal.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <string>
#include <utility>

#include "base/progress.h"

namespace fiddler {

template <typename... Args>
void Note(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "{}\n", fmt::format(format, std::forward<Args>(args)...));
}

// Draws nothing in a pipe, nothing for work of less than half a second.
class TerminalProgress final : public Progress {
 public:
  enum class Unit : uint8_t { kBytes, kTokens, kSeconds };

  explicit TerminalProgress(Unit unit = Unit::kBytes) : unit_(unit) {}

  void Start(std::string_view what, uint64_t total_bytes) override;
  void Advance(uint64_t bytes) override;
  void Finish() override;

 private:
  using Clock = std::chrono::steady_clock;

  void Draw(Clock::time_point now);

  const Unit unit_;
  const bool is_terminal_ = isatty(STDERR_FILENO) == 1;
  std::atomic<uint64_t> done_{0};
  std::mutex mutex_;  // guards what is below
  std::string what_;
  uint64_t total_ = 0;
  Clock::time_point start_;
  Clock::time_point last_draw_;
  bool drawn_ = false;
};

}  // namespace fiddler
