// FFNs of CUDA kernels against those of the CPU.
#include "device/cuda/op_testing.h"
#include "kernels/product_testing.h"

namespace fiddler::cuda {
namespace {

using testing::PackMatrix;
using testing::ProductKind;
using testing::RandomFloats;
using testing::TestDevice;

constexpr size_t kSliceAlignment = 256;

struct Entry {
  int64_t first_slice;
  int64_t num_slices;
  int64_t tokens;
  bool rows = false;
  enum { kOnes, kHost, kDevice } weights = kOnes;
};

struct Case {
  ProductKind kind;
  int64_t hidden;
  int64_t neurons;  // of a slice
  std::vector<Entry> entries;
  int64_t idle_neurons = 0;  // of the last slice
};

int64_t SlicesOf(const Case& c) {
  int64_t slices = 0;
  for (const Entry& entry : c.entries) slices = std::max(slices, entry.first_slice + entry.num_slices);
  return slices;
}
int64_t TokensOf(const Case& c) {
  int64_t tokens = 0;
  for (const Entry& entry : c.entries) tokens = std::max(tokens, entry.tokens);
  return tokens;
}

// All slices, with NaNs behind each up to the next.
std::vector<std::byte> PackSlices(const Case& c) {
  std::vector<std::byte> bytes;
  const auto append = [&](const std::vector<std::byte>& more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  };
  const int64_t slices = SlicesOf(c);
  for (int64_t s = 0; s < slices; ++s) {
    std::vector<float> gate_up = RandomFloats(2 * c.neurons * c.hidden, 10 + 2 * static_cast<uint64_t>(s));
    std::vector<float> down = RandomFloats(c.hidden * c.neurons, 11 + 2 * static_cast<uint64_t>(s));
    if (s == slices - 1) {
      for (int64_t n = c.neurons - c.idle_neurons; n < c.neurons; ++n) {
        for (int64_t half = 0; half < 2; ++half) {
          std::fill_n(gate_up.begin() + (n / 16 * 32 + 16 * half + n % 16) * c.hidden, c.hidden, 0.0f);
        }
        for (int64_t r = 0; r < c.hidden; ++r) down[static_cast<size_t>(r * c.neurons + n)] = 0;
      }
    }
    append(PackMatrix(c.kind.format, 2 * c.neurons, c.hidden, gate_up));
    append(PackMatrix(c.kind.format, c.hidden, c.neurons, down));
    bytes.resize((bytes.size() / kSliceAlignment + 1) * kSliceAlignment, std::byte{0xff});
  }
  return bytes;
}

std::vector<float> Compute(TestDevice& device, const Case& c) {
  const std::vector<std::byte> bytes = PackSlices(c);
  const int64_t slice_bytes = std::ssize(bytes) / SlicesOf(c);
  const FiddlerAddress there = device.Put(bytes);
  const int64_t x_rows = TokensOf(c) + 5;
  std::vector<std::vector<int32_t>> rows;
  std::vector<std::vector<float>> weights;
  for (size_t e = 0; e < c.entries.size(); ++e) {
    const int64_t tokens = c.entries[e].tokens;
    std::vector<int32_t>& list = rows.emplace_back();
    for (int64_t t = 0; t < tokens; ++t) {
      list.push_back(static_cast<int32_t>((t * 3 + static_cast<int64_t>(e)) % x_rows));
    }
    weights.push_back(RandomFloats(tokens, 40 + e));
  }
  std::vector<FiddlerSlices> entries;
  for (size_t e = 0; e < c.entries.size(); ++e) {
    const Entry& entry = c.entries[e];
    entries.push_back({.slice = there + static_cast<uint64_t>(entry.first_slice * slice_bytes),
                       .num_slices = entry.num_slices,
                       .tokens = entry.tokens,
                       .rows = entry.rows ? rows[e].data() : nullptr,
                       .weights = entry.weights == Entry::kHost ? weights[e].data() : nullptr,
                       .weights_on_device = entry.weights == Entry::kDevice ? device.Put(weights[e]) : 0});
  }
  const FiddlerAddress out = device.Put(RandomFloats(x_rows * c.hidden, 3));
  device->Ffn(device.stream(), {.hidden = c.hidden,
                                .slice_neurons = c.neurons,
                                .slice_bytes = slice_bytes,
                                .format = static_cast<int32_t>(c.kind.format),
                                .rounding = static_cast<int32_t>(c.kind.rounding),
                                .x = device.Put(RandomFloats(x_rows * c.hidden, 2)),
                                .out = out,
                                .entries = entries.data(),
                                .num_entries = std::ssize(entries)});
  return device.Get(out, x_rows * c.hidden);
}

ScratchLimits LimitsOf(const Case& c) {
  return {
      .tokens = TokensOf(c) + 5, .cols = c.hidden, .slice_neurons = c.neurons, .num_heads = 0, .head_dim = 0};
}

// Where activations are rounded, one whose last bit differs may become its neighbour: a 256th of it (BF16) or
// a 127th of the largest of its group, one term among hundreds. A sum that lacks a neuron, a row of weights
// or a token is off by a tenth.
void ExpectClose(const Case& c, const std::vector<float>& got, const std::vector<float>& expected) {
  double largest = 0;
  for (const float value : expected) largest = std::max(largest, static_cast<double>(std::abs(value)));
  const double tolerance = (c.kind.rounding == Rounding::kNone ? 2e-6 : 5e-3) * largest;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance)
        << FormatName(c.kind.format) << (c.kind.rounding == Rounding::kNone ? "" : " fast") << ", hidden "
        << c.hidden << ", row " << i / static_cast<size_t>(c.hidden) << " column "
        << i % static_cast<size_t>(c.hidden);
  }
}

