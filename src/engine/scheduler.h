// Which sequences a step works on, and with how many tokens each: everyone that runs gets its next token;
// what is left of the step goes to prompts, oldest first, in chunks. A sequence starts when the KV cache has
// room for all it may become, in the order of arrival; until then it waits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "kv/kv_cache.h"

namespace fiddler {

struct ScheduledWork {
  Sequence* sequence;
  int64_t tokens;  // from sequence->num_cached on
};

class Scheduler {
 public:
  struct Limits {
    int64_t batch_tokens;   // in one step; at least max_sequences
    int64_t max_sequences;  // running at once
  };

  // `pool` must outlive this object.
  Scheduler(BlockPool& pool, const Limits& limits);

  void Add(std::unique_ptr<Sequence> sequence);

  // Work of the next step, valid until the next call of any method; empty when nothing runs.
  std::span<const ScheduledWork> Schedule();

  // Takes a sequence out, wherever it is, and gives its blocks back. False if it is not here.
  bool Remove(SequenceId id);

  bool idle() const { return waiting_.empty() && running_.empty(); }

 private:
  using Queue = std::vector<std::unique_ptr<Sequence>>;

  void Admit();

  BlockPool& pool_;
  const Limits limits_;
  Queue waiting_;  // in order of arrival
  Queue running_;  // in order of arrival
  std::vector<ScheduledWork> work_;
};

}  // namespace fiddler
