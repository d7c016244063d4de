#include "sim/routing_trace.h"

#include <concepts>
#include <limits>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/file.h"

namespace fiddler {
namespace {

constexpr std::string_view kMagic = "FIDROUTE";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 8 + 4 * 4 + 2 * 8;
constexpr size_t kChecksumBytes = 8;
constexpr size_t kMaxFileBytes = size_t{4} << 30;
constexpr int64_t kMaxLayers = 65536;
constexpr int64_t kMaxExperts = 65536;  // ids have 16 bits

template <std::unsigned_integral T>
void Append(std::string& bytes, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

// Takes numbers from the front of bytes that are known to be there.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <std::unsigned_integral T>
  T Take() {
    CHECK(bytes_.size() >= sizeof(T), "{} bytes left", bytes_.size());
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value |= uint64_t{static_cast<unsigned char>(bytes_[i])} << (8 * i);
    }
    bytes_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }

 private:
  std::string_view bytes_;
};

// The first of some tokens' ids, [.., top_k], that is no expert or that its token has already; experts.size()
// if all are right.
size_t FirstWrongId(const RoutingGeometry& geometry, std::span<const uint16_t> experts) {
  std::vector<size_t> last_token(static_cast<size_t>(geometry.num_experts));  // that had the expert; from 1
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t token = i / static_cast<size_t>(geometry.top_k) + 1;
    if (experts[i] >= geometry.num_experts || last_token[experts[i]] == token) return i;
    last_token[experts[i]] = token;
  }
  return experts.size();
}

void RequireInRange(std::string_view source, std::string_view field, int64_t low, int64_t high, int64_t got) {
  if (got < low || got > high)
    throw Error("{}: {}: expected {} to {}, got {}", source, field, low, high, got);
}

// Bytes of a file; nothing if there is no such number.
bool FileBytes(const RoutingGeometry& geometry, uint64_t num_steps, uint64_t num_tokens, uint64_t* bytes) {
  uint64_t steps_bytes = 0;
  uint64_t experts_bytes = 0;
  const uint64_t token_bytes = static_cast<uint64_t>(geometry.num_layers * geometry.top_k) * sizeof(uint16_t);
  return !__builtin_mul_overflow(num_steps, sizeof(uint32_t), &steps_bytes) &&
         !__builtin_mul_overflow(num_tokens, token_bytes, &experts_bytes) &&
         !__builtin_add_overflow(steps_bytes, experts_bytes, bytes) &&
         !__builtin_add_overflow(*bytes, kHeaderBytes + kChecksumBytes, bytes);
}

}  // namespace

RoutingTrace::RoutingTrace(const RoutingGeometry& geometry) : geometry_(geometry) {
  CHECK(geometry.num_layers >= 1 && geometry.num_layers <= kMaxLayers, "{} layers", geometry.num_layers);
  CHECK(geometry.num_experts >= 1 && geometry.num_experts <= kMaxExperts, "{} experts", geometry.num_experts);
  CHECK(geometry.top_k >= 1 && geometry.top_k <= geometry.num_experts, "top {}", geometry.top_k);
}

void RoutingTrace::AddStep(int64_t tokens, std::span<const uint16_t> experts) {
  CHECK(tokens >= 1 && tokens <= std::numeric_limits<uint32_t>::max(), "{} tokens", tokens);
  CHECK(experts.size() == static_cast<size_t>(geometry_.num_layers * tokens * geometry_.top_k),
        "{} ids for {} tokens", experts.size(), tokens);
  const size_t wrong = FirstWrongId(geometry_, experts);
  CHECK(wrong == experts.size(), "expert {} at {}", experts[wrong], wrong);
  experts_.insert(experts_.end(), experts.begin(), experts.end());
  first_token_.push_back(first_token_.back() + tokens);
}

std::span<const uint16_t> RoutingTrace::Experts(int64_t step, int64_t layer) const {
  CHECK(step >= 0 && step < num_steps() && layer >= 0 && layer < geometry_.num_layers, "step {}, layer {}",
        step, layer);
  const int64_t first = first_token_[static_cast<size_t>(step)] * geometry_.num_layers + tokens(step) * layer;
  return std::span(experts_).subspan(static_cast<size_t>(first * geometry_.top_k),
                                     static_cast<size_t>(tokens(step) * geometry_.top_k));
}