void ExpectLikeCpu(const Case& c, uint64_t seed, int num_sms = 4) {
  TestDevice cpu;
  OpDevice device(LimitsOf(c), {.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}}, num_sms);
  ExpectClose(c, Compute(device, c), Compute(cpu, c));
}

// Few tokens: streamed. With lists and without, weights of all kinds, entries that share rows and slices.
TEST(CudaFfnTest, FewTokens) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {1, 3, 9, 17}) {
      const std::vector<Entry> mixed = {{0, 2, tokens, true, Entry::kHost},
                                        {1, 2, std::min<int64_t>(tokens, 8), false, Entry::kDevice},
                                        {0, 0, 2},
                                        {2, 1, tokens, true, Entry::kOnes},
                                        {0, 3, 1, true, Entry::kDevice},
                                        {0, 1, 0}};
      ExpectLikeCpu({kind, 100, 64, mixed, 10}, ++seed);
      ExpectLikeCpu({kind, 65, 128, {{0, 2, tokens, false, Entry::kDevice}, {1, 1, tokens + 2}}, 33}, ++seed,
                    32);
      if (HasFatalFailure()) return;
    }
  }
}

// Many tokens: tiles, of which the last are not full.
TEST(CudaFfnTest, ManyTokens) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {33, 70, 140}) {
      ExpectLikeCpu({kind,
                     tokens == 70 ? 130 : 96,
                     64,
                     {{0, 2, tokens, tokens != 70, Entry::kHost},
                      {2, 1, 5, tokens != 70, Entry::kDevice},
                      {1, 2, tokens / 2, false, Entry::kOnes}}},
                    ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

// More than the scratch memory takes at once: tokens and slices in pieces.
TEST(CudaFfnTest, Rounds) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    Case c = {kind, 64, 64, {{0, 3, 9, true, Entry::kHost}, {1, 2, 12, false, Entry::kDevice}}};
    TestDevice cpu;
    const std::vector<float> expected = Compute(cpu, c);
    // x takes 17 rows of 256 bytes at most; a pair 256 bytes and, with a slice, up to 256 + 80 more.
    for (const uint64_t bytes : {4352 + 1024, 4352 + 3000, 4352 + 9000}) {
      OpDevice device({}, ++seed);
      device->SetScratch(device.Room<std::byte>(static_cast<int64_t>(bytes)), bytes);
      ExpectClose(c, Compute(device, c), expected);
      if (HasFatalFailure()) return;
    }
    OpDevice device({}, ++seed);
    device->SetScratch(device.Room<std::byte>(64), 64);
    EXPECT_THROW(Compute(device, c), std::exception);
  }
}

TEST(CudaFfnTest, Deterministic) {
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {2, 40}) {
      const Case c = {kind, 96, 64, {{0, 2, tokens, true, Entry::kHost}, {1, 1, tokens, true}}};
      std::vector<float> first;
      for (const uint64_t seed : {1, 2, 3}) {
        OpDevice device(LimitsOf(c), {.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}}, 16);
        const std::vector<float> got = Compute(device, c);
        if (first.empty()) first = got;
        ASSERT_EQ(got, first) << FormatName(kind.format);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler::cuda
