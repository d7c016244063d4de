#include "device/command_queues.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace fiddler {
namespace {

StepKind KindOf(const Command& command, bool begun) {
  if (std::holds_alternative<Copy>(command)) return begun ? StepKind::kEndCopy : StepKind::kBeginCopy;
  const bool computes = std::holds_alternative<Operation>(command) || std::holds_alternative<Clear>(command);
  return computes ? StepKind::kCompute : StepKind::kSignal;
}

uint32_t Load(const uint32_t* flag) {
  return std::atomic_ref(*const_cast<uint32_t*>(flag)).load(std::memory_order_acquire);
}

void Store(uint32_t* flag, uint32_t value) { std::atomic_ref(*flag).store(value, std::memory_order_release); }

// A flag is 0 before it is set, and 1 before it is taken.
void Turn(uint32_t* flag, uint32_t from, std::string_view call) {
  if (const uint32_t value = Load(flag); value != from) {
    throw Error("{}: the flag at {} is {}, expected {}", call, fmt::ptr(flag), value, from);
  }
  Store(flag, 1 - from);
}

}  // namespace

CommandQueues::CommandQueues(EmulatedOps& ops, const Options& options)
    : ops_(ops), options_(options), schedule_(options.adversary_seed) {
  if (options_.threaded) thread_ = std::jthread([this] { RunThread(); });
}

CommandQueues::~CommandQueues() {
  const Lock lock(mutex_);
  stopping_ = true;
  work_.notify_all();
}

void CommandQueues::ThrowIfFailed() const {
  const Lock lock(mutex_);
  ThrowIfFailedLocked();
}

void CommandQueues::ThrowIfFailedLocked() const {
  if (failure_) throw Error("{}", *failure_);
}

int64_t CommandQueues::num_waits() const {
  const Lock lock(mutex_);
  return num_waits_;
}

FiddlerStream CommandQueues::CreateStream() {
  const Lock lock(mutex_);
  streams_.emplace_back();
  return static_cast<FiddlerStream>(streams_.size()) - 1;
}

FiddlerEvent CommandQueues::CreateEvent() {
  const Lock lock(mutex_);
  tickets_.push_back(0);
  return static_cast<FiddlerEvent>(tickets_.size()) - 1;
}

CommandQueues::Stream& CommandQueues::Find(FiddlerStream stream) {
  if (stream < 0 || stream >= std::ssize(streams_)) throw Error("no stream {}", stream);
  return streams_[static_cast<size_t>(stream)];
}

uint64_t& CommandQueues::TicketOf(FiddlerEvent event) {
  if (event < 0 || event >= std::ssize(tickets_)) throw Error("no event {}", event);
  return tickets_[static_cast<size_t>(event)];
}

void CommandQueues::Push(FiddlerStream id, Command command) {
  const Lock lock(mutex_);
  Stream& stream = Find(id);
  if (const auto* record = std::get_if<RecordEvent>(&command)) TicketOf(record->event);
  if (const auto* wait = std::get_if<WaitEvent>(&command)) TicketOf(wait->event);
  if (stream.capture) {
    stream.capture->push_back(std::move(command));
  } else {
    Enqueue(stream, std::move(command));
    Changed();
  }
}

void CommandQueues::Enqueue(Stream& stream, Command command) {
  if (auto* record = std::get_if<RecordEvent>(&command)) {
    record->ticket = TicketOf(record->event) = next_ticket_++;
    pending_.insert(record->ticket);
  } else if (auto* wait = std::get_if<WaitEvent>(&command)) {
    if (options_.drop_wait == num_waits_++) return;
    wait->ticket = TicketOf(wait->event);
  } else if (const auto* copy = std::get_if<Copy>(&command); copy != nullptr && !copy->to_device) {
    if (copy->bytes > 0) std::memset(copy->host, kPoison, copy->bytes);
  }
  stream.queue.push_back({.command = std::move(command), .call = next_call_++});
}

void CommandQueues::Changed() {
  idle_ = false;
  if (options_.threaded) work_.notify_all();
}

void CommandQueues::BeginCapture(FiddlerStream id) {
  const Lock lock(mutex_);
  Stream& stream = Find(id);
  if (stream.capture) throw Error("begin_capture: stream {} is being captured already", id);
  stream.capture.emplace();
}

