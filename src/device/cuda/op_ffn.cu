// Gated FFNs by slices: x of all rows is rounded (products of up to 8 tokens do it themselves); then, in
// rounds of as many pairs of token and entry as the scratch memory takes, the activations of all slices,
// their down products, and the sums of both by rows.
//
// With few tokens the weights are all that counts, and a round is all there is: activations, down products
// and sums are three launches. Thread blocks of the products, each with 32 KB on their way where 18 KB on
// each of 132 SMs keep the memory busy (product_stream.cuh):
//   Mixtral, 1 token      2 experts of 16 slices of 896 neurons: 2 * 16 * 56 = 1792, then 2 * 128
//   Qwen3-30B, 1 token    8 experts of 4 slices of 192 neurons: 8 * 4 * 12 = 384, then 8 * 64
// Not yet: a single entry of few slices has fewer blocks than SMs for its activations.
#include <algorithm>
#include <vector>

#include "device/cuda/products.h"
#include "kernels/cuda/ffn.cuh"

namespace fiddler::cuda {
namespace {

constexpr const char* kWhat = "ffn";
constexpr int64_t kNeuronGrain = 64;  // experts/slice.h
// From that many tokens of an entry on, tiles: streaming kernels read x from the second cache once for 32
// rows of weights, with 32 tokens as many bytes as weights.
constexpr int64_t kMostStreamed = 32;
constexpr int64_t kFloat = sizeof(float);

// Tokens of an entry, with their place in a round.
struct HostPiece {
  const FiddlerSlices* entry;
  int64_t first_slice;
  int64_t num_slices;
  int64_t first_token;
  int64_t tokens;
  int64_t first_pair;
};

// Arrays for kernels, each on 16 bytes.
class TableBytes {
 public:
  template <typename T>
  int64_t Append(const std::vector<T>& values) {
    bytes_.resize((bytes_.size() + 15) / 16 * 16);
    const size_t at = bytes_.size();
    const auto* const from = reinterpret_cast<const std::byte*>(values.data());
    bytes_.insert(bytes_.end(), from, from + values.size() * sizeof(T));
    return static_cast<int64_t>(at);
  }
  Tables Make(OpContext& context) const {
    Tables tables = {};
    if (bytes_.size() <= Tables::kBytesHere) {
      std::copy(bytes_.begin(), bytes_.end(), tables.here);
    } else {
      tables.there = static_cast<const std::byte*>(context.ToDevice(bytes_.data(), bytes_.size()));
    }
    return tables;
  }

 private:
  std::vector<std::byte> bytes_;
};

class FfnRounds {
 public:
  FfnRounds(OpContext& context, const FiddlerFfn& ffn)
      : context_(context),
        ffn_(ffn),
        format_(FormatOf(kWhat, ffn.format)),
        rounding_(RoundingOf(kWhat, ffn.rounding, format_)),
        gate_up_({.data = nullptr, .format = format_, .rows = 2 * ffn.slice_neurons, .cols = ffn.hidden}),
        down_({.data = nullptr, .format = format_, .rows = ffn.hidden, .cols = ffn.slice_neurons}) {}

  void Run() {
    Check();
    const int64_t x_rows = RowsOfX();
    if (x_rows == 0) return;
    int64_t most_tokens = 0;
    for (int64_t i = 0; i < ffn_.num_entries; ++i) {
      most_tokens = std::max(most_tokens, ffn_.entries[i].tokens);
    }
    rounds_x_ = RoundsItself(rounding_, most_tokens);
    const auto* const x = At<const float>(ffn_.x);
    const bool as_it_is = rounds_x_ || rounding_ == Rounding::kNone;
    const auto x_bytes =
        as_it_is ? int64_t{0} : static_cast<int64_t>(RoundedBytes(rounding_, x_rows, ffn_.hidden));
    const int64_t least = x_bytes + BytesOfPairs(1, 1);
    if (static_cast<uint64_t>(least) > context_.scratch_bytes) {
      throw std::runtime_error("ffn: scratch: needs " + std::to_string(least) + " bytes, has " +
                               std::to_string(context_.scratch_bytes));
    }
    x_ = as_it_is ? FloatX(x, ffn_.hidden)
                  : RoundX(context_, kWhat, rounding_, x_rows, x, nullptr, ffn_.hidden, context_.scratch);
    room_ = context_.scratch + x_bytes;
    room_bytes_ = static_cast<int64_t>(context_.scratch_bytes) - x_bytes;
    for (int64_t i = 0; i < ffn_.num_entries; ++i) Take(ffn_.entries[i]);
    Flush();
  }

