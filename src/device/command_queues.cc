#include "device/command_queues.h"

#include <chrono>
#include <exception>
#include <utility>
#include <variant>

#include "base/error.h"

namespace fiddler::emulated {

CommandQueues::CommandQueues(EmulatedOps& ops, Streams streams, Schedule schedule, bool threaded)
    : ops_(ops), threaded_(threaded), streams_(std::move(streams)), schedule_(schedule) {
  if (threaded_) thread_ = std::jthread([this] { RunThread(); });
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

void CommandQueues::Changed() {
  idle_ = false;
  if (threaded_) work_.notify_all();
}

void CommandQueues::Synchronize(FiddlerStream stream) {
  Lock lock(mutex_);
  streams_.RequireRunning(stream, "synchronize");
  WaitUntil(lock, {.call = "synchronize", .stream = stream, .seconds = std::nullopt},
            [&] { return streams_.IsEmpty(stream); });
  ThrowIfFailedLocked();
}

void CommandQueues::Drain(std::string_view call) {
  Lock lock(mutex_);
  WaitUntil(lock, {.call = call, .stream = std::nullopt, .seconds = std::nullopt},
            [&] { return streams_.AllEmpty(); });
}

void CommandQueues::SetFlag(uint32_t* flag) {
  const Lock lock(mutex_);
  TurnFlag(flag, 0, "set_flag");
  Changed();
}

void CommandQueues::WaitFlag(uint32_t* flag, double seconds) {
  Lock lock(mutex_);
  WaitUntil(lock, {.call = "wait_flag", .stream = streams_.StreamThatPosts(flag), .seconds = seconds},
            [&] { return LoadFlag(flag) != 0; });
  ThrowIfFailedLocked();
  TurnFlag(flag, 1, "wait_flag");
}

template <typename Done>
void CommandQueues::WaitUntil(Lock& lock, const Wait& wait, const Done& done) {
  const auto stuck = [&] { return Error("{}: nothing can go on: {}", wait.call, streams_.Blocked()); };
  if (!threaded_) {
    while (!done()) {
      if (Step(lock, wait.stream)) continue;
      if (failure_) return;
      throw stuck();
    }
    while (schedule_.eager() && Step(lock, std::nullopt)) {
    }
    return;
  }
  using Clock = std::chrono::steady_clock;
  const std::chrono::duration<double> limit(wait.seconds.value_or(0));
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
  while (!failure_ && !done()) {
    if (idle_) throw stuck();
    if (!wait.seconds) {
      progress_.wait(lock);
    } else if (progress_.wait_until(lock, deadline) == std::cv_status::timeout && !failure_ && !done()) {
      throw Error("{}: nothing came within {} s", wait.call, *wait.seconds);
    }
  }
}

bool CommandQueues::Step(Lock& lock, std::optional<FiddlerStream> wanted) {
  if (failure_) return false;
  std::optional<FiddlerStream> only;
  if (wanted && schedule_.strategy() == Schedule::Strategy::kOnlyNeeded) only = streams_.Needed(*wanted);
  streams_.FindCandidates(only, candidates_);
  if (candidates_.empty()) return false;
  const FiddlerStream stream = candidates_[schedule_.Choose(candidates_)].stream;
  try {
    Execute(lock, streams_.Front(stream));
    streams_.Advance(stream);
  } catch (const std::exception& error) {
    failure_ = fmt::format("stream {}: {}", stream, error.what());
  }
  return true;
}

void CommandQueues::Execute(Lock& lock, const QueuedCommand& queued) {
  const StepKind step = queued.NextStep();
  if (step == StepKind::kSignal) {
    if (const auto* post = std::get_if<PostFlag>(&queued.command)) TurnFlag(post->flag, 0, "post");
    if (const auto* await = std::get_if<AwaitFlag>(&queued.command)) TurnFlag(await->flag, 1, "await");
    return;
  }
  lock.unlock();  // whoever takes it meanwhile only adds to the ends of queues
  struct Relock {
    Lock& lock;
    ~Relock() { lock.lock(); }
  } const relock{lock};
  if (const auto* copy = std::get_if<Copy>(&queued.command)) {
    step == StepKind::kBeginCopy ? ops_.Begin(*copy) : ops_.End(*copy);
  } else if (const auto* clear = std::get_if<Clear>(&queued.command)) {
    ops_.Run(*clear);
  } else {
    ops_.Run(std::get<Operation>(queued.command));
  }
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

}  // namespace fiddler::emulated
