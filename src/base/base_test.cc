#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/dtype.h"
#include "base/error_testing.h"
#include "base/file.h"
#include "base/units.h"

namespace fiddler {
namespace {

TEST(DTypeTest, NamesRoundTrip) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kU8, DType::kF8E4M3}) {
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("F31"), std::nullopt);
}

TEST(DTypeTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 half{static_cast<uint16_t>(bits)};
    const BF16 brain{static_cast<uint16_t>(bits)};
    if (!std::isnan(ToFloat(half))) {
      EXPECT_EQ(ToF16(ToFloat(half)).bits, bits);
    }
    if (!std::isnan(ToFloat(brain))) {
      EXPECT_EQ(ToBF16(ToFloat(brain)).bits, bits);
    }
  }
}

TEST(DTypeTest, RoundsToNearestEven) {
  EXPECT_EQ(ToBF16(1.0f + 0x1p-8f).bits, 0x3f80);            // a tie goes to the even neighbour
  EXPECT_EQ(ToBF16(1.0f + 0x1.8p-8f).bits, 0x3f81);          // past the tie goes up
  EXPECT_EQ(ToBF16(1.0f + 0x1p-7f + 0x1p-8f).bits, 0x3f82);  // a tie between odd and even
  EXPECT_EQ(ToF16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(ToF16(1.0f + 0x1p-10f + 0x1p-11f).bits, 0x3c02);
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00);  // halfway past the largest half: infinity
  EXPECT_EQ(ToF16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(ToF16(-0x1p-25f).bits, 0x8000);  // half the smallest subnormal: to even, zero
  EXPECT_EQ(ToF16(0x1.8p-25f).bits, 0x0001);
  EXPECT_TRUE(std::isnan(ToFloat(ToF16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isnan(ToFloat(ToBF16(std::numeric_limits<float>::signaling_NaN()))));
}

TEST(UnitsTest, ParsesSizes) {
  EXPECT_EQ(ParseBytes("24GiB", "--x"), uint64_t{24} << 30);
  EXPECT_EQ(ParseBytes("1.5KiB", "--x"), 1536u);
  EXPECT_EQ(ParseBytes("4096", "--x"), 4096u);
  EXPECT_EQ(ErrorOf([] { ParseBytes("24GB", "--gpu-memory"); }),
            "--gpu-memory: expected a size such as 24GiB, 512MiB or 4096, got '24GB'");
  for (const char* bad : {"", "GiB", "-1GiB", "nan", "inf", "1e30TiB", "12 GiB"}) {
    EXPECT_THROW(ParseBytes(bad, "--x"), Error) << bad;
  }
  EXPECT_EQ(FormatBytes(uint64_t{24} << 30), "24.0 GiB");
  EXPECT_EQ(FormatBytes(17), "17 B");
}

TEST(FileTest, ReadsFilesPipesAndDevicesUpToTheLimit) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "read_file_test";
  const std::string text(200'000, 'x');
  std::ofstream(path) << text;
  EXPECT_EQ(ReadFile(path, text.size()), text);
  EXPECT_EQ(ErrorOf([&] { ReadFile(path, text.size() - 1); }),
            path.string() + ": expected at most 199999 bytes, got more");
  std::filesystem::remove(path);
  EXPECT_EQ(ReadFile("/dev/null", 100), "");
  EXPECT_EQ(ErrorOf([] { ReadFile("/dev/zero", 100); }), "/dev/zero: expected at most 100 bytes, got more");
  EXPECT_EQ(ErrorOf([] { ReadFile("/nonexistent/file", 100); }),
            "/nonexistent/file: expected a file, got: No such file or directory");
  EXPECT_EQ(ErrorOf([] { ReadFile("/tmp", 100); }), "/tmp: expected a file, got: Is a directory");
}

class WriteFileTest : public testing::Test {
 protected:
  // A folder of its own: CTest runs every test as a process, some at the same time.
  void SetUp() override {
    std::string name = testing::TempDir() + "write_file_test_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  size_t NumFiles() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

TEST_F(WriteFileTest, WritesReplacesAndFollowsLinks) {
  const std::filesystem::path path = folder_ / "a";
  const std::string old(200'000, 'x');
  WriteFileAtomically(path, old);
  EXPECT_EQ(ReadFile(path, 1 << 20), old);
  std::filesystem::create_symlink("a", folder_ / "link");
  WriteFileAtomically(folder_ / "link", "new");
  EXPECT_EQ(ReadFile(path, 1 << 20), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "link"));
  WriteFileAtomically(path, "");
  EXPECT_EQ(ReadFile(path, 1 << 20), "");
  EXPECT_EQ(NumFiles(), 2u);
}

TEST_F(WriteFileTest, AFailureLeavesTheOldFileAndNoOther) {
  const std::filesystem::path path = folder_ / "a";
  WriteFileAtomically(path, "old");
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small = {.rlim_cur = 4096, .rlim_max = limit.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);  // as if the disk were full
  const std::string message = ErrorOf([&] { WriteFileAtomically(path, std::string(5000, 'x')); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(message, path.string() + ": expected to write a file, got: File too large");
  EXPECT_EQ(ReadFile(path, 100), "old");
  EXPECT_EQ(NumFiles(), 1u);
}

TEST_F(WriteFileTest, RefusesWhatIsNoFile) {
  EXPECT_EQ(ErrorOf([] { WriteFileAtomically("/dev/null", "x"); }),
            "/dev/null: expected a regular file or none, got something else");
  EXPECT_EQ(ErrorOf([&] { WriteFileAtomically(folder_, "x"); }),
            folder_.string() + ": expected a regular file or none, got something else");
  const std::filesystem::path nowhere = folder_ / "no" / "a";
  EXPECT_EQ(ErrorOf([&] { WriteFileAtomically(nowhere, "x"); }),
            nowhere.string() + ": expected to write a file, got: No such file or directory");
  EXPECT_EQ(NumFiles(), 0u);
}

}  // namespace
}  // namespace fiddler
