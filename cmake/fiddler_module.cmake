# fiddler_module(<folder> [SINGLE_THREADED] [DEPS target...]): one library per folder of src/, and one test binary beside it.
#   src/<folder>/*.cc        -> static library fiddler_<folder> (subfolders with one level are included)
#   src/<folder>/*_test.cc   -> executable <folder>_test, registered with CTest
# Linking only what is below keeps the layers honest; tools/check_includes does the same for headers.
function(fiddler_module folder)
  cmake_parse_arguments(ARG "SINGLE_THREADED" "" "DEPS" ${ARGN})
  string(REPLACE "/" "_" name ${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cc ${folder}/*/*.cc)
  list(FILTER sources EXCLUDE REGEX "/cuda/")  # kernels/cuda/emulation builds those
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")

  if(sources)
    add_library(fiddler_${name} STATIC ${sources})
    target_include_directories(fiddler_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(fiddler_${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(fiddler_${name} INTERFACE)
    target_include_directories(fiddler_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(fiddler_${name} INTERFACE ${ARG_DEPS})
  endif()

  # Under ThreadSanitizer, which is slow, only tests that start threads.
  if("thread" IN_LIST FIDDLER_SANITIZE AND ARG_SINGLE_THREADED)
    return()
  endif()
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE fiddler_${name} GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE FIDDLER_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300)
  endif()
endfunction()
