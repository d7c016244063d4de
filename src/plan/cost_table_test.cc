#include "plan/cost_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/json.h"
#include "plan/planning_testing.h"

namespace fiddler {
namespace {

TEST(CostTableTest, LinearBetweenKnots) {
  const CostTable table({{2, 10}, {4, 20}, {8, 28}}, "cpu");
  EXPECT_EQ(table.Seconds(0), 10);
  EXPECT_EQ(table.Seconds(1), 10);
  EXPECT_EQ(table.Seconds(2), 10);
  EXPECT_EQ(table.Seconds(3), 15);
  EXPECT_EQ(table.Seconds(4), 20);
  EXPECT_EQ(table.Seconds(6), 24);
  EXPECT_EQ(table.Seconds(8), 28);
  EXPECT_EQ(table.Seconds(16), 44);
}

TEST(CostTableTest, OneKnotIsConstant) {
  const CostTable table({{4, 10}}, "cpu");
  for (const double tokens : {0., 1., 4., 100.}) EXPECT_EQ(table.Seconds(tokens), 10);
  EXPECT_EQ(CostTable().Seconds(7), 0);
}

TEST(CostTableTest, NeverFallsBeyondTheLastKnot) {
  const CostTable table({{1, 10}, {4, 4}}, "cpu");
  EXPECT_EQ(table.Seconds(3), 6);
  EXPECT_EQ(table.Seconds(4), 4);
  EXPECT_EQ(table.Seconds(1000), 4);
}

TEST(CostTableTest, ManyKnotsAgreeWithALinearSearch) {
  std::vector<CostTable::Knot> knots;
  for (int i = 1; i <= 100; ++i) knots.push_back({i * i * 1.0, i * 2.0});
  const CostTable table(knots, "cpu");
  for (int i = 1; i < 100; ++i) {
    EXPECT_DOUBLE_EQ(table.Seconds(i * i), i * 2);
    EXPECT_DOUBLE_EQ(table.Seconds(i * i + 0.5 * (2 * i + 1)), i * 2 + 1) << i;
  }
}

TEST(CostTableTest, JsonAndBack) {
  const CostTable table({{1, 0.1}, {3, 1e-7}, {1e9, 3.25}}, "cpu");
  const std::string text = table.ToJson().dump();
  EXPECT_EQ(CostTable::FromJson(ParseJson(text, "cost.json"), "cost.json: cpu"), table);
  EXPECT_EQ(CostTable({{1, 0.5}, {2, 1}}, "cpu").ToJson().dump(), "[[1.0,0.5],[2.0,1.0]]");
}

TEST(CostTableTest, ErrorsNameTheField) {
  const auto made = [](std::vector<CostTable::Knot> knots) {
    return ErrorOf([&] { CostTable(knots, "cpu"); });
  };
  EXPECT_EQ(made({}), "cpu: expected at least one knot, got none");
  EXPECT_EQ(made({{1, 1}, {2, 1}, {2, 1}}), "cpu[2].tokens: expected more than 2, as knots ascend, got 2");
  EXPECT_EQ(made({{1, -1}}), "cpu[0].seconds: expected a finite number of at least 0, got -1");
  EXPECT_EQ(made({{-1, 1}}), "cpu[0].tokens: expected a finite number of at least 0, got -1");
  EXPECT_EQ(made({{1, INFINITY}}), "cpu[0].seconds: expected a finite number of at least 0, got inf");
  EXPECT_EQ(made({{1, 1}, {NAN, 1}}), "cpu[1].tokens: expected a finite number of at least 0, got nan");

  const auto read = [](const char* text) {
    return ErrorOf([&] { CostTable::FromJson(ParseJson(text, "f"), "f: cpu"); });
  };
  EXPECT_EQ(read("3"), "f: cpu: expected an array of [tokens, seconds], got 3");
  EXPECT_EQ(read("[]"), "f: cpu: expected at least one knot, got none");
  EXPECT_EQ(read("[[1, 2], [3]]"), "f: cpu[1]: expected [tokens, seconds], got [3]");
  EXPECT_EQ(read("[[1, \"2\"]]"), "f: cpu[0]: expected [tokens, seconds], got [1,\"2\"]");
  EXPECT_EQ(read("[[1, 2], [1, 3]]"), "f: cpu[1].tokens: expected more than 1, as knots ascend, got 1");
}

}  // namespace
}  // namespace fiddler
