#include "device/streams.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fiddler::emulated {

StepKind QueuedCommand::NextStep() const {
  if (std::holds_alternative<Copy>(command)) return begun ? StepKind::kEndCopy : StepKind::kBeginCopy;
  const bool computes = std::holds_alternative<Operation>(command) || std::holds_alternative<Clear>(command);
  return computes ? StepKind::kCompute : StepKind::kSignal;
}

uint32_t LoadFlag(const uint32_t* flag) {
  return std::atomic_ref(*const_cast<uint32_t*>(flag)).load(std::memory_order_acquire);
}

void TurnFlag(uint32_t* flag, uint32_t from, std::string_view call) {
  if (const uint32_t value = LoadFlag(flag); value != from) {
    throw Error("{}: the flag at {} is {}, expected {}", call, fmt::ptr(flag), value, from);
  }
  std::atomic_ref(*flag).store(1 - from, std::memory_order_release);
}

FiddlerStream Streams::CreateStream() {
  streams_.emplace_back();
  return static_cast<FiddlerStream>(streams_.size()) - 1;
}

FiddlerEvent Streams::CreateEvent() {
  tickets_.push_back(0);
  return static_cast<FiddlerEvent>(tickets_.size()) - 1;
}

Streams::Stream& Streams::Find(FiddlerStream stream) {
  if (stream < 0 || stream >= std::ssize(streams_)) throw Error("no stream {}", stream);
  return At(stream);
}

uint64_t& Streams::TicketOf(FiddlerEvent event) {
  if (event < 0 || event >= std::ssize(tickets_)) throw Error("no event {}", event);
  return tickets_[static_cast<size_t>(event)];
}

std::vector<Command>& Streams::Segment(FiddlerSegment segment, std::string_view call) {
  if (segment < 0 || segment >= std::ssize(segments_) || !segments_[static_cast<size_t>(segment)]) {
    throw Error("{}: no segment {}", call, segment);
  }
  return *segments_[static_cast<size_t>(segment)];
}

void Streams::RequireRunning(FiddlerStream stream, std::string_view call) {
  if (Find(stream).capture) throw Error("{}: stream {} is being captured", call, stream);
}

void Streams::RequireThere(const Command& command) {
  if (const auto* record = std::get_if<RecordEvent>(&command)) TicketOf(record->event);
  if (const auto* wait = std::get_if<WaitEvent>(&command)) TicketOf(wait->event);
  if (const auto* post = std::get_if<PostFlag>(&command)) pinned_.RequireFlag(post->flag, "post");
  if (const auto* await = std::get_if<AwaitFlag>(&command)) pinned_.RequireFlag(await->flag, "await");
}

void Streams::Push(FiddlerStream id, Command command) {
  Stream& stream = Find(id);
  RequireThere(command);
  if (stream.capture) {
    stream.capture->push_back(std::move(command));
  } else {
    Enqueue(stream, std::move(command));
  }
}

void Streams::Enqueue(Stream& stream, Command command) {
  if (auto* record = std::get_if<RecordEvent>(&command)) {
    record->ticket = TicketOf(record->event) = next_ticket_++;
    pending_.insert(record->ticket);
  } else if (auto* wait = std::get_if<WaitEvent>(&command)) {
    if (drop_wait_ == num_waits_++) return;
    wait->ticket = TicketOf(wait->event);
  } else if (const auto* copy = std::get_if<Copy>(&command); copy != nullptr && !copy->to_device) {
    if (copy->bytes > 0) std::memset(copy->host, kPoison, copy->bytes);
  }
  stream.queue.push_back({.command = std::move(command), .call = next_call_++});
}

void Streams::BeginCapture(FiddlerStream id) {
  Stream& stream = Find(id);
  if (stream.capture) throw Error("begin_capture: stream {} is being captured already", id);
  stream.capture.emplace();
}

FiddlerSegment Streams::EndCapture(FiddlerStream id) {
  Stream& stream = Find(id);
  if (!stream.capture) throw Error("end_capture: stream {} is not being captured", id);
  segments_.emplace_back(std::move(*stream.capture));
  stream.capture.reset();
  return static_cast<FiddlerSegment>(segments_.size()) - 1;
}

