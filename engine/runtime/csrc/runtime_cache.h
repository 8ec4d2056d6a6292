// TensorRT-RTX's cache of the kernels that it compiled, shared by the engines of the process.
#pragma once

#include <memory>
#include <string>

#include "abi.h"

namespace engine_runtime {

class RuntimeCache {
 public:
  // The cache of the process for `key`, made with a runtime configuration when first asked for.
  //
  // `contents` fill a new cache; those of another GPU or version are refused, and `refused` then says so.
  // Null where TensorRT makes no cache.
  static std::shared_ptr<RuntimeCache> shared(
      std::string const& key, void* config, abi::Layout const& layout, std::string const& contents);

  ~RuntimeCache();
  RuntimeCache(RuntimeCache const&) = delete;
  RuntimeCache& operator=(RuntimeCache const&) = delete;

  void* object() const { return object_; }
  bool refused() const { return refused_; }
  std::string serialize() const;

 private:
  RuntimeCache(void* object, abi::Layout const& layout) : object_(object), layout_(layout) {}

  void* object_;  // IRuntimeCache
  abi::Layout const& layout_;
  bool refused_ = false;
};

}  // namespace engine_runtime
