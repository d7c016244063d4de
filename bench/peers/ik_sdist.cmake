# ik-llama-cpp-python 0.1.5 lacks one file of its own build, which only writes the build's number and compiler.
# Given to pip as CMAKE_ARGS="-DCMAKE_PROJECT_INCLUDE=.../ik_sdist.cmake" (README.md), this puts an equivalent there.
set(folder "${CMAKE_SOURCE_DIR}/vendor/ik_llama.cpp/common")
if(EXISTS "${folder}/build-info.cpp.in" AND NOT EXISTS "${folder}/cmake/build-info-gen-cpp.cmake")
  file(WRITE "${folder}/cmake/build-info-gen-cpp.cmake" [=[
set(BUILD_NUMBER 0)
set(BUILD_COMMIT unknown)
set(BUILD_COMPILER "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
set(BUILD_TARGET "${CMAKE_HOST_SYSTEM_PROCESSOR}")
configure_file(common/build-info.cpp.in common/build-info.cpp)
]=])
endif()
