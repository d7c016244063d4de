// Streams, events, flags and segments of the emulated device, and when what is queued runs.
//
// Lazily: on the thread that waits for something, only then. Threaded: on a thread of its own, all the time.
// Either way one command at a time, chosen by a Schedule. If none can go on and the host waits, nobody else
// could change that: the wait fails at once and says what the streams wait for.
//
// An error in a command is the end: nothing runs any more, every call fails with the text of that error.
//
// One host thread at a time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <variant>
#include <vector>

#include "device/emulated_ops.h"
#include "device/plugin.h"
#include "device/schedule.h"

namespace fiddler {

struct RecordEvent {
  FiddlerEvent event = 0;
  uint64_t ticket = 0;  // of this recording, among all of the device
};
struct WaitEvent {
  FiddlerEvent event = 0;
  uint64_t ticket = 0;  // of the recording that is waited for; 0: none
};
struct PostFlag {
  uint32_t* flag = nullptr;
};
struct AwaitFlag {
  uint32_t* flag = nullptr;
};
using Command = std::variant<Copy, Clear, RecordEvent, WaitEvent, PostFlag, AwaitFlag, Operation>;

class CommandQueues {
 public:
  struct Options {
    std::optional<uint64_t> adversary_seed;
    bool threaded = false;
    std::optional<int64_t> drop_wait;  // the n-th WaitEvent is forgotten
  };

  // `ops` must outlive this object.
  CommandQueues(EmulatedOps& ops, const Options& options);
  CommandQueues(const CommandQueues&) = delete;
  CommandQueues& operator=(const CommandQueues&) = delete;
  ~CommandQueues();  // what has not run by then never does

  // All throw Error if an argument is wrong, or with the text of the command that failed.
  void ThrowIfFailed() const;
  FiddlerStream CreateStream();
  FiddlerEvent CreateEvent();

  // To the stream, or to the segment that is being captured there. Tickets of events are given here.
  void Push(FiddlerStream stream, Command command);
  void BeginCapture(FiddlerStream stream);
  FiddlerSegment EndCapture(FiddlerStream stream);
  // As if every command of the segment were pushed now.
  void Launch(FiddlerStream stream, FiddlerSegment segment);
  void ReleaseSegment(FiddlerSegment segment);

  void Synchronize(FiddlerStream stream);
  // Until all streams are empty, or a command has failed: that is not reported here.
  void Drain(std::string_view call);
  void SetFlag(uint32_t* flag);
  void WaitFlag(uint32_t* flag, double seconds);  // sets it back

  int64_t num_waits() const;  // WaitEvents so far, launched ones too

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Clock = std::chrono::steady_clock;

  struct Queued {
    Command command;
    uint64_t call;
    bool begun = false;  // of a copy: its first step is done
  };
  struct Stream {
    std::deque<Queued> queue;
    std::optional<std::vector<Command>> capture;
  };
  // What the host waits for.
  struct Wait {
    std::string_view call;
    std::optional<FiddlerStream> stream;  // that brings it, if it is known
    std::optional<double> seconds;        // at most, where there is a thread
  };

  Stream& Find(FiddlerStream stream);
  uint64_t& TicketOf(FiddlerEvent event);
  void Enqueue(Stream& stream, Command command);
  void Changed();  // the host did something that may let a stream go on

  template <typename Done>
  void WaitUntil(Lock& lock, const Wait& wait, const Done& done);
  // Runs one step. False: none can go on, or a command has failed. `needed`: a stream the host waits for.
  bool Step(Lock& lock, std::optional<FiddlerStream> needed);
  void FindCandidates(std::optional<FiddlerStream> needed);
  bool CanRun(const Command& command) const;
  // The stream that must go on before `stream` is through; none: nothing would help.
  std::optional<FiddlerStream> Needed(FiddlerStream stream) const;
  template <typename Predicate>
  std::optional<FiddlerStream> StreamWith(const Predicate& predicate) const;  // a command that is like this
  void Execute(Lock& lock, Queued& queued);                                   // one step
  void Signal(const Command& command);
  bool AllEmpty() const;
  std::string Blocked() const;  // "stream 0 waits for event 3"
  void ThrowIfFailedLocked() const;
  void RunThread();

  EmulatedOps& ops_;
  const Options options_;

  mutable std::mutex mutex_;  // guards what follows; not held while a command computes
  Schedule schedule_;
  std::deque<Stream> streams_;            // places do not change as streams come
  std::vector<uint64_t> tickets_;         // of each event's last recording
  std::unordered_set<uint64_t> pending_;  // recordings that have not run
  std::vector<std::optional<std::vector<Command>>> segments_;
  std::vector<Candidate> candidates_;
  uint64_t next_ticket_ = 1;
  uint64_t next_call_ = 0;
  int64_t num_waits_ = 0;
  std::optional<std::string> failure_;

  bool idle_ = false;  // the thread has found that none can go on
  bool stopping_ = false;
  std::condition_variable work_;      // for the thread
  std::condition_variable progress_;  // for the host
  std::jthread thread_;
};

}  // namespace fiddler
