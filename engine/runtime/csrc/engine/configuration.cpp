#include "engine/configuration.h"

#include "tensorrt/failure.h"
#include "tensorrt/log.h"

namespace engine_runtime {

Configuration::Configuration(
    void* engine, abi::Layout const& layout, Options const& options, std::string const& kernels)
    : layout_(layout) {
  Listener listener;
  abi::ConfigSlots const& slots = layout.config;
  config_ = abi::call<void*>(engine, layout.engine.create_config);
  cache_ = config_ == nullptr ? nullptr : abi::call<void*>(config_, slots.create_cache);
  if (cache_ == nullptr) {
    abi::destroy(config_);
    throw Failure(FailureKind::Load, "TensorRT makes no runtime configuration", listener.errors());
  }
  auto const strategy = options.share_device_memory ? abi::MemoryStrategy::UserManaged : abi::MemoryStrategy::Static;
  abi::call<void, abi::MemoryStrategy>(config_, slots.set_memory_strategy, strategy);
  bool const captures =
      abi::call<bool, int32_t>(config_, slots.set_graph_strategy, options.whole_graph_capture ? 1 : 0);
  constexpr int32_t kNone = 2;
  abi::call<void, int32_t>(
      config_, slots.set_specialization, layout.specializes ? options.kernel_specialization : kNone);
  refused_ = !kernels.empty() &&
      !abi::call<bool, void const*, size_t>(cache_, layout.cache.deserialize, kernels.data(), kernels.size());
  if (!captures || !abi::call<bool, void*>(config_, slots.set_cache, cache_)) {
    abi::destroy(config_);
    abi::destroy(cache_);
    throw Failure(FailureKind::Load, "TensorRT rejects the runtime options", listener.errors());
  }
}

Configuration::~Configuration() {
  abi::destroy(config_);
  abi::destroy(cache_);
}

std::string Configuration::kernels() const {
  constexpr int kData = 0;
  constexpr int kSize = 1;
  void* memory = abi::call<void*>(cache_, layout_.cache.serialize);
  if (memory == nullptr) {
    return {};
  }
  std::string contents(abi::call<char const*>(memory, kData), abi::call<size_t>(memory, kSize));
  abi::destroy(memory);
  return contents;
}

}  // namespace engine_runtime
