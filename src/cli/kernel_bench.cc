#include "cli/kernel_bench.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "base/timing.h"
#include "calibrate/limits.h"
#include "device/device_arena.h"
#include "device/scratch.h"
#include "experts/slice.h"
#include "kernels/kv_view.h"

namespace fiddler {
namespace {

constexpr uint64_t kPoolBytes = uint64_t{4} << 30;    // of weights, at most: more than any cache holds
constexpr uint64_t kLinkBytes = uint64_t{256} << 20;  // of a copy, at most
constexpr int64_t kPositions = 8192;
constexpr double kSampleSeconds = 2e-3;  // operations that are timed together
constexpr int kSamples = 7;
constexpr int kHandovers = 2000;
constexpr double kPatience = 10;  // seconds, for a flag
constexpr int64_t kTokens[] = {1, 2, 4, 8, 16, 64, 512, 2048};

// Numbers as weights, activations and scales have them: BF16 of 2^-7 to 1 and either sign. Zeros would be
// multiplied at less power, so faster.
std::vector<uint16_t> MakeUpNumbers(uint64_t bytes) {
  Rng rng(1);
  std::vector<uint16_t> numbers(bytes / sizeof(uint16_t));
  for (uint16_t& number : numbers) {
    const auto bits = static_cast<uint32_t>(rng.NextBits());
    number = static_cast<uint16_t>((bits & 0x807f) | (120 + (bits >> 16) % 7) << 7);
  }
  return numbers;
}

class KernelBench {
 public:
  KernelBench(const ModelSpec& spec, WeightFormat format, int64_t most_tokens, Device& device)
      : spec_(spec),
        most_tokens_(most_tokens),
        format_(format),
        rounding_(static_cast<int32_t>(FastRounding(format))),
        device_(device),
        stream_(device.CreateStream()),
        arena_(device) {
    expert_.format = format;
    expert_.hidden = spec.hidden;
    expert_.intermediate = spec.moe.intermediate;
    expert_.slice_neurons = ChooseSliceNeurons(spec.hidden, spec.moe.intermediate, format);
    const FiddlerMemory memory = device.memory();
    const auto slice_bytes = static_cast<uint64_t>(expert_.slice_bytes());
    num_slices_ =
        static_cast<int64_t>(std::min(kPoolBytes, (memory.cap_bytes - memory.used_bytes) / 4) / slice_bytes);
    if (num_slices_ < 2 * expert_.num_slices()) {
      throw Error("--gpu-memory: expected room for two experts four times, got {} bytes", memory.cap_bytes);
    }
    slices_ = arena_.Take(static_cast<uint64_t>(num_slices_) * slice_bytes, "slices");
    const uint64_t widest = static_cast<uint64_t>(
        most_tokens_ * std::max({spec.hidden, spec.attention.q_width(), spec.moe.num_experts}));
    x_ = arena_.Take(widest * sizeof(float), "activations");
    y_ = arena_.Take(widest * sizeof(float), "activations");
    q_ = arena_.Take(widest * sizeof(float), "activations");
    const ScratchLimits scratch = {.tokens = most_tokens_,
                                   .cols = std::max(spec.hidden, spec.attention.q_width()),
                                   .slice_neurons = expert_.slice_neurons,
                                   .num_heads = spec.attention.num_heads,
                                   .head_dim = spec.attention.head_dim};
    device_.SetScratch(arena_.Take(ScratchBytes(scratch), "scratch"), ScratchBytes(scratch));
    kv_layout_ = {.dtype = DType::kBF16, .head_dim = spec.attention.head_dim};
    kv_ = arena_.Take(static_cast<uint64_t>(spec.attention.num_kv_heads * KvHeadBytes()), "keys and values");
    positions_ = arena_.Array<int32_t>(most_tokens_);
    sequences_ = arena_.Array<int32_t>(most_tokens_);
    table_ = arena_.Array<int32_t>(kPositions / KvLayout::kBlockTokens);
    Fill(slices_, static_cast<uint64_t>(num_slices_) * slice_bytes);
    for (const FiddlerAddress activations : {x_, y_, q_}) Fill(activations, widest * sizeof(float));
    Fill(kv_, static_cast<uint64_t>(spec.attention.num_kv_heads * KvHeadBytes()));
    std::vector<int32_t> table(static_cast<size_t>(kPositions / KvLayout::kBlockTokens));
    std::iota(table.begin(), table.end(), 0);
    Copy(table_, table);
    Copy(sequences_, std::vector<int32_t>(most_tokens_));
  }

