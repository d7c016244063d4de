# The CUDA language where nvcc is found, and FIDDLER_HAS_CUDA to say so. Without it everything else is built as ever.
# Sanitizers and Clang: no plugin. nvcc's host compiler stays g++, and what is checked with them has no CUDA in it.
option(FIDDLER_CUDA "build libfiddler_cuda.so, if nvcc is there" ON)
set(FIDDLER_CUDA_ARCHITECTURES "90-real;90-virtual" CACHE STRING
  "GPUs that libfiddler_cuda.so is for; the virtual one is compiled by the driver of any later GPU")

set(FIDDLER_HAS_CUDA OFF)
if(FIDDLER_CUDA AND NOT FIDDLER_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  find_program(FIDDLER_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(FIDDLER_NVCC)
  if(FIDDLER_NVCC)
    set(ENV{CUDACXX} ${FIDDLER_NVCC})
    set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
    set(CMAKE_CUDA_ARCHITECTURES ${FIDDLER_CUDA_ARCHITECTURES})
    include(CheckLanguage)
    check_language(CUDA)  # not every nvcc takes every g++
  endif()
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
  endif()
  # 12.8 is the first that has all that is asked of the runtime, and of the GPUs of the preset cuda-release.
  if(CMAKE_CUDA_COMPILER AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 12 and later have it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(FIDDLER_HAS_CUDA ON)
  else()
    message(STATUS "no nvcc of CUDA 12.8 or later that works with this g++: libfiddler_cuda.so is not built")
  endif()
endif()
