// How an engine is run; RunOptions of engine/runtime/options.py says what each one means.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace engine_runtime {

struct Options {
  bool pre_allocated_outputs = false;         // results lie in memory that the next call overwrites
  bool share_device_memory = false;
  bool whole_graph_capture = false;           // TensorRT-RTX's own CUDA graphs
  int32_t kernel_specialization = 0;          // lazy, eager, none
  std::optional<int64_t> streaming_budget;    // bytes of weights on the GPU
  std::string runtime_cache_folder;           // where compiled kernels are kept; empty for nowhere
  std::string runtime_cache;                  // what was kept there, possibly nothing

  // Whether something is asked for that only TensorRT-RTX can do.
  bool needs_rtx() const {
    return whole_graph_capture || kernel_specialization != 0 || !runtime_cache_folder.empty();
  }
};

}  // namespace engine_runtime
