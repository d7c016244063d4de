// Is this build under AddressSanitizer or ThreadSanitizer? For tests, which then take ten times as long.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FIDDLER_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FIDDLER_SANITIZED 1
#endif
#endif
#ifndef FIDDLER_SANITIZED
#define FIDDLER_SANITIZED 0
#endif

namespace fiddler {

inline constexpr bool kSanitized = FIDDLER_SANITIZED != 0;

}  // namespace fiddler
