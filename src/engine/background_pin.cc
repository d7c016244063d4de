#include "engine/background_pin.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace fiddler {
namespace {

// A driver does nothing else while it pins: short enough that nobody waits long.
constexpr size_t kPieceBytes = size_t{256} << 20;

}  // namespace

BackgroundPin::BackgroundPin(Device& device, const std::vector<std::span<const std::byte>>& regions)
    : device_(device) {
  for (std::span<const std::byte> region : regions) {
    bytes_ += region.size();
    while (!region.empty()) {
      pieces_.push_back(region.first(std::min(region.size(), kPieceBytes)));
      region = region.subspan(pieces_.back().size());
    }
  }
  try {
    thread_ = std::thread([this] { Work(); });
  } catch (const std::system_error& error) {
    throw Error("a thread to pin memory: {}", error.what());
  }
}

BackgroundPin::~BackgroundPin() {
  stop_ = true;
  Finish();
  for (size_t i = 0; i < pinned_pieces_; ++i) {
    try {
      device_.Unpin(pieces_[i]);
    } catch (const Error&) {
      return;  // a device that has failed lets go of everything when it is closed
    }
  }
}

std::string BackgroundPin::Finish() {
  if (thread_.joinable()) thread_.join();
  return error_;
}

void BackgroundPin::Work() {
  try {
    for (const std::span<const std::byte> piece : pieces_) {
      if (stop_) return;
      device_.Pin(piece);
      ++pinned_pieces_;
      pinned_bytes_.fetch_add(piece.size(), std::memory_order_release);
    }
  } catch (const Error& error) {
    error_ = error.what();
    failed_.store(true, std::memory_order_release);
  }
}

}  // namespace fiddler
