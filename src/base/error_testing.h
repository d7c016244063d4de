// For tests only: what an Error says.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace fiddler {

// What `call` complains about; fails the test if it does not throw Error, or with more than one line.
template <typename Call>
std::string ErrorOf(Call call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "expected an Error, got none";
  return "";
}

}  // namespace fiddler
