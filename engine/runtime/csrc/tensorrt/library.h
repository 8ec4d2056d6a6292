// The TensorRT library of the process.
#pragma once

#include <functional>
#include <string>

#include "tensorrt/abi.h"

namespace engine_runtime {

struct Library {
  std::string path;
  int32_t version = 0;
  abi::Layout const* layout = nullptr;
  void* runtime = nullptr;  // IRuntime, for the life of the process
};

// Opens the library at `path` and makes it the process's.  Once one is open, the same one is
// returned whatever the path.
//
// Throws Failure (Unavailable): it cannot be opened, is not TensorRT, or has an unknown layout.
Library const& open_library(std::string const& path);

// The open library; where none is, the one that the environment variable ENGINE_TENSORRT_LIBRARY
// names, what the finder opens, one that is loaded already, or one that the loader finds.
Library const& library();

// In a Python process: opens the library of the package that is installed, or does nothing.
void set_library_finder(std::function<void()> finder);

}  // namespace engine_runtime