FiddlerSegment CommandQueues::EndCapture(FiddlerStream id) {
  const Lock lock(mutex_);
  Stream& stream = Find(id);
  if (!stream.capture) throw Error("end_capture: stream {} is not being captured", id);
  segments_.emplace_back(std::move(*stream.capture));
  stream.capture.reset();
  return static_cast<FiddlerSegment>(segments_.size()) - 1;
}

void CommandQueues::Launch(FiddlerStream id, FiddlerSegment segment) {
  const Lock lock(mutex_);
  Stream& stream = Find(id);
  if (stream.capture) throw Error("launch: stream {} is being captured", id);
  if (segment < 0 || segment >= std::ssize(segments_) || !segments_[static_cast<size_t>(segment)]) {
    throw Error("launch: no segment {}", segment);
  }
  for (const Command& command : *segments_[static_cast<size_t>(segment)]) Enqueue(stream, command);
  Changed();
}

void CommandQueues::ReleaseSegment(FiddlerSegment segment) {
  const Lock lock(mutex_);
  if (segment < 0 || segment >= std::ssize(segments_) || !segments_[static_cast<size_t>(segment)]) {
    throw Error("release_segment: no segment {}", segment);
  }
  segments_[static_cast<size_t>(segment)].reset();
}

void CommandQueues::Synchronize(FiddlerStream id) {
  Lock lock(mutex_);
  const Stream& stream = Find(id);
  if (stream.capture) throw Error("synchronize: stream {} is being captured", id);
  WaitUntil(lock, {.call = "synchronize", .stream = id, .seconds = std::nullopt},
            [&] { return stream.queue.empty(); });
  ThrowIfFailedLocked();
}

void CommandQueues::Drain(std::string_view call) {
  Lock lock(mutex_);
  WaitUntil(lock, {.call = call, .stream = std::nullopt, .seconds = std::nullopt},
            [&] { return AllEmpty(); });
}

void CommandQueues::SetFlag(uint32_t* flag) {
  const Lock lock(mutex_);
  Turn(flag, 0, "set_flag");
  Changed();
}

void CommandQueues::WaitFlag(uint32_t* flag, double seconds) {
  Lock lock(mutex_);
  const auto posts = [&](const Command& command) {
    const auto* post = std::get_if<PostFlag>(&command);
    return post != nullptr && post->flag == flag;
  };
  WaitUntil(lock, {.call = "wait_flag", .stream = StreamWith(posts), .seconds = seconds},
            [&] { return Load(flag) != 0; });
  ThrowIfFailedLocked();
  Turn(flag, 1, "wait_flag");
}

template <typename Done>
void CommandQueues::WaitUntil(Lock& lock, const Wait& wait, const Done& done) {
  const auto stuck = [&] { return Error("{}: nothing can go on: {}", wait.call, Blocked()); };
  if (!options_.threaded) {
    while (!done()) {
      if (Step(lock, wait.stream)) continue;
      if (failure_) return;
      throw stuck();
    }
    while (schedule_.eager() && Step(lock, std::nullopt)) {
    }
    return;
  }
  const auto limit = std::chrono::duration<double>(wait.seconds.value_or(0));
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
  while (!failure_ && !done()) {
    if (idle_) throw stuck();
    if (!wait.seconds) {
      progress_.wait(lock);
    } else if (progress_.wait_until(lock, deadline) == std::cv_status::timeout && !done() && !failure_) {
      throw Error("{}: nothing came within {} s", wait.call, *wait.seconds);
    }
  }
}

bool CommandQueues::Step(Lock& lock, std::optional<FiddlerStream> needed) {
  if (failure_) return false;
  FindCandidates(needed);
  if (candidates_.empty()) return false;
  const FiddlerStream id = candidates_[schedule_.Choose(candidates_)].stream;
  Stream& stream = Find(id);
  Queued& queued = stream.queue.front();  // stays where it is while others are pushed
  try {
    Execute(lock, queued);
  } catch (const std::exception& error) {
    failure_ = fmt::format("stream {}: {}", id, error.what());
    return true;
  }
  if (std::holds_alternative<Copy>(queued.command) && !queued.begun) {
    queued.begun = true;
  } else {
    stream.queue.pop_front();
  }
  return true;
}