std::string SerializeRoutingTrace(const RoutingTrace& trace) {
  const RoutingGeometry& geometry = trace.geometry();
  std::string bytes(kMagic);
  uint64_t size = 0;
  CHECK(FileBytes(geometry, static_cast<uint64_t>(trace.num_steps()),
                  static_cast<uint64_t>(trace.num_tokens()),
                  &size));  // it is in memory
  bytes.reserve(size);
  Append(bytes, kVersion);
  Append(bytes, static_cast<uint32_t>(geometry.num_layers));
  Append(bytes, static_cast<uint32_t>(geometry.num_experts));
  Append(bytes, static_cast<uint32_t>(geometry.top_k));
  Append(bytes, static_cast<uint64_t>(trace.num_steps()));
  Append(bytes, static_cast<uint64_t>(trace.num_tokens()));
  for (int64_t step = 0; step < trace.num_steps(); ++step) {
    Append(bytes, static_cast<uint32_t>(trace.tokens(step)));
  }
  for (int64_t step = 0; step < trace.num_steps(); ++step) {
    for (int64_t layer = 0; layer < geometry.num_layers; ++layer) {
      for (const uint16_t expert : trace.Experts(step, layer)) Append(bytes, expert);
    }
  }
  Append(bytes, Fnv1a(bytes));
  CHECK(bytes.size() == size);
  return bytes;
}

RoutingTrace ParseRoutingTrace(std::string_view bytes, std::string_view source) {
  if (!bytes.starts_with(kMagic)) throw Error("{}: expected a routing trace, got something else", source);
  if (bytes.size() < kHeaderBytes + kChecksumBytes) {
    throw Error("{}: expected a routing trace of at least {} bytes, got {}", source,
                kHeaderBytes + kChecksumBytes, bytes.size());
  }
  Reader reader(bytes.substr(kMagic.size()));
  const uint32_t version = reader.Take<uint32_t>();
  if (version != kVersion) throw Error("{}: version: expected {}, got {}", source, kVersion, version);
  RoutingGeometry geometry;
  geometry.num_layers = reader.Take<uint32_t>();
  geometry.num_experts = reader.Take<uint32_t>();
  geometry.top_k = reader.Take<uint32_t>();
  RequireInRange(source, "num_layers", 1, kMaxLayers, geometry.num_layers);
  RequireInRange(source, "num_experts", 1, kMaxExperts, geometry.num_experts);
  RequireInRange(source, "top_k", 1, geometry.num_experts, geometry.top_k);

  // From here on the counts are those of a file as long as this one: nothing is allocated for less.
  const uint64_t num_steps = reader.Take<uint64_t>();
  const uint64_t num_tokens = reader.Take<uint64_t>();
  uint64_t size = 0;
  if (!FileBytes(geometry, num_steps, num_tokens, &size)) {
    throw Error("{}: num_steps and num_tokens: expected those of a file of {} bytes, got {} and {}", source,
                bytes.size(), num_steps, num_tokens);
  }
  if (size != bytes.size()) {
    throw Error("{}: size: expected {} bytes for {} steps with {} tokens, got {}", source, size, num_steps,
                num_tokens, bytes.size());
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kChecksumBytes);
  const uint64_t checksum = Reader(bytes.substr(body.size())).Take<uint64_t>();
  if (Fnv1a(body) != checksum) {
    throw Error("{}: checksum: expected {:016x}, got {:016x}", source, checksum, Fnv1a(body));
  }

  RoutingTrace trace(geometry);
  trace.first_token_.reserve(num_steps + 1);
  for (uint64_t step = 0; step < num_steps; ++step) {
    const int64_t tokens = reader.Take<uint32_t>();
    const int64_t left = static_cast<int64_t>(num_tokens) - trace.num_tokens();
    if (tokens < 1 || tokens > left) {
      throw Error("{}: tokens of step {}: expected 1 to {}, got {}", source, step, left, tokens);
    }
    trace.first_token_.push_back(trace.num_tokens() + tokens);
  }
  if (trace.num_tokens() != static_cast<int64_t>(num_tokens)) {
    throw Error("{}: num_tokens: expected {} as the steps have, got {}", source, trace.num_tokens(),
                num_tokens);
  }
  trace.experts_.resize(static_cast<size_t>(num_tokens) *
                        static_cast<size_t>(geometry.num_layers * geometry.top_k));
  for (uint16_t& expert : trace.experts_) expert = reader.Take<uint16_t>();
  const size_t wrong = FirstWrongId(geometry, trace.experts_);
  if (wrong != trace.experts_.size()) {
    throw Error("{}: expert id {} of {}: expected one below {} that its token does not have yet, got {}",
                source, wrong, trace.experts_.size(), geometry.num_experts, trace.experts_[wrong]);
  }
  return trace;
}

void WriteRoutingTrace(const RoutingTrace& trace, const std::filesystem::path& path) {
  WriteFileAtomically(path, SerializeRoutingTrace(trace));
}

RoutingTrace ReadRoutingTrace(const std::filesystem::path& path) {
  return ParseRoutingTrace(ReadFile(path, kMaxFileBytes), path.string());
}

}  // namespace fiddler
