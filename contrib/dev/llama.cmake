# Read after project() of llama-cpp-python, which forces llama.cpp's common library into the cache; a plain variable
# goes before the cache (policy CMP0126). The library's units are half of all, and Python uses none of it.
set(LLAMA_BUILD_COMMON OFF)
