#include "base/field_reader.h"

#include <gtest/gtest.h>

#include "base/error_testing.h"
#include "base/json.h"

namespace fiddler {
namespace {

TEST(FieldReaderTest, IntegersWithinTheirRange) {
  const auto read = [](const char* value, int64_t low, int64_t high) {
    const Json json = ParseJson(fmt::format("{{\"n\": {}}}", value), "f");
    return FieldReader(json, "f").Integer("n", low, high);
  };
  EXPECT_EQ(read("-2", -2, 3), -2);
  EXPECT_EQ(read("3", -2, 3), 3);
  EXPECT_EQ(read("9223372036854775807", 0, INT64_MAX), INT64_MAX);
  EXPECT_EQ(ErrorOf([&] { read("4", -2, 3); }), "f: n: expected an integer from -2 to 3, got 4");
  for (const char* wrong : {"-3", "2.0", "\"2\"", "true", "null", "[1]", "9223372036854775808"}) {
    EXPECT_NE(ErrorOf([&] { read(wrong, -2, 3); }).find(wrong), std::string::npos) << wrong;
  }
  EXPECT_NE(ErrorOf([&] { read("18446744073709551615", INT64_MIN, INT64_MAX); }), "");
}

}  // namespace
}  // namespace fiddler
