#include "cli/terminal.h"

#include <algorithm>

#include "base/units.h"

namespace fiddler {

void TerminalProgress::Start(std::string_view what, uint64_t total_bytes) {
  const std::lock_guard lock(mutex_);
  what_ = what;
  total_ = total_bytes;
  done_ = 0;
  start_ = last_draw_ = Clock::now();
  drawn_ = false;
}

void TerminalProgress::Advance(uint64_t bytes) {
  done_ += bytes;
  if (!is_terminal_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);  // another thread is drawing: its line will do
  const Clock::time_point now = Clock::now();
  if (lock && now - last_draw_ > std::chrono::milliseconds(drawn_ ? 100 : 500)) Draw(now);
}

void TerminalProgress::Draw(Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(done_.load());
  const double rate = done / std::max(seconds, 1e-3);
  const double left = std::max(0.0, static_cast<double>(total_) - done) /
                      std::max(rate, unit_ == Unit::kSeconds ? 1e-3 : 1.0);
  const std::string amounts = [&] {
    switch (unit_) {
      case Unit::kBytes:
        return fmt::format("{} of {}, {:.2f} GB/s", FormatBytes(done_), FormatBytes(total_), rate / 1e9);
      case Unit::kTokens:
        return fmt::format("{} of {} tokens, {:.0f} tokens/s", done_.load(), total_, rate);
      case Unit::kSeconds:
        return fmt::format("{} of {} s", done_.load(), total_);
    }
    __builtin_unreachable();
  }();
  fmt::print(stderr, "\r\033[K{}: {}, {:.0f} s left", what_, amounts, left);
  std::fflush(stderr);
  last_draw_ = now;
  drawn_ = true;
}

void TerminalProgress::Finish() {
  const std::lock_guard lock(mutex_);
  if (!drawn_) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
}

}  // namespace fiddler
