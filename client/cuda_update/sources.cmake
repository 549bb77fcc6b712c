# Compiled for GPUs (here) and for tests over the emulation (tests/client/cuda_update).
set(FEDLLM_CUDA_UPDATE_SOURCES ${PROJECT_SOURCE_DIR}/client/cuda_update/cuda_builder.cpp)
