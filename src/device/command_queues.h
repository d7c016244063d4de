// When what is queued on the emulated device (streams.h) runs.
//
// Lazily: on the thread that waits for something, only then. Threaded: on a thread of its own, all the time.
// Either way one command at a time, chosen by a Schedule. If none can go on and the host waits, nobody else
// could change that: the wait fails at once and says what the streams wait for.
//
// An error in a command is the end: nothing runs any more, every call fails with the text of that error.
//
// One host thread at a time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "device/emulated_ops.h"
#include "device/plugin.h"
#include "device/schedule.h"
#include "device/streams.h"

namespace fiddler::emulated {

class CommandQueues {
 public:
  // `ops`, and what the streams refer to, must outlive this object.
  CommandQueues(EmulatedOps& ops, Streams streams, Schedule schedule, bool threaded);
  CommandQueues(const CommandQueues&) = delete;
  CommandQueues& operator=(const CommandQueues&) = delete;
  ~CommandQueues();  // what has not run by then never does

  // Throws Error if a command has failed.
  void ThrowIfFailed() const;

  // queue(Streams&): the host adds to what is queued, or looks at it. Returns what it returns.
  template <typename Queue>
  auto Edit(const Queue& queue) {
    const Lock lock(mutex_);
    Changed();
    return queue(streams_);
  }

  // All throw Error if nothing can go on.
  void Synchronize(FiddlerStream stream);
  // Until all streams are empty, or a command has failed: that is not reported here.
  void Drain(std::string_view call);
  void SetFlag(uint32_t* flag);
  void WaitFlag(uint32_t* flag, double seconds);  // sets it back

 private:
  using Lock = std::unique_lock<std::mutex>;

  // What the host waits for.
  struct Wait {
    std::string_view call;
    std::optional<FiddlerStream> stream;  // that brings it, if it is known
    std::optional<double> seconds;        // at most, where there is a thread
  };

  void Changed();  // the host does something that may let a stream go on
  template <typename Done>
  void WaitUntil(Lock& lock, const Wait& wait, const Done& done);
  // Runs one step. False: none can go on, or a command has failed. `wanted`: a stream the host waits for.
  bool Step(Lock& lock, std::optional<FiddlerStream> wanted);
  void Execute(Lock& lock, const QueuedCommand& queued);  // its next step
  void ThrowIfFailedLocked() const;
  void RunThread();

  EmulatedOps& ops_;
  const bool threaded_;

  mutable std::mutex mutex_;  // guards what follows; not held while a command computes
  Streams streams_;
  Schedule schedule_;
  std::vector<Candidate> candidates_;
  std::optional<std::string> failure_;
  bool idle_ = false;  // the thread has found that none can go on
  bool stopping_ = false;
  std::condition_variable work_;      // for the thread
  std::condition_variable progress_;  // for the host
  std::jthread thread_;
};

}  // namespace fiddler::emulated
