# Compiled for GPUs (here) and for tests over the emulation (tests/client/cuda_engine).
set(FEDLLM_CUDA_ENGINE_SOURCES groups.cpp transfer.cpp device_weights.cpp fp8_weights.cpp panels.cpp buffers.cpp plan.cpp products.cpp
  computation.cpp computation_backward.cpp batch_feed.cpp cuda_engine.cpp replicated_engine.cpp
  cuda_backend.cpp)
list(TRANSFORM FEDLLM_CUDA_ENGINE_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/client/cuda_engine/)