void CommandQueues::FindCandidates(std::optional<FiddlerStream> needed) {
  candidates_.clear();
  if (schedule_.strategy() == Schedule::Strategy::kOnlyNeeded && needed) needed = Needed(*needed);
  const bool only = schedule_.strategy() == Schedule::Strategy::kOnlyNeeded && needed;
  for (size_t i = 0; i < streams_.size(); ++i) {
    const auto id = static_cast<FiddlerStream>(i);
    if (streams_[i].queue.empty() || (only && id != *needed)) continue;
    const Queued& head = streams_[i].queue.front();
    if (!CanRun(head.command)) continue;
    candidates_.push_back({.stream = id, .kind = KindOf(head.command, head.begun), .call = head.call});
  }
}

bool CommandQueues::CanRun(const Command& command) const {
  if (const auto* wait = std::get_if<WaitEvent>(&command)) return !pending_.contains(wait->ticket);
  if (const auto* await = std::get_if<AwaitFlag>(&command)) return Load(await->flag) != 0;
  return true;
}

std::optional<FiddlerStream> CommandQueues::Needed(FiddlerStream stream) const {
  for (size_t hop = 0; hop < streams_.size(); ++hop) {
    const std::deque<Queued>& queue = streams_[static_cast<size_t>(stream)].queue;
    if (queue.empty()) return std::nullopt;
    const Command& head = queue.front().command;
    if (CanRun(head)) return stream;
    const std::optional<FiddlerStream> next = StreamWith([&](const Command& command) {
      const auto* wait = std::get_if<WaitEvent>(&head);
      const auto* record = std::get_if<RecordEvent>(&command);
      if (wait != nullptr) return record != nullptr && record->ticket == wait->ticket;
      const auto* post = std::get_if<PostFlag>(&command);
      return post != nullptr && post->flag == std::get<AwaitFlag>(head).flag;
    });
    if (!next) return std::nullopt;
    stream = *next;
  }
  return std::nullopt;  // they wait for one another
}

template <typename Predicate>
std::optional<FiddlerStream> CommandQueues::StreamWith(const Predicate& predicate) const {
  for (size_t i = 0; i < streams_.size(); ++i) {
    for (const Queued& queued : streams_[i].queue) {
      if (predicate(queued.command)) return static_cast<FiddlerStream>(i);
    }
  }
  return std::nullopt;
}

void CommandQueues::Execute(Lock& lock, Queued& queued) {
  if (KindOf(queued.command, queued.begun) == StepKind::kSignal) return Signal(queued.command);
  // Whoever else takes the lock meanwhile only adds to the ends of queues.
  lock.unlock();
  struct Relock {
    Lock& lock;
    ~Relock() { lock.lock(); }
  } const relock{lock};
  if (const auto* copy = std::get_if<Copy>(&queued.command)) {
    queued.begun ? ops_.End(*copy) : ops_.Begin(*copy);
  } else if (const auto* clear = std::get_if<Clear>(&queued.command)) {
    ops_.Run(*clear);
  } else {
    ops_.Run(std::get<Operation>(queued.command));
  }
}

void CommandQueues::Signal(const Command& command) {
  if (const auto* record = std::get_if<RecordEvent>(&command)) pending_.erase(record->ticket);
  if (const auto* post = std::get_if<PostFlag>(&command)) Turn(post->flag, 0, "post");
  if (const auto* await = std::get_if<AwaitFlag>(&command)) Turn(await->flag, 1, "await");
}

bool CommandQueues::AllEmpty() const {
  return std::ranges::all_of(streams_, [](const Stream& stream) { return stream.queue.empty(); });
}

std::string CommandQueues::Blocked() const {
  std::string text;
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i].queue.empty()) continue;
    const Command& head = streams_[i].queue.front().command;
    if (!text.empty()) text += ", ";
    if (const auto* wait = std::get_if<WaitEvent>(&head)) {
      text += fmt::format("stream {} waits for event {}", i, wait->event);
    } else if (const auto* await = std::get_if<AwaitFlag>(&head)) {
      text += fmt::format("stream {} waits for the flag at {}", i, fmt::ptr(await->flag));
    }
  }
  return text.empty() ? "nothing is queued" : text;
}

void CommandQueues::RunThread() {
  Lock lock(mutex_);
  while (!stopping_) {
    if (Step(lock, std::nullopt)) {
      progress_.notify_all();
      continue;
    }
    idle_ = true;
    progress_.notify_all();
    work_.wait(lock, [&] { return stopping_ || !idle_; });
  }
}

}  // namespace fiddler
