#include "tensorrt/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "tensorrt/failure.h"
#include "tensorrt/log.h"

namespace engine_runtime {
namespace {

// `tensorrt` wins over `tensorrt_rtx`, as in Python.
constexpr char const* kNames[] = {"libnvinfer.so.11", "libnvinfer.so.10", "libtensorrt_rtx.so.1"};

std::mutex mutex;
Library* opened = nullptr;
std::function<void()> find;

Library const* already_open() {
  std::lock_guard<std::mutex> lock(mutex);
  return opened;
}

[[noreturn]] void unavailable(std::string const& text) { throw Failure(FailureKind::Unavailable, text); }

std::string loader_error() {
  char const* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

template <typename Function>
Function symbol(void* handle, char const* name, std::string const& path) {
  void* found = dlsym(handle, name);
  if (found == nullptr) {
    unavailable(path + " is not a TensorRT library: it has no function " + name);
  }
  return reinterpret_cast<Function>(found);
}

std::string path_of(void* address, std::string const& fallback) {
  Dl_info info;
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : fallback;
}

Library* use(void* handle, std::string const& given) {
  auto version_of = symbol<int32_t (*)()>(handle, "getInferLibVersion", given);
  auto create = symbol<void* (*)(void*, int32_t)>(handle, "createInferRuntime_INTERNAL", given);
  std::string path = path_of(reinterpret_cast<void*>(create), given);
  int32_t version = version_of();
  std::string file = path.substr(path.rfind('/') + 1);
  bool rtx = file.find("tensorrt_rtx") != std::string::npos;
  if (!rtx && file.find("nvinfer") == std::string::npos) {
    unavailable(path + " is neither libnvinfer nor libtensorrt_rtx, so the order of its functions is not known");
  }
  abi::Layout const* layout = abi::find_layout(rtx, version);
  if (layout == nullptr) {
    unavailable(
        "the C++ path does not know " + std::string(rtx ? "TensorRT-RTX" : "TensorRT") + " of version number " +
        std::to_string(version) + " (" + path + ")");
  }
  // A second logger would be refused, with a warning.
  auto registered = reinterpret_cast<void* (*)()>(dlsym(handle, "getLogger"));
  void* logger = registered == nullptr ? nullptr : registered();
  set_own_logger(logger == nullptr);
  Listener listener;
  void* runtime = create(logger == nullptr ? process_logger(layout->versioned_logger) : logger, version);
  if (runtime == nullptr) {
    throw Failure(FailureKind::Unavailable, path + " makes no runtime", listener.errors());
  }
  return new Library{path, version, layout, runtime};
}

}  // namespace

Library const& open_library(std::string const& path) {
  std::lock_guard<std::mutex> lock(mutex);
  if (opened == nullptr) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      unavailable("the TensorRT library cannot be opened: " + loader_error());
    }
    opened = use(handle, path);
  }
  return *opened;
}

void set_library_finder(std::function<void()> finder) {
  std::lock_guard<std::mutex> lock(mutex);
  find = std::move(finder);
}

Library const& library() {
  if (Library const* found = already_open(); found != nullptr) {
    return *found;
  }
  if (char const* named = std::getenv("ENGINE_TENSORRT_LIBRARY"); named != nullptr && *named != '\0') {
    return open_library(named);
  }
  std::function<void()> finder;
  {
    std::lock_guard<std::mutex> lock(mutex);
    finder = find;
  }
  if (finder) {
    finder();
  }
  if (Library const* found = already_open(); found != nullptr) {
    return *found;
  }
  for (int flags : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW | RTLD_LOCAL}) {
    for (char const* name : kNames) {
      if (void* handle = dlopen(name, flags); handle != nullptr) {
        dlclose(handle);
        return open_library(name);
      }
    }
  }
  unavailable(
      "no TensorRT library is loaded, and the loader finds none: set ENGINE_TENSORRT_LIBRARY to the path of "
      "libnvinfer.so or libtensorrt_rtx.so, or LD_LIBRARY_PATH to its folder");
}

}  // namespace engine_runtime
