// What is queued on the emulated device: streams of commands, events between them, segments. Knows what could
// run next; what runs, and when, is for CommandQueues (command_queues.h).
//
// Not thread-safe. Commands stay where they are until they are done, whatever else is queued.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_set>
#include <variant>
#include <vector>

#include "device/emulated_ops.h"
#include "device/pinned_memory.h"
#include "device/plugin.h"
#include "device/schedule.h"

namespace fiddler::emulated {

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

struct QueuedCommand {
  Command command;
  uint64_t call = 0;   // numbered in the order of the calls
  bool begun = false;  // of a copy: its first step is done

  StepKind NextStep() const;
};

// What a flag is now; a flag is 0 before it is set, and 1 before it is taken.
uint32_t LoadFlag(const uint32_t* flag);
// From `from` to the other value. Throws Error if it is not `from`; `call` opens the message.
void TurnFlag(uint32_t* flag, uint32_t from, std::string_view call);

class Streams {
 public:
  // `pinned` must outlive this object. drop_wait: the n-th WaitEvent is forgotten.
  Streams(const PinnedMemory& pinned, std::optional<int64_t> drop_wait)
      : pinned_(pinned), drop_wait_(drop_wait) {}

  // Each throws Error if an argument is wrong.
  FiddlerStream CreateStream();
  FiddlerEvent CreateEvent();
  // To the stream, or to the segment that is being captured there. Tickets are given here, the destination of
  // a copy_out is poisoned.
  void Push(FiddlerStream stream, Command command);
  void BeginCapture(FiddlerStream stream);
  FiddlerSegment EndCapture(FiddlerStream stream);
  // As if every command of the segment were pushed now.
  void Launch(FiddlerStream stream, FiddlerSegment segment);
  void ReleaseSegment(FiddlerSegment segment);
  // That the stream is there and not being captured.
  void RequireRunning(FiddlerStream stream, std::string_view call);

  int64_t num_waits() const { return num_waits_; }  // WaitEvents so far, launched ones too
  bool IsEmpty(FiddlerStream stream) const { return At(stream).queue.empty(); }
  bool AllEmpty() const;
  std::string Blocked() const;  // "stream 0 waits for event 3"

  // The streams whose next command can run, or only this one of them.
  void FindCandidates(std::optional<FiddlerStream> only, std::vector<Candidate>& candidates) const;
  // The stream that must go on before `stream` is through; none: nothing would help.
  std::optional<FiddlerStream> Needed(FiddlerStream stream) const;
  std::optional<FiddlerStream> StreamThatPosts(const uint32_t* flag) const;

  QueuedCommand& Front(FiddlerStream stream) { return At(stream).queue.front(); }
  // The front command has done its next step.
  void Advance(FiddlerStream stream);

 private:
  struct Stream {
    std::deque<QueuedCommand> queue;
    std::optional<std::vector<Command>> capture;
  };

  Stream& Find(FiddlerStream stream);  // throws Error
  Stream& At(FiddlerStream stream) { return streams_[static_cast<size_t>(stream)]; }
  const Stream& At(FiddlerStream stream) const { return streams_[static_cast<size_t>(stream)]; }
  uint64_t& TicketOf(FiddlerEvent event);  // throws Error
  std::vector<Command>& Segment(FiddlerSegment segment, std::string_view call);
  void RequireThere(const Command& command);  // its event, its flag
  void Enqueue(Stream& stream, Command command);
  bool CanRun(const Command& command) const;
  template <typename Predicate>
  std::optional<FiddlerStream> StreamWith(const Predicate& predicate) const;  // with a command like this

  const PinnedMemory& pinned_;
  const std::optional<int64_t> drop_wait_;
  std::deque<Stream> streams_;            // places do not change as streams come
  std::vector<uint64_t> tickets_;         // of each event's last recording
  std::unordered_set<uint64_t> pending_;  // recordings that have not run
  std::vector<std::optional<std::vector<Command>>> segments_;
  uint64_t next_ticket_ = 1;
  uint64_t next_call_ = 0;
  int64_t num_waits_ = 0;
};

}  // namespace fiddler::emulated
