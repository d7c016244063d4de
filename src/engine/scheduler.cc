#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {

Scheduler::Scheduler(BlockPool& pool, const Limits& limits) : pool_(pool), limits_(limits) {
  CHECK(limits.max_sequences >= 1 && limits.batch_tokens >= limits.max_sequences, "{} sequences, {} tokens",
        limits.max_sequences, limits.batch_tokens);
  running_.reserve(static_cast<size_t>(limits.max_sequences));
  work_.reserve(static_cast<size_t>(limits.max_sequences));
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

void Scheduler::Admit() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_sequences) {
    Sequence& next = *waiting_.front();
    const int64_t blocks = KvCache::BlocksFor(next.max_length());
    if (blocks > pool_.num_free()) return;  // first come, first served: nobody overtakes
    next.block_table.reserve(static_cast<size_t>(blocks));
    while (static_cast<int64_t>(next.block_table.size()) < blocks)
      next.block_table.push_back(*pool_.TryTake());
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
}

std::span<const ScheduledWork> Scheduler::Schedule() {
  Admit();
  work_.clear();
  int64_t left = limits_.batch_tokens;
  const auto take = [&](Sequence& sequence) {
    const int64_t tokens = std::min(sequence.length() - sequence.num_cached, left);
    if (tokens > 0) work_.push_back({&sequence, tokens});
    left -= tokens;
  };
  const auto is_decoding = [](const Sequence& sequence) {
    return sequence.length() - sequence.num_cached == 1;
  };
  for (const auto& sequence : running_) {
    if (is_decoding(*sequence)) take(*sequence);
  }
  for (const auto& sequence : running_) {
    if (!is_decoding(*sequence)) take(*sequence);
  }
  return work_;
}

bool Scheduler::Remove(SequenceId id) {
  for (Queue* queue : {&running_, &waiting_}) {
    const auto it =
        std::find_if(queue->begin(), queue->end(), [id](const auto& sequence) { return sequence->id == id; });
    if (it == queue->end()) continue;
    for (BlockId block : (*it)->block_table) pool_.Return(block);
    queue->erase(it);
    return true;
  }
  return false;
}

}  // namespace fiddler
