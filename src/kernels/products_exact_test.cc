// What products promise to the last bit: how x is rounded and packed, and that a token's result depends on
// that token alone.
#include <gtest/gtest.h>

#include <numeric>

#include "kernels/dispatch.h"
#include "kernels/product_testing.h"
#include "kernels/rounding.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::kProductCols;
using testing::Product;
using testing::ProductKind;
using testing::ProductKinds;
using testing::ProductShape;
using testing::Random;
using testing::SameBits;
using testing::Untouched;

using Floats = GuardedArray<float>;

void ExpectSame(const Floats& a, const Floats& b, int64_t stride) {
  ASSERT_EQ(a.size(), b.size());
  for (int64_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(SameBits(a[i], b[i]))
        << "token " << i / stride << ", row " << i % stride << ": " << a[i] << ", otherwise " << b[i];
  }
}

// Weights that are 1 on the diagonal, exactly, so that y is x as rounded.
void SetIdentity(Product& product) {
  const ProductShape& shape = product.shape();
  std::vector<float> values(static_cast<size_t>(shape.rows * shape.cols));
  for (int64_t i = 0; i < shape.cols; ++i) values[static_cast<size_t>(i * shape.cols + i)] = 1;
  product.SetWeights(values);
  if (shape.kind.format != WeightFormat::kInt8) return;
  for (int64_t i = 0; i < shape.cols; ++i) {
    product.SetScale(i, i, ToBF16(1));
    product.SetWhole(i, i, 1);
  }
}

// One value of x of many kinds: usual ones, zeros, halves that tie, next to nothing, next to everything.
float Odd(Random& random) {
  switch (random.Range(0, 7)) {
    case 0:
      return 0;
    case 1:
      return static_cast<float>(random.Range(-254, 254)) / 2;
    case 2:
      return std::bit_cast<float>(static_cast<uint32_t>(0x3f808000 + 0x10000 * random.Range(0, 100)));
    case 3:
      return random.Normal() * 1e-3f;
    default:
      return random.Normal();
  }
}

// The same rounding in every set, that of rounding.h.
TEST(Pack, RoundsAsDefined) {
  Random random(1);
  for (const ProductKind kind : ProductKinds()) {
    for (const int64_t cols : kProductCols) {
      for (const float scale : {1.0f, 1e-25f, 1e-31f, 1e30f}) {
        Product product({kind, cols, cols, random.Range(1, 15)}, random);
        SCOPED_TRACE(fmt::format("{}, values of {}", ToString(product.shape()), scale));
        SetIdentity(product);
        const int64_t tokens = product.shape().tokens;
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t k = 0; k < cols; ++k) product.SetX(t, k, scale * Odd(random));
          if (kind.rounding == Rounding::kInt8Group64 || kind.rounding == Rounding::kInt8Group32) {
            product.SetX(t, random.Range(0, cols - 1), 127 * scale);  // halves tie
          }
        }
        for (const CpuKernels* kernels : testing::FastKernels()) {
          Floats y(product.y_size());
          kernels->mat_mul(product.MatMul(*product.PackedX(*kernels), y.data()));
          for (int64_t t = 0; t < tokens; ++t) {
            std::vector<float> expected;
            for (int64_t k = 0; k < cols; ++k) expected.push_back(product.X(t, k));
            const int64_t group = RoundingGroup(kind.rounding);
            for (int64_t k = 0; k < cols; k += group)
              RoundGroup(kind.rounding, std::min(group, cols - k), expected.data() + k);
            for (int64_t k = 0; k < cols; ++k) {
              ASSERT_EQ(y[t * product.y_stride() + k], expected[static_cast<size_t>(k)])
                  << kernels->isa << ", token " << t << ", column " << k << ": " << product.X(t, k);
            }
          }
        }
      }
    }
  }
}