  void MeasureLimits(const CpuKernels& kernels, ThreadPool& pool) {
    const uint64_t bytes = static_cast<uint64_t>(num_slices_ * expert_.slice_bytes());
    read_gbps_ = static_cast<double>(bytes) /
                 Seconds([&](int64_t) { device_.ReadProbe(stream_, slices_, bytes); }) / 1e9;
    double operations = 0;
    const double product_seconds =
        Seconds([&](int64_t) { operations = device_.ProductProbe(stream_, /*rounds=*/20'000); });
    tflops_ = operations / product_seconds / 1e12;

    link_bytes_ = std::min(kLinkBytes, bytes);
    PinnedBuffer host(device_, link_bytes_, "copies");
    std::fill_n(host.data(), link_bytes_, std::byte{1});
    const auto link = [&](auto&& copy) { return static_cast<double>(link_bytes_) / Seconds(copy) / 1e9; };
    const auto in = [&](int64_t) { device_.CopyIn(stream_, slices_, host.data(), link_bytes_); };
    link_in_gbps_ = link(in);
    link_out_gbps_ = link([&](int64_t) { device_.CopyOut(stream_, host.data(), slices_, link_bytes_); });
    link_beside_cpu_gbps_ = LinkBesideCpu(in, kernels, pool);
    MeasureHandover();
  }

  void MeasureKernels() {
    std::vector<int64_t> batches;
    for (const int64_t tokens : kTokens) {
      if (tokens <= most_tokens_) batches.push_back(tokens);
    }
    for (const int64_t tokens : batches) Norm(tokens);
    for (const int64_t tokens : batches) Product(tokens);
    for (const int64_t tokens : batches) Route(tokens);
    for (const int64_t tokens : batches) Experts(tokens);
    for (const int64_t positions : {int64_t{512}, int64_t{2048}, kPositions}) {
      Attend("attend, decode", 1, positions);
    }
    Attend("attend, prompt", most_tokens_, most_tokens_);
    Attend("attend, prompt", most_tokens_, kPositions);
  }

  OrderedJson Describe() const {
    return {{"limits",
             {{"read_gbps", read_gbps_},
              {"mma_sync_bf16_tflops", tflops_},
              {"link_in_gbps", link_in_gbps_},
              {"link_out_gbps", link_out_gbps_},
              {"link_in_gbps_beside_cpu", link_beside_cpu_gbps_},
              {"handover_us", {{"p50", 1e6 * Median(handover_)}, {"p99", 1e6 * Quantile(handover_, 0.99)}}}}},
            {"kernels", figures_}};
  }

 private:
  int64_t KvHeadBytes() const { return kPositions / KvLayout::kBlockTokens * kv_layout_.bytes(); }

  void Fill(FiddlerAddress to, uint64_t bytes) {
    if (numbers_.empty()) numbers_ = MakeUpNumbers(uint64_t{16} << 20);
    const uint64_t piece = numbers_.size() * sizeof(uint16_t);
    for (uint64_t done = 0; done < bytes; done += piece) {
      device_.CopyIn(stream_, to + done, numbers_.data(), std::min(piece, bytes - done));
    }
    device_.Synchronize(stream_);
  }

  void Copy(FiddlerAddress to, const std::vector<int32_t>& values) {
    device_.CopyIn(stream_, to, values.data(), values.size() * sizeof(int32_t));
    device_.Synchronize(stream_);
  }

  // Of one call of `queue`, which gets the number of the call; many follow each other without a pause.
  double Seconds(const std::function<void(int64_t)>& queue) {
    const auto run = [&](int64_t count) {
      return SecondsOf([&] {
        for (int64_t i = 0; i < count; ++i) queue(calls_++);
        device_.Synchronize(stream_);
      });
    };
    run(1);
    const auto count = static_cast<int64_t>(std::clamp(kSampleSeconds / std::max(run(1), 1e-9), 1.0, 1000.0));
    std::vector<double> samples;
    samples.reserve(kSamples);
    for (int i = 0; i < kSamples; ++i) samples.push_back(run(count) / static_cast<double>(count));
    return Median(samples);
  }

  // Copies go on, each setting a flag when it is done, while the CPU reads memory: how many were done when
  // the CPU was. Twice as many as should be, so that they do not run out.
  template <typename Copy>
  double LinkBesideCpu(const Copy& copy, const CpuKernels& kernels, ThreadPool& pool) {
    LimitProbe cpu(kernels, pool);
    const double cpu_seconds = SecondsOf([&] { cpu.ReadGigabytesPerSecond(); });
    const double copy_seconds = static_cast<double>(link_bytes_) / (link_in_gbps_ * 1e9);
    const auto copies = static_cast<size_t>(std::clamp(2 * cpu_seconds / copy_seconds, 4.0, 4096.0));
    PinnedBuffer buffer(device_, copies * sizeof(uint32_t), "flags");
    const std::span<uint32_t> flags(buffer.as<uint32_t>(), copies);
    std::fill(flags.begin(), flags.end(), 0u);
    std::vector<double> rates;
    for (int i = 0; i < kSamples; ++i) {
      for (uint32_t& flag : flags) {
        copy(0);
        device_.Post(stream_, &flag);
      }
      const double seconds = SecondsOf([&] { cpu.ReadGigabytesPerSecond(); });
      const auto done = std::count_if(flags.begin(), flags.end(), [](uint32_t& flag) {
        return std::atomic_ref(flag).load(std::memory_order_acquire) != 0;
      });
      device_.Synchronize(stream_);
      std::fill(flags.begin(), flags.end(), 0u);
      rates.push_back(static_cast<double>(done) * static_cast<double>(link_bytes_) / seconds / 1e9);
    }
    return Median(rates);
  }

  // From the host's flag to the device and its answer: both ways of a layer's hand-over.
  void MeasureHandover() {
    PinnedBuffer flags(device_, 2 * 64, "flags");
    uint32_t* const there = flags.as<uint32_t>();
    uint32_t* const back = there + 64 / sizeof(uint32_t);  // a cache line of its own
    *there = *back = 0;
    for (int i = 0; i < kHandovers; ++i) {
      device_.Await(stream_, there);
      device_.Post(stream_, back);
      handover_.push_back(SecondsOf([&] {
        device_.SetFlag(there);
        device_.WaitFlag(back, kPatience, "hand-over");
      }));
    }
    device_.Synchronize(stream_);
  }

  void Add(const char* name, int64_t tokens, double bytes, double flops, double seconds, bool from_pool) {
    const double read_seconds = bytes / (read_gbps_ * 1e9);
    const double product_seconds = flops / (tflops_ * 1e12);
    OrderedJson figure = {{"name", name},
                          {"tokens", tokens},
                          {"us", 1e6 * seconds},
                          {"gbps", bytes / seconds / 1e9},
                          {"tflops", flops / seconds / 1e12}};
    // What is read again and again at every call comes from a cache, of which nobody measured the rate.
    if (read_seconds > product_seconds && !from_pool) {
      figure["limit"] = "cache";
    } else {
      figure["limit"] = read_seconds > product_seconds ? "read_gbps" : "mma_sync_bf16_tflops";
      figure["percent_of_limit"] = 100 * std::max(read_seconds, product_seconds) / seconds;
    }
    figures_.push_back(std::move(figure));
  }

  void Norm(int64_t tokens) {
    const double seconds = Seconds([&](int64_t) {
      device_.RmsNorm(stream_, {.rows = tokens,
                                .cols = spec_.hidden,
                                .x = x_,
                                .y = y_,
                                .weight = q_,
                                .epsilon = 1e-5f,
                                .padding = 0});
    });
    Add("rms_norm", tokens, 8.0 * static_cast<double>(tokens * spec_.hidden), 0, seconds,
        /*from_pool=*/false);
  }

  // A matrix somewhere in the pool, another one at every call.
  FiddlerMatrix Weights(int64_t call, int64_t rows, int64_t cols, WeightFormat format) const {
    const PackedMatrix shape = {.data = nullptr, .format = format, .rows = rows, .cols = cols};
    const auto places = static_cast<int64_t>(static_cast<uint64_t>(num_slices_ * expert_.slice_bytes()) /
                                             (shape.bytes() + 256));
    const auto stride = static_cast<int64_t>((shape.bytes() + 255) / 256 * 256);
    return {.data = slices_ + static_cast<uint64_t>(call % std::max<int64_t>(places, 1) * stride),
            .rows = rows,
            .cols = cols,
            .format = static_cast<int32_t>(format),
            .padding = 0};
  }

  double ProductSeconds(int64_t tokens, int64_t rows, int64_t cols, WeightFormat format, int32_t rounding) {
    return Seconds([&](int64_t call) {
      device_.MatMul(stream_, {.tokens = tokens,
                               .x = x_,
                               .row_index = 0,
                               .w = Weights(call, rows, cols, format),
                               .bias = 0,
                               .y = y_,
                               .rounding = rounding,
                               .padding = 0});
    });
  }

  void Product(int64_t tokens) {
    const int64_t rows = spec_.attention.q_width();
    const PackedMatrix w = {.data = nullptr, .format = format_, .rows = rows, .cols = spec_.hidden};
    const auto weights = static_cast<double>(rows * spec_.hidden);
    Add("product with q", tokens, static_cast<double>(w.bytes()), 2 * weights * static_cast<double>(tokens),
        ProductSeconds(tokens, rows, spec_.hidden, format_, rounding_), /*from_pool=*/true);
  }

  void Route(int64_t tokens) {
    const int64_t experts = spec_.moe.num_experts;
    const double products = ProductSeconds(tokens, experts, spec_.hidden, WeightFormat::kF32,
                                           static_cast<int32_t>(Rounding::kNone));
    const double choice = Seconds([&](int64_t) {
      device_.Route(stream_, {.tokens = tokens,
                              .num_experts = experts,
                              .top_k = spec_.moe.top_k,
                              .logits = y_,
                              .experts = q_,
                              .weights = x_,
                              .renormalize = 1,
                              .padding = 0});
    });
    Add("router", tokens, 4.0 * static_cast<double>((experts + tokens) * spec_.hidden), 0, products + choice,
        /*from_pool=*/true);
  }

  // `tokens` on each of top_k experts: their slices lie one behind the other.
  void Experts(int64_t tokens) {
    const int64_t top_k = std::min(spec_.moe.top_k, num_slices_ / expert_.num_slices() / 2);
    const auto slice_bytes = static_cast<uint64_t>(expert_.slice_bytes());
    const int64_t places = num_slices_ / expert_.num_slices();
    std::vector<FiddlerSlices> entries(static_cast<size_t>(top_k));
    const double seconds = Seconds([&](int64_t call) {
      for (int64_t e = 0; e < top_k; ++e) {
        const auto place = static_cast<uint64_t>((call * top_k + e) % places * expert_.num_slices());
        entries[static_cast<size_t>(e)] = {.slice = slices_ + place * slice_bytes,
                                           .num_slices = expert_.num_slices(),
                                           .tokens = tokens,
                                           .rows = nullptr,
                                           .weights = nullptr,
                                           .weights_on_device = 0};
      }
      device_.Ffn(stream_, {.hidden = expert_.hidden,
                            .slice_neurons = expert_.slice_neurons,
                            .slice_bytes = expert_.slice_bytes(),
                            .format = static_cast<int32_t>(format_),
                            .rounding = rounding_,
                            .x = x_,
                            .out = y_,
                            .entries = entries.data(),
                            .num_entries = top_k});
    });
    const auto slices = static_cast<double>(top_k * expert_.num_slices());
    const auto weights = static_cast<double>(3 * expert_.hidden * expert_.slice_neurons);
    Add("experts of a layer", tokens, slices * static_cast<double>(slice_bytes),
        2 * slices * weights * static_cast<double>(tokens), seconds, /*from_pool=*/true);
  }

  // The last `tokens` of so many positions.
  void Attend(const char* name, int64_t tokens, int64_t positions) {
    const AttentionSpec& attention = spec_.attention;
    std::vector<int32_t> places(static_cast<size_t>(tokens));
    std::iota(places.begin(), places.end(), static_cast<int32_t>(positions - tokens));
    Copy(positions_, places);
    const double seconds = Seconds([&](int64_t) {
      device_.Attend(stream_, {.batch = {.tokens = tokens,
                                         .positions = positions_,
                                         .sequences = sequences_,
                                         .block_tables = table_,
                                         .table_stride = kPositions / KvLayout::kBlockTokens},
                               .num_heads = attention.num_heads,
                               .q = q_,
                               .out = y_,
                               .window = 0,
                               .scale = 0.1f,
                               .padding = 0,
                               .kv = {.layer = kv_,
                                      .head_stride = KvHeadBytes(),
                                      .kv_heads = attention.num_kv_heads,
                                      .head_dim = attention.head_dim,
                                      .dtype = static_cast<int32_t>(DType::kBF16),
                                      .padding = 0}});
    });
    const auto n = static_cast<double>(tokens);
    const double pairs = n * (static_cast<double>(positions) - (n - 1) / 2);
    Add(fmt::format("{} of {}", name, positions).c_str(), tokens,
        4.0 * static_cast<double>(positions * attention.kv_width()),
        4 * pairs * static_cast<double>(attention.q_width()), seconds, /*from_pool=*/false);
  }

  const ModelSpec& spec_;
  const int64_t most_tokens_;
  const WeightFormat format_;
  const int32_t rounding_;
  Device& device_;
  const FiddlerStream stream_;
  DeviceArena arena_;
  SlicedFfn expert_;
  int64_t num_slices_ = 0;
  FiddlerAddress slices_ = 0;  // the pool
  FiddlerAddress x_ = 0;
  FiddlerAddress y_ = 0;
  FiddlerAddress q_ = 0;
  KvLayout kv_layout_;
  FiddlerAddress kv_ = 0;
  FiddlerAddress positions_ = 0;
  FiddlerAddress sequences_ = 0;
  FiddlerAddress table_ = 0;
  std::vector<uint16_t> numbers_;
  int64_t calls_ = 0;

  uint64_t link_bytes_ = 0;
  double read_gbps_ = 0;
  double tflops_ = 0;
  double link_in_gbps_ = 0;
  double link_out_gbps_ = 0;
  double link_beside_cpu_gbps_ = 0;
  std::vector<double> handover_;  // seconds
  OrderedJson figures_ = OrderedJson::array();
};

}  // namespace

OrderedJson BenchKernels(const ModelSpec& spec, WeightFormat format, int64_t most_tokens, Device& device,
                         const CpuKernels& kernels, ThreadPool& pool) {
  KernelBench bench(spec, format, std::min(most_tokens, kPositions), device);
  bench.MeasureLimits(kernels, pool);
  bench.MeasureKernels();
  return bench.Describe();
}

void PrintKernels(const OrderedJson& result) {
  const OrderedJson& limits = result["limits"];
  WriteOutput(
      fmt::format("limits: {:.0f} GB/s read, {:.1f} TFLOP/s bf16, link {:.1f} GB/s in, {:.1f} out, {:.1f} in "
                  "beside the CPU, hand-over {:.1f} us (p99 {:.1f})\n",
                  limits["read_gbps"].get<double>(), limits["mma_sync_bf16_tflops"].get<double>(),
                  limits["link_in_gbps"].get<double>(), limits["link_out_gbps"].get<double>(),
                  limits["link_in_gbps_beside_cpu"].get<double>(), limits["handover_us"]["p50"].get<double>(),
                  limits["handover_us"]["p99"].get<double>()));
  for (const OrderedJson& kernel : result["kernels"]) {
    const auto limit = kernel["limit"].get<std::string>();
    const std::string share =
        kernel.contains("percent_of_limit")
            ? fmt::format("{:5.1f}% of {}", kernel["percent_of_limit"].get<double>(), limit)
            : "from " + limit;
    WriteOutput(fmt::format("{:<24} {:>5} tokens {:>10.1f} us {:>8.1f} GB/s {:>7.2f} TFLOP/s  {}\n",
                            kernel["name"].get<std::string>(), kernel["tokens"].get<int64_t>(),
                            kernel["us"].get<double>(), kernel["gbps"].get<double>(),
                            kernel["tflops"].get<double>(), share));
  }
}

}  // namespace fiddler
