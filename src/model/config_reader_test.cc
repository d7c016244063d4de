#include "model/config_reader.h"

#include <gtest/gtest.h>

#include "io/test_files.h"

namespace fiddler {
namespace {

// What reading `field` of {"field": value} complains about.
template <typename Read>
std::string ErrorOfReading(const char* value, Read read) {
  const Json json = ParseJson(fmt::format(R"({{"field": {}}})", value), "test");
  ConfigReader config(json, "c.json");
  return ErrorOf([&] { read(config); });
}

TEST(ConfigReaderTest, IntegersOutOfTypeOrRange) {
  const auto read = [](ConfigReader& config) { config.Integer("field", 1, 10); };
  for (const char* value :
       {"0", "11", "-3", "2.5", "3.0", "true", R"("4")", "[4]", "{}", "1e3", "18446744073709551615",
        "-9223372036854775808", "123456789012345678901234567890"}) {
    const std::string error = ErrorOfReading(value, read);
    EXPECT_TRUE(error.starts_with("c.json: field: expected an integer from 1 to 10, got ")) << error;
  }
  EXPECT_EQ(ErrorOfReading("null", read),
            "c.json: field: expected an integer from 1 to 10, got nothing: the field is missing");
}

TEST(ConfigReaderTest, IntegersAtTheEndsOfTheRange) {
  const Json json =
      ParseJson(R"({"min": -9223372036854775808, "max": 9223372036854775807, "none": null})", "");
  ConfigReader config(json, "c.json");
  EXPECT_EQ(config.Integer("min", INT64_MIN, INT64_MAX), INT64_MIN);
  EXPECT_EQ(config.Integer("max", INT64_MIN, INT64_MAX), INT64_MAX);
  EXPECT_EQ(config.Integer("max", 0, INT64_MAX), INT64_MAX);
  EXPECT_EQ(config.Integer("none", 0, 9, 5), 5);
  EXPECT_EQ(config.Integer("absent", 0, 9, 6), 6);
}

TEST(ConfigReaderTest, NumbersOutOfTypeOrRange) {
  const auto read = [](ConfigReader& config) { config.Number("field", 0.5, 2); };
  for (const char* value : {"0.49", "2.01", "-1", "1e300", R"("1")", "false", "[]"}) {
    const std::string error = ErrorOfReading(value, read);
    EXPECT_TRUE(error.starts_with("c.json: field: expected a number from 0.5 to 2, got ")) << error;
  }
  EXPECT_EQ(ErrorOfReading("null", read),
            "c.json: field: expected a number from 0.5 to 2, got nothing: the field is missing");
}

TEST(ConfigReaderTest, OtherTypes) {
  EXPECT_EQ(ErrorOfReading("1", [](ConfigReader& c) { c.Boolean("field", true); }),
            "c.json: field: expected true or false, got 1");
  EXPECT_EQ(ErrorOfReading("1", [](ConfigReader& c) { c.String("field", ""); }),
            "c.json: field: expected a string, got 1");
  EXPECT_EQ(ErrorOfReading("[1, 2, 30]", [](ConfigReader& c) { c.Integers("field", 0, 9); }),
            "c.json: field: expected integers from 0 to 9, got [1,2,30]");
  EXPECT_EQ(ErrorOfReading(R"(["a", 1])", [](ConfigReader& c) { c.Strings("field"); }),
            R"(c.json: field: expected a list of strings, got ["a",1])");
  EXPECT_EQ(ErrorOfReading("[]", [](ConfigReader& c) { c.Object("field"); }),
            "c.json: field: expected an object, got []");
  EXPECT_EQ(ErrorOfReading(R"("gelu")", [](ConfigReader& c) { c.MustBe("field", "silu"); }),
            R"(c.json: field: expected "silu", got "gelu")");
  EXPECT_EQ(ErrorOf([] { ConfigReader(Json::array(), "c.json"); }),
            "c.json: expected a JSON object, got array");
}

TEST(ConfigReaderTest, ListsMayBeOneValueOrNothing) {
  const Json json = {{"one", 7}, {"many", {1, 2}}, {"none", nullptr}};
  ConfigReader config(json, "");
  EXPECT_EQ(config.Integers("one", 0, 9), (std::vector<int64_t>{7}));
  EXPECT_EQ(config.Integers("many", 0, 9), (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(config.Integers("none", 0, 9).empty());
  EXPECT_TRUE(config.Strings("absent").empty());
}

TEST(ConfigReaderTest, NullIsNotGivenButCanBeTold) {
  const Json json = {{"null", nullptr}, {"zero", 0}};
  ConfigReader config(json, "");
  EXPECT_FALSE(config.Has("null"));
  EXPECT_TRUE(config.IsNull("null"));
  EXPECT_FALSE(config.IsNull("zero"));
  EXPECT_FALSE(config.IsNull("absent"));
}

TEST(ConfigReaderTest, RefusesWhatNobodyRead) {
  const Json json = {{"read", 1}, {"ignored", 2}, {"torch_dtype", "bfloat16"}, {"null", nullptr}, {"new", 3}};
  const auto refuse = [&](std::span<const std::string> tolerated) {
    ConfigReader config(json, "c.json", tolerated);
    config.Integer("read", 0, 9);
    config.Ignore("ignored");
    config.RefuseUnread();
  };
  EXPECT_TRUE(ErrorOf([&] { refuse({}); }).starts_with("c.json: new: expected no such field"));
  const std::vector<std::string> tolerated = {"new"};
  EXPECT_NO_THROW(refuse(tolerated));
}

// Names and values of an untrusted file must not break the one line of an error, nor steer a terminal.
TEST(ConfigReaderTest, ErrorsAreOneShortLineWhateverTheFileHolds) {
  const std::string nasty = "\033[2J\nroot\xff\r" + std::string(1000, 'x');
  const Json json = {{nasty, nasty}};
  ConfigReader config(json, "c.json");
  for (const std::string& error :
       {ErrorOf([&] { config.RefuseUnread(); }), ErrorOf([&] { config.MustBe(nasty, 1); })}) {
    EXPECT_TRUE(std::all_of(error.begin(), error.end(), [](char c) { return c >= ' ' && c <= '~'; }))
        << error;
    EXPECT_LT(error.size(), 400);
  }
}

}  // namespace
}  // namespace fiddler