// Tile by tile in any order is all at once, and writes its own tiles alone.
TEST(Pack, TilesInAnyOrder) {
  Random random(2);
  for (const ProductKind kind : ProductKinds()) {
    for (int i = 0; i < 40; ++i) {
      Product product({kind, 1, random.Pick(kProductCols), random.Range(1, 65)}, random);
      SCOPED_TRACE(ToString(product.shape()));
      if (random.Coin()) product.Gather();
      for (const CpuKernels* kernels : SupportedKernels()) {
        SCOPED_TRACE(kernels->isa);
        const auto together = product.PackedX(*kernels);
        GuardedArray<std::byte> apart(together->size());
        PackArgs args = product.PackX();
        args.packed = apart.data();
        const int64_t tiles = kernels->num_tiles(args.rounding, args.tokens);
        ASSERT_GE(tiles, 1);
        ASSERT_LE(tiles, args.tokens);
        std::vector<int64_t> cuts = {0, tiles};
        for (int cut = 0; cut < 3; ++cut) cuts.push_back(random.Range(0, tiles));
        std::sort(cuts.begin(), cuts.end());
        for (const size_t part : {size_t{2}, size_t{0}, size_t{3}, size_t{1}}) {
          args.tile_begin = cuts[part];
          args.tile_end = cuts[part + 1];
          kernels->pack(args);
        }
        ASSERT_TRUE(apart.FrontIntact());
        ASSERT_EQ(std::memcmp(together->data(), apart.data(), static_cast<size_t>(apart.size())), 0);
        // Two parts share no byte.
        GuardedArray<std::byte> rest(together->size());
        args.packed = rest.data();
        args.tile_begin = cuts[2];
        args.tile_end = tiles;
        kernels->pack(args);
        GuardedArray<std::byte> start(together->size());
        args.packed = start.data();
        args.tile_begin = 0;
        args.tile_end = cuts[2];
        kernels->pack(args);
        constexpr std::byte kUntouched{0xff};
        for (int64_t byte = 0; byte < rest.size(); ++byte)
          ASSERT_TRUE(start[byte] == kUntouched || rest[byte] == kUntouched) << byte;
      }
    }
  }
}

// Packs some tokens of a product, away from the others.
class Tokens {
 public:
  Tokens(const Product& product, const CpuKernels& kernels) : product_(product), kernels_(kernels) {}

  // The packed x of tokens [begin, end) alone.
  std::unique_ptr<GuardedArray<std::byte>> Pack(int64_t begin, int64_t end) const {
    const int64_t segments = product_.shape().segments;
    const int64_t bytes = (end - begin) * PackedTokenBytes(product_.shape().cols);
    auto packed = std::make_unique<GuardedArray<std::byte>>(segments * bytes);
    for (int64_t segment = 0; segment < segments; ++segment) {
      PackArgs args = product_.PackX(segment);
      if (args.row_index != nullptr) {
        args.row_index += begin;
      } else {
        args.x += begin * args.x_stride;
      }
      args.tokens = end - begin;
      args.tile_end = kernels_.num_tiles(args.rounding, args.tokens);
      args.packed = packed->data() + segment * bytes;
      kernels_.pack(args);
    }
    return packed;
  }

 private:
  const Product& product_;
  const CpuKernels& kernels_;
};

// One call for all equals calls for some tokens and some panels, down to one of each.
TEST(MatMul, ResultDependsOnRowAndTokenAlone) {
  Random random(3);
  for (int i = 0; i < 25; ++i) {
    for (const ProductKind kind : ProductKinds()) {
      Product product({kind, random.Range(1, 150), random.Pick({1, 33, 131, 300, 2100}), random.Range(2, 40),
                       random.Pick({1, 1, 3})},
                      random);
      if (random.Coin()) product.Gather();
      SCOPED_TRACE(ToString(product.shape()));
      const int64_t tokens = product.shape().tokens;
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(kernels->isa);
        Floats together(product.y_size());
        const auto x = product.PackedX(*kernels);
        MatMulArgs args = product.MatMul(*x, together.data());
        args.bias = product.bias().data();
        kernels->mat_mul(args);

        Floats apart(product.y_size());
        const auto part = [&](int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end) {
          const auto some = Tokens(product, *kernels).Pack(begin, end);
          MatMulArgs piece = product.MatMul(*some, apart.data() + begin * product.y_stride());
          piece.tokens = end - begin;
          piece.x_segment_bytes = piece.tokens * PackedTokenBytes(product.shape().cols);
          piece.panel_begin = panel_begin;
          piece.panel_end = panel_end;
          piece.bias = args.bias;
          kernels->mat_mul(piece);
        };
        const int64_t cut_panel = random.Range(0, product.num_panels());
        const int64_t cut_token = random.Range(1, tokens);
        part(0, cut_token, cut_panel, product.num_panels());
        part(0, cut_token, 0, cut_panel);
        for (int64_t t = cut_token; t < tokens; ++t) part(t, t + 1, 0, product.num_panels());
        ASSERT_NO_FATAL_FAILURE(ExpectSame(together, apart, product.y_stride()));
      }
    }
  }
}

