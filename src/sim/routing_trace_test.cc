#include "sim/routing_trace.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "sim/routing_generator.h"

namespace fiddler {
namespace {

// Steps of 3, 1 and 2 tokens, 2 layers, 5 experts, 2 a token.
RoutingTrace SmallTrace() {
  RoutingTrace trace({.num_layers = 2, .num_experts = 5, .top_k = 2});
  trace.AddStep(3, std::vector<uint16_t>{0, 1, 2, 3, 4, 0, /**/ 1, 0, 3, 2, 0, 4});
  trace.AddStep(1, std::vector<uint16_t>{4, 3, /**/ 2, 1});
  trace.AddStep(2, std::vector<uint16_t>{0, 2, 1, 3, /**/ 4, 2, 0, 3});
  return trace;
}

// Where the fields are in the file of SmallTrace.
constexpr size_t kVersionAt = 8;
constexpr size_t kLayersAt = 12;
constexpr size_t kExpertsAt = 16;
constexpr size_t kTopKAt = 20;
constexpr size_t kStepsAt = 24;
constexpr size_t kTokensAt = 32;
constexpr size_t kStepTokensAt = 40;
constexpr size_t kIdsAt = 52;

// FNV-1a once more, from its definition.
std::string WithChecksum(std::string bytes) {
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i + 8 < bytes.size(); ++i) {
    hash ^= static_cast<uint8_t>(bytes[i]);
    hash *= 1099511628211u;
  }
  for (size_t i = 0; i < 8; ++i) bytes[bytes.size() - 8 + i] = static_cast<char>(hash >> (8 * i));
  return bytes;
}

// The small trace with a number of `size` bytes replaced, and the right checksum.
std::string With(size_t at, size_t size, uint64_t value) {
  std::string bytes = SerializeRoutingTrace(SmallTrace());
  for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
  return WithChecksum(bytes);
}

std::string ErrorOf(std::string_view bytes) {
  try {
    ParseRoutingTrace(bytes, "a.trace");
  } catch (const Error& error) {
    return error.what();
  }
  return "no Error";
}

TEST(RoutingTraceTest, GivesBackWhatWasAdded) {
  const RoutingTrace trace = SmallTrace();
  EXPECT_EQ(trace.num_steps(), 3);
  EXPECT_EQ(trace.num_tokens(), 6);
  EXPECT_EQ(trace.tokens(2), 2);
  const auto experts = [&](int64_t step, int64_t layer) {
    const std::span<const uint16_t> ids = trace.Experts(step, layer);
    return std::vector<uint16_t>(ids.begin(), ids.end());
  };
  EXPECT_EQ(experts(0, 1), (std::vector<uint16_t>{1, 0, 3, 2, 0, 4}));
  EXPECT_EQ(experts(1, 0), (std::vector<uint16_t>{4, 3}));
  EXPECT_EQ(experts(2, 1), (std::vector<uint16_t>{4, 2, 0, 3}));
}

TEST(RoutingTraceTest, TheFileIsAsDocumented) {
  const std::string bytes = SerializeRoutingTrace(SmallTrace());
  EXPECT_EQ(bytes.size(), kIdsAt + 2 * 24 + 8);
  EXPECT_EQ(bytes.substr(0, kIdsAt), std::string("FIDROUTE"
                                                 "\1\0\0\0\2\0\0\0\5\0\0\0\2\0\0\0"
                                                 "\3\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0"
                                                 "\3\0\0\0\1\0\0\0\2\0\0\0",
                                                 kIdsAt));
  EXPECT_EQ(bytes.substr(kIdsAt, 6), std::string("\0\0\1\0\2\0", 6));
  EXPECT_EQ(bytes, WithChecksum(bytes));
}

TEST(RoutingTraceTest, SurvivesTheRoundTrip) {
  const RoutingTrace none({.num_layers = 1, .num_experts = 1, .top_k = 1});
  EXPECT_EQ(ParseRoutingTrace(SerializeRoutingTrace(none), ""), none);

  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "routing_trace_test";
  const int64_t steps[] = {17, 1, 1, 4};
  const RoutingTrace trace = GenerateRoutingTrace(
      {.num_experts = 65536, .top_k = 5, .conversation = 1, .persistence = 0.5}, 2, steps, 1);
  WriteRoutingTrace(trace, path);
  EXPECT_EQ(ReadRoutingTrace(path), trace);
  EXPECT_FALSE(ReadRoutingTrace(path) == SmallTrace());
  std::filesystem::remove(path);
  EXPECT_THROW(ReadRoutingTrace(path), Error);
}

TEST(RoutingTraceTest, EveryChangedByteAndEveryMissingEndIsRefused) {
  const std::string bytes = SerializeRoutingTrace(SmallTrace());
  ASSERT_EQ(ErrorOf(bytes), "no Error");
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ change);
      EXPECT_TRUE(ErrorOf(changed).starts_with("a.trace: ")) << at << " " << change;
    }
    EXPECT_TRUE(ErrorOf(bytes.substr(0, at)).starts_with("a.trace: ")) << at;
  }
  EXPECT_NE(ErrorOf(bytes + '\0'), "no Error");
}