 private:
  void Check() const {
    RequireSize(kWhat, "hidden", ffn_.hidden, 1);
    RequireSize(kWhat, "slice_neurons", ffn_.slice_neurons, kNeuronGrain);
    if (ffn_.slice_neurons % kNeuronGrain != 0) {
      throw std::runtime_error("ffn: slices of " + std::to_string(ffn_.slice_neurons) + " neurons");
    }
    RequireSize(kWhat, "slice_bytes", ffn_.slice_bytes,
                static_cast<int64_t>(gate_up_.bytes() + down_.bytes()), int64_t{1} << 40);
    if (ffn_.slice_bytes % 64 != 0) {
      throw std::runtime_error("ffn: slice_bytes " + std::to_string(ffn_.slice_bytes) +
                               " is no multiple of 64");
    }
    for (int64_t i = 0; i < ffn_.num_entries; ++i) {
      RequireSize(kWhat, "tokens", ffn_.entries[i].tokens, 0);
      RequireSize(kWhat, "num_slices", ffn_.entries[i].num_slices, 0, 1 << 20);
      RequireAligned(kWhat, "a slice", ffn_.entries[i].slice, 64);
    }
  }

  int64_t RowsOfX() const {
    int64_t rows = 0;
    for (int64_t i = 0; i < ffn_.num_entries; ++i) {
      const FiddlerSlices& entry = ffn_.entries[i];
      if (entry.num_slices == 0) continue;
      if (entry.rows == nullptr) {
        rows = std::max(rows, entry.tokens);
        continue;
      }
      for (int64_t t = 0; t < entry.tokens; ++t) {
        if (entry.rows[t] < 0) throw std::runtime_error("ffn: rows: no row " + std::to_string(entry.rows[t]));
        rows = std::max<int64_t>(rows, entry.rows[t] + 1);
      }
    }
    return rows;
  }

  // As they are written; if not, another launch does it, or the products themselves.
  bool RoundsActivationsAtOnce() const { return rounding_ == Rounding::kBF16 && !rounds_x_; }

  // What a round takes: activations, and those rounded, and down products.
  int64_t ActivationBytes(int64_t pairs, int64_t slices) const {
    const int64_t each = RoundsActivationsAtOnce() ? 2 : kFloat;
    return (pairs * slices * ffn_.slice_neurons * each + 255) / 256 * 256;
  }
  int64_t RoundedActivationBytes(int64_t pairs, int64_t slices) const {
    if (RoundsActivationsAtOnce() || rounds_x_) return 0;
    return static_cast<int64_t>(RoundedBytes(rounding_, pairs, slices * ffn_.slice_neurons));
  }
  int64_t BytesOfPairs(int64_t pairs, int64_t slices) const {
    return ActivationBytes(pairs, slices) + RoundedActivationBytes(pairs, slices) +
           pairs * ffn_.hidden * kFloat;
  }
  // The most for which there is room. What rounds up is at most 256 bytes for each of two.
  int64_t PairsThatFit(int64_t slices) const {
    const int64_t each = BytesOfPairs(256, slices) / 256;  // exact: 256 of anything is on 256 bytes
    int64_t pairs = room_bytes_ / each;
    while (pairs > 0 && BytesOfPairs(pairs, slices) > room_bytes_) --pairs;
    return pairs;
  }

