#include "runtime_cache.h"

#include <map>
#include <mutex>

namespace engine_runtime {

std::shared_ptr<RuntimeCache> RuntimeCache::shared(
    std::string const& key, void* config, abi::Layout const& layout, std::string const& contents) {
  static std::mutex mutex;
  // Never destroyed: its objects may not outlive the library that made them, nor the process's end.
  static auto* caches = new std::map<std::string, std::shared_ptr<RuntimeCache>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<RuntimeCache>& cache = (*caches)[key];
  if (cache == nullptr) {
    void* object = abi::call<void*>(config, layout.config.create_cache);
    if (object == nullptr) {
      return nullptr;
    }
    cache.reset(new RuntimeCache(object, layout));
    cache->refused_ = !contents.empty() &&
        !abi::call<bool, void const*, size_t>(object, layout.cache.deserialize, contents.data(), contents.size());
  }
  return cache;
}

RuntimeCache::~RuntimeCache() { abi::destroy(object_); }

std::string RuntimeCache::serialize() const {
  constexpr int kData = 0;
  constexpr int kSize = 1;
  void* memory = abi::call<void*>(object_, layout_.cache.serialize);
  if (memory == nullptr) {
    return {};
  }
  std::string contents(abi::call<char const*>(memory, kData), abi::call<size_t>(memory, kSize));
  abi::destroy(memory);
  return contents;
}

}  // namespace engine_runtime