void Streams::Launch(FiddlerStream id, FiddlerSegment segment) {
  RequireRunning(id, "launch");
  const std::vector<Command>& commands = Segment(segment, "launch");
  for (const Command& command : commands) RequireThere(command);  // flags may have gone since
  for (const Command& command : commands) Enqueue(At(id), command);
}

void Streams::ReleaseSegment(FiddlerSegment segment) {
  Segment(segment, "release_segment");
  segments_[static_cast<size_t>(segment)].reset();
}

bool Streams::AllEmpty() const {
  return std::ranges::all_of(streams_, [](const Stream& stream) { return stream.queue.empty(); });
}

bool Streams::CanRun(const Command& command) const {
  if (const auto* wait = std::get_if<WaitEvent>(&command)) return !pending_.contains(wait->ticket);
  if (const auto* await = std::get_if<AwaitFlag>(&command)) return LoadFlag(await->flag) != 0;
  return true;
}

void Streams::FindCandidates(std::optional<FiddlerStream> only, std::vector<Candidate>& candidates) const {
  candidates.clear();
  for (FiddlerStream stream = 0; stream < std::ssize(streams_); ++stream) {
    if (IsEmpty(stream) || (only && stream != *only)) continue;
    const QueuedCommand& front = At(stream).queue.front();
    if (!CanRun(front.command)) continue;
    candidates.push_back({.stream = stream, .kind = front.NextStep(), .call = front.call});
  }
}

std::optional<FiddlerStream> Streams::Needed(FiddlerStream stream) const {
  for (size_t hop = 0; hop < streams_.size(); ++hop) {
    if (IsEmpty(stream)) return std::nullopt;
    const Command& front = At(stream).queue.front().command;
    if (CanRun(front)) return stream;
    std::optional<FiddlerStream> next;
    if (const auto* await = std::get_if<AwaitFlag>(&front)) {
      next = StreamThatPosts(await->flag);
    } else {
      next = StreamWith([ticket = std::get<WaitEvent>(front).ticket](const Command& command) {
        const auto* record = std::get_if<RecordEvent>(&command);
        return record != nullptr && record->ticket == ticket;
      });
    }
    if (!next) return std::nullopt;
    stream = *next;
  }
  return std::nullopt;  // they wait for one another
}

std::optional<FiddlerStream> Streams::StreamThatPosts(const uint32_t* flag) const {
  return StreamWith([&](const Command& command) {
    const auto* post = std::get_if<PostFlag>(&command);
    return post != nullptr && post->flag == flag;
  });
}

template <typename Predicate>
std::optional<FiddlerStream> Streams::StreamWith(const Predicate& predicate) const {
  for (FiddlerStream stream = 0; stream < std::ssize(streams_); ++stream) {
    for (const QueuedCommand& queued : At(stream).queue) {
      if (predicate(queued.command)) return stream;
    }
  }
  return std::nullopt;
}

void Streams::Advance(FiddlerStream id) {
  std::deque<QueuedCommand>& queue = At(id).queue;
  QueuedCommand& front = queue.front();
  if (front.NextStep() == StepKind::kBeginCopy) {
    front.begun = true;
    return;
  }
  if (const auto* record = std::get_if<RecordEvent>(&front.command)) pending_.erase(record->ticket);
  queue.pop_front();
}

std::string Streams::Blocked() const {
  std::string text;
  for (FiddlerStream stream = 0; stream < std::ssize(streams_); ++stream) {
    if (IsEmpty(stream)) continue;
    const Command& front = At(stream).queue.front().command;
    if (!text.empty()) text += ", ";
    if (const auto* wait = std::get_if<WaitEvent>(&front)) {
      text += fmt::format("stream {} waits for event {}", stream, wait->event);
    } else if (const auto* await = std::get_if<AwaitFlag>(&front)) {
      text += fmt::format("stream {} waits for the flag at {}", stream, fmt::ptr(await->flag));
    }
  }
  return text.empty() ? "nothing is queued" : text;
}

}  // namespace fiddler::emulated