  // Adds an entry to the round, which is run as often as it is full.
  void Take(const FiddlerSlices& entry) {
    constexpr int64_t kSliver = 64;  // tokens that are not worth another pass over weights
    for (int64_t slice = 0; slice < entry.num_slices && entry.tokens > 0;) {
      int64_t slices = entry.num_slices - slice;
      while (slices > 1 && PairsThatFit(slices) < 1) slices = (slices + 1) / 2;
      for (int64_t token = 0; token < entry.tokens;) {
        const int64_t left = entry.tokens - token;
        const int64_t taken = std::min(left, PairsThatFit(std::max(slices, most_slices_)) - num_pairs_);
        if (taken < std::min(left, kSliver) && num_pairs_ > 0) {
          Flush();
          continue;
        }
        pieces_.push_back({.entry = &entry,
                           .first_slice = slice,
                           .num_slices = slices,
                           .first_token = token,
                           .tokens = taken,
                           .first_pair = num_pairs_});
        num_pairs_ += taken;
        most_slices_ = std::max(most_slices_, slices);
        most_tokens_ = std::max(most_tokens_, taken);
        token += taken;
      }
      slice += slices;
    }
  }

  void Flush() {
    if (num_pairs_ == 0) return;
    TableBytes bytes;
    AppendPieces(bytes);
    CombineArgs combine = {};
    int64_t rows_at = -1;
    const int64_t combine_rows = AppendRows(bytes, combine, rows_at);
    const Tables tables = bytes.Make(context_);
    const int64_t width = most_slices_ * ffn_.slice_neurons;
    const bool tiled = rounding_ != Rounding::kNone && most_tokens_ > kMostStreamed;
    ProductExtent extent = {
        .panels = 0, .tokens = most_tokens_, .pieces = static_cast<int64_t>(pieces_.size())};

    // 1. Activations.
    ProductArgs args = ArgsFor(gate_up_);
    args.x = x_;
    args.rows_at = rows_at;
    args.slice_bytes = ffn_.slice_bytes;
    args.out = room_;
    args.out_stride = width;
    args.out_is_bf16 = RoundsActivationsAtOnce();
    args.x_vectors = ffn_.hidden % 4 == 0 && ffn_.x % sizeof(float4) == 0;
    extent.panels = most_slices_ * args.panels;
    const auto launch = tiled ? LaunchTiled : LaunchStream;
    ProductKernel kernel = {.format = format_, .rounding = rounding_, .gate_up = true, .rounds_x = rounds_x_};
    launch(context_, kWhat, kernel, tables, args, extent);

    // 2. Rounded.
    const auto* const floats = reinterpret_cast<const float*>(room_);
    ProductX h = FloatX(floats, RoundsActivationsAtOnce() ? width / 2 : width);
    std::byte* next = room_ + ActivationBytes(num_pairs_, most_slices_);
    if (RoundedActivationBytes(num_pairs_, most_slices_) > 0) {
      h = RoundX(context_, kWhat, rounding_, num_pairs_, floats, nullptr, width, next);
      next += RoundedActivationBytes(num_pairs_, most_slices_);
    }
    h.cols = static_cast<int>(ffn_.slice_neurons);

    // 3. Down products, of pairs.
    args = ArgsFor(down_);
    args.x = h;
    args.x_by_pair = true;
    args.x_vectors = true;
    args.slice_bytes = ffn_.slice_bytes;
    args.matrix_offset = static_cast<int64_t>(gate_up_.bytes());
    args.out = next;
    args.out_stride = ffn_.hidden;
    args.split_stride = num_pairs_ * ffn_.hidden;
    args.vectors = ffn_.hidden % 4 == 0;
    extent.panels = args.panels;
    if (!tiled) {
      const int64_t tile = StreamTokens(rounding_, most_tokens_);
      const int64_t blocks = extent.panels * extent.pieces * ((most_tokens_ + tile - 1) / tile);
      const int64_t splits = StreamSplits(blocks, most_slices_ * args.blocks, context_.num_sms);
      const int64_t room = (room_bytes_ - (next - room_)) / (args.split_stride * kFloat);
      args.splits = static_cast<int>(std::min(splits, room));
    }
    kernel.gate_up = false;
    launch(context_, kWhat, kernel, tables, args, extent);

    // 4. Sums.
    combine.num_pieces = static_cast<int>(pieces_.size());
    combine.hidden = ffn_.hidden;
    combine.splits = args.splits;
    combine.y = static_cast<const float*>(args.out);
    combine.split_stride = args.split_stride;
    combine.out = At<float>(ffn_.out);
    const int64_t columns = CeilDiv(ffn_.hidden, kCombineThreads);
    Launch(kWhat,
           {.grid = dim3(static_cast<unsigned>(combine_rows), static_cast<unsigned>(columns)),
            .block = dim3(kCombineThreads)},
           context_.stream, CombineKernel, tables, combine);
    pieces_.clear();
    num_pairs_ = most_slices_ = most_tokens_ = 0;
  }