TEST(GateUp, ResultDependsOnNeuronAndTokenAlone) {
  Random random(4);
  for (int i = 0; i < 25; ++i) {
    for (const ProductKind kind : ProductKinds()) {
      const Product product(
          {kind, 32 * random.Range(1, 5), random.Pick({1, 33, 131, 300, 2100}), random.Range(2, 40)}, random);
      SCOPED_TRACE(ToString(product.shape()));
      const int64_t tokens = product.shape().tokens;
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(kernels->isa);
        Floats together(product.h_size());
        kernels->gate_up(product.GateUp(*product.PackedX(*kernels), together.data()));

        Floats apart(product.h_size());
        const auto part = [&](int64_t begin, int64_t end, int64_t panel_begin, int64_t panel_end) {
          const auto some = Tokens(product, *kernels).Pack(begin, end);
          GateUpArgs piece = product.GateUp(*some, apart.data() + begin * product.y_stride());
          piece.tokens = end - begin;
          piece.panel_begin = panel_begin;
          piece.panel_end = panel_end;
          kernels->gate_up(piece);
        };
        const int64_t cut_panel = random.Range(0, product.num_panels());
        const int64_t cut_token = random.Range(1, tokens);
        part(0, cut_token, cut_panel, product.num_panels());
        part(0, cut_token, 0, cut_panel);
        for (int64_t t = cut_token; t < tokens; ++t) part(t, t + 1, 0, product.num_panels());
        ASSERT_NO_FATAL_FAILURE(ExpectSame(together, apart, product.y_stride()));
      }
    }
  }
}

// Segments in one call equal a call for each of them, added in order, by hand and by add_rows.
TEST(MatMul, SegmentsAreSumsAddedInOrder) {
  Random random(5);
  for (const ProductKind kind : ProductKinds()) {
    for (int64_t segments = 1; segments <= 5; ++segments) {
      const Product product(
          {kind, random.Range(1, 150), random.Pick(kProductCols), random.Range(1, 30), segments}, random);
      SCOPED_TRACE(ToString(product.shape()));
      for (const CpuKernels* kernels : SupportedKernels()) {
        if (kernels == &GenericKernels()) continue;  // sums in double
        SCOPED_TRACE(kernels->isa);
        const auto x = product.PackedX(*kernels);
        Floats together(product.y_size());
        kernels->mat_mul(product.MatMul(*x, together.data()));

        Floats shares(segments * product.y_size());
        Floats sum(product.y_size());
        for (int64_t segment = 0; segment < segments; ++segment) {
          MatMulArgs args = product.MatMul(*x, shares.data() + segment * product.y_size());
          args.x += segment * args.x_segment_bytes;
          args.w.data += segment * args.w_segment_bytes;
          args.segments = 1;
          kernels->mat_mul(args);
          for (int64_t i = 0; i < sum.size(); ++i)
            if (const float share = shares[segment * sum.size() + i]; !Untouched(share))
              sum[i] = segment == 0 ? share : sum[i] + share;
        }
        ASSERT_NO_FATAL_FAILURE(ExpectSame(together, sum, product.y_stride()));

        for (int64_t t = 0; t < product.shape().tokens; ++t) {
          Floats row(product.shape().rows);
          std::fill(row.begin(), row.end(), 0.0f);
          kernels->add_rows({.rows = segments,
                             .cols = row.size(),
                             .x = shares.data() + t * product.y_stride(),
                             .x_stride = product.y_size(),
                             .scale = 1,
                             .y = row.data()});
          for (int64_t r = 0; r < row.size(); ++r) ASSERT_EQ(row[r], together[t * product.y_stride() + r]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
