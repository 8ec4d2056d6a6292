// How TensorRT-RTX runs one context, and its cache of the kernels that it compiled.
#pragma once

#include <string>

#include "tensorrt/abi.h"
#include "engine/options.h"

namespace engine_runtime {

// Lives as long as the context that is made with it: TensorRT does not keep the cache.
//
// Each context has a cache of its own: with one that contexts share, TensorRT-RTX 1.6.1 crashes when
// they run in several threads.
class Configuration {
 public:
  // `kernels`, possibly none, fill the cache; those of another GPU or version are refused.
  //
  // Throws Failure (Load) where TensorRT makes no configuration, or does not take the options.
  Configuration(void* engine, abi::Layout const& layout, Options const& options, std::string const& kernels);
  ~Configuration();
  Configuration(Configuration const&) = delete;
  Configuration& operator=(Configuration const&) = delete;

  void* object() const { return config_; }
  bool refused() const { return refused_; }

  // The kernels that the context compiled until now, and those that it was given.
  std::string kernels() const;

 private:
  abi::Layout const& layout_;
  void* config_ = nullptr;  // IRuntimeConfig
  void* cache_ = nullptr;   // IRuntimeCache
  bool refused_ = false;
};

}  // namespace engine_runtime
