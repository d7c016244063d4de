// A request and how far it has come. Plain data with its invariants in the comments; the Engine owns and
// moves it on.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/sampler.h"
#include "kv/block_pool.h"

namespace fiddler {

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 64;      // to generate, at least one
  SamplingParams sampling = {};
  std::vector<int32_t> stop_tokens = {};  // generation ends with any of them
};

enum class FinishReason : uint8_t {
  kLength,  // max_tokens generated
  kStop,    // a stop token came; it is part of the output
};

using SequenceId = int64_t;

struct Sequence {
  Sequence(SequenceId sequence_id, Request sequence_request, int64_t vocab_size)
      : id(sequence_id),
        request(std::move(sequence_request)),
        sampler(request.sampling, vocab_size),
        tokens(request.prompt) {
    tokens.reserve(static_cast<size_t>(max_length()));  // so that decoding allocates nothing
  }

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_generated() const { return length() - static_cast<int64_t>(request.prompt.size()); }
  int64_t max_length() const { return static_cast<int64_t>(request.prompt.size()) + request.max_tokens; }

  SequenceId id;
  Request request;
  Sampler sampler;
  std::vector<int32_t> tokens;       // prompt, then what was generated
  int64_t num_cached = 0;            // leading tokens whose keys and values are in the cache; below length()
  std::vector<BlockId> block_table;  // room for max_length() tokens while running, else empty
};

}  // namespace fiddler
