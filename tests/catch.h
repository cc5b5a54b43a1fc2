// The one place that knows which Catch2 is installed: 2 on Debian 12, 3 on Ubuntu 24.04. Tests use version 3's names.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>

#include <string>

namespace Catch::Matchers {

/// Version 2 calls it Contains, which in version 3 is about elements of a range.
inline StdString::ContainsMatcher ContainsSubstring(const std::string& part,
                                                    CaseSensitive::Choice sensitivity = CaseSensitive::Yes) {
  return Contains(part, sensitivity);
}

}  // namespace Catch::Matchers
#endif