  void AppendPieces(TableBytes& bytes) const {
    std::vector<Piece> pieces;
    for (const HostPiece& piece : pieces_) {
      const auto* const weights = At<const float>(piece.entry->weights_on_device);
      pieces.push_back(
          {.slices = At<const std::byte>(piece.entry->slice) + piece.first_slice * ffn_.slice_bytes,
           .weights = weights == nullptr ? nullptr : weights + piece.first_token,
           .num_slices = static_cast<int>(piece.num_slices),
           .tokens = static_cast<int>(piece.tokens),
           .first_row = static_cast<int>(piece.first_token),
           .first_pair = static_cast<int>(piece.first_pair)});
    }
    bytes.Append(pieces);
  }

  // Which rows pairs have, and which pairs rows have; returns how many rows. No lists where tokens are rows
  // one after another and weights on the device: then nothing grows with the tokens, and a capture takes any
  // number of them.
  int64_t AppendRows(TableBytes& bytes, CombineArgs& combine, int64_t& rows_at) const {
    bool lists = false;
    int64_t end = 0;
    for (const HostPiece& piece : pieces_) {
      lists |= piece.entry->rows != nullptr || piece.entry->weights != nullptr;
      end = std::max(end, piece.first_token + piece.tokens);
    }
    combine.rows_at = -1;
    if (!lists) return end;

    std::vector<int32_t> rows;
    std::vector<Contribution> by_pair;
    for (const HostPiece& piece : pieces_) {
      const FiddlerSlices& entry = *piece.entry;
      for (int64_t t = piece.first_token; t < piece.first_token + piece.tokens; ++t) {
        rows.push_back(entry.rows != nullptr ? entry.rows[t] : static_cast<int32_t>(t));
        const float* const device_weights = At<const float>(entry.weights_on_device);
        const bool on_device = entry.weights == nullptr && device_weights != nullptr;
        by_pair.push_back({.weight_on_device = on_device ? device_weights + t : nullptr,
                           .weight = entry.weights != nullptr ? entry.weights[t] : 1.0f,
                           .pair = static_cast<int>(by_pair.size())});
      }
    }
    // By rows, in each the order of pairs.
    std::vector<Contribution> by_row = by_pair;
    std::stable_sort(by_row.begin(), by_row.end(), [&](const Contribution& a, const Contribution& b) {
      return rows[static_cast<size_t>(a.pair)] < rows[static_cast<size_t>(b.pair)];
    });
    std::vector<int32_t> distinct;
    std::vector<int32_t> starts;
    for (size_t i = 0; i < by_row.size(); ++i) {
      const int32_t row = rows[static_cast<size_t>(by_row[i].pair)];
      if (!distinct.empty() && distinct.back() == row) continue;
      distinct.push_back(row);
      starts.push_back(static_cast<int32_t>(i));
    }
    starts.push_back(static_cast<int32_t>(by_row.size()));
    rows_at = bytes.Append(rows);
    combine.rows_at = bytes.Append(distinct);
    combine.starts_at = bytes.Append(starts);
    combine.contributions_at = bytes.Append(by_row);
    return static_cast<int64_t>(distinct.size());
  }

  OpContext& context_;
  const FiddlerFfn& ffn_;
  const WeightFormat format_;
  const Rounding rounding_;
  const PackedMatrix gate_up_;
  const PackedMatrix down_;
  ProductX x_ = {};
  bool rounds_x_ = false;
  std::byte* room_ = nullptr;  // what x leaves of the scratch memory
  int64_t room_bytes_ = 0;

  // The round.
  std::vector<HostPiece> pieces_;
  int64_t num_pairs_ = 0;
  int64_t most_slices_ = 0;
  int64_t most_tokens_ = 0;
};

}  // namespace

void Ffn(OpContext& context, const FiddlerFfn& args) { FfnRounds(context, args).Run(); }

}  // namespace fiddler::cuda
