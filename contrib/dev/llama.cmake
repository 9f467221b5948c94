# Read after project() of llama-cpp-python, which otherwise asks for llama.cpp's common library and installs it.
set(LLAMA_BUILD_COMMON OFF)
