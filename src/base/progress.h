// How long work reports how far it is. Libraries call it; only the command line draws it (cli/terminal.cc).
#pragma once

#include <cstdint>
#include <string_view>

namespace fiddler {

class Progress {
 public:
  virtual ~Progress() = default;
  virtual void Start(std::string_view what, uint64_t total_bytes) = 0;
  virtual void Advance(uint64_t bytes) = 0;  // may be called from any thread
  virtual void Finish() = 0;
};

// Reports nothing.
class NoProgress final : public Progress {
 public:
  void Start(std::string_view, uint64_t) override {}
  void Advance(uint64_t) override {}
  void Finish() override {}
};

}  // namespace fiddler
