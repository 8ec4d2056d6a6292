#include "engine/shape_binding.h"

#include "engine/limits.h"

namespace engine_runtime {
size_t ShapeBindingCache::Hash::operator()(Signature const& signature) const {
  uint64_t hash = signature.size();
  for (int64_t word : signature) {
    hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

ShapeBindingPointer ShapeBindingCache::find(Signature const& signature) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = bindings_.find(signature);
  return found == bindings_.end() ? nullptr : found->second;
}

void ShapeBindingCache::add(ShapeBindingPointer bound) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!bindings_.emplace(bound->signature, bound).second) {
    return;
  }
  if (order_.size() < kMaxShapeBindings) {
    order_.push_back(std::move(bound));
    return;
  }
  bindings_.erase(order_[oldest_]->signature);
  order_[oldest_] = std::move(bound);
  oldest_ = (oldest_ + 1) % kMaxShapeBindings;
}

void ShapeBindingCache::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  bindings_.clear();
  order_.clear();
  oldest_ = 0;
}

size_t ShapeBindingCache::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bindings_.size();
}

}  // namespace engine_runtime