// With the right checksum only what the fields say is left to refuse; what is not refused is another trace.
TEST(RoutingTraceTest, EveryChangedByteUnderTheRightChecksumIsRefusedOrATrace) {
  const std::string bytes = SerializeRoutingTrace(SmallTrace());
  int traces = 0;
  for (size_t at = 0; at < bytes.size() - 8; ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ change);
      changed = WithChecksum(changed);
      const std::string error = ErrorOf(changed);
      if (error == "no Error") {
        ++traces;
        EXPECT_EQ(SerializeRoutingTrace(ParseRoutingTrace(changed, "")), changed);
      } else {
        EXPECT_TRUE(error.starts_with("a.trace: ")) << error;
      }
    }
  }
  EXPECT_GT(traces, 24);  // an id may be another expert
}

TEST(RoutingTraceTest, ErrorsNameTheField) {
  EXPECT_EQ(ErrorOf("FIDROUT"), "a.trace: expected a routing trace, got something else");
  EXPECT_EQ(ErrorOf("FIDROUTE"), "a.trace: expected a routing trace of at least 48 bytes, got 8");
  EXPECT_EQ(ErrorOf(With(kVersionAt, 4, 2)), "a.trace: version: expected 1, got 2");
  EXPECT_EQ(ErrorOf(With(kLayersAt, 4, 0)), "a.trace: num_layers: expected 1 to 65536, got 0");
  EXPECT_EQ(ErrorOf(With(kExpertsAt, 4, 65537)), "a.trace: num_experts: expected 1 to 65536, got 65537");
  EXPECT_EQ(ErrorOf(With(kTopKAt, 4, 6)), "a.trace: top_k: expected 1 to 5, got 6");
  EXPECT_EQ(ErrorOf(With(kLayersAt, 4, 3)),
            "a.trace: size: expected 132 bytes for 3 steps with 6 tokens, got 108");
  EXPECT_EQ(
      ErrorOf(With(kStepsAt, 8, uint64_t{1} << 62)),
      "a.trace: num_steps and num_tokens: expected those of a file of 108 bytes, got 4611686018427387904 "
      "and 6");
  EXPECT_EQ(ErrorOf(With(kTokensAt, 8, uint64_t{1} << 61)),
            "a.trace: num_steps and num_tokens: expected those of a file of 108 bytes, got 3 and "
            "2305843009213693952");
  EXPECT_EQ(ErrorOf(With(kStepTokensAt, 4, 0)), "a.trace: tokens of step 0: expected 1 to 6, got 0");
  EXPECT_EQ(ErrorOf(With(kStepTokensAt + 8, 4, 3)), "a.trace: tokens of step 2: expected 1 to 2, got 3");
  EXPECT_EQ(ErrorOf(With(kStepTokensAt + 8, 4, 1)),
            "a.trace: num_tokens: expected 5 as the steps have, got 6");
  EXPECT_EQ(ErrorOf(With(kIdsAt + 4, 2, 5)),
            "a.trace: expert id 2 of 24: expected one below 5 that its token does not have yet, got 5");
  EXPECT_EQ(ErrorOf(With(kIdsAt + 6, 2, 2)),
            "a.trace: expert id 3 of 24: expected one below 5 that its token does not have yet, got 2");
}

TEST(RoutingTraceDeathTest, StepsThatCannotBeAreBugs) {
  RoutingTrace trace({.num_layers = 1, .num_experts = 3, .top_k = 2});
  EXPECT_DEATH(trace.AddStep(0, {}), "0 tokens");
  EXPECT_DEATH(trace.AddStep(1, std::vector<uint16_t>{0}), "1 ids for 1 tokens");
  EXPECT_DEATH(trace.AddStep(1, std::vector<uint16_t>{0, 3}), "expert 3");
  EXPECT_DEATH(trace.AddStep(1, std::vector<uint16_t>{2, 2}), "expert 2");
  EXPECT_DEATH(RoutingTrace({.num_layers = 1, .num_experts = 3, .top_k = 4}), "top 4");
}

}  // namespace
}  // namespace fiddler
