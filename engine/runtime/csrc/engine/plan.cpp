#include "engine/plan.h"

#include "engine/limits.h"

namespace engine_runtime {
size_t PlanCache::Hash::operator()(Signature const& signature) const {
  uint64_t hash = signature.size();
  for (int64_t word : signature) {
    hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

PlanPointer PlanCache::find(Signature const& signature) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = plans_.find(signature);
  return found == plans_.end() ? nullptr : found->second;
}

void PlanCache::add(PlanPointer plan) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!plans_.emplace(plan->signature, plan).second) {
    return;
  }
  if (order_.size() < kMaxShapeBindings) {
    order_.push_back(std::move(plan));
    return;
  }
  plans_.erase(order_[oldest_]->signature);
  order_[oldest_] = std::move(plan);
  oldest_ = (oldest_ + 1) % kMaxShapeBindings;
}

void PlanCache::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  plans_.clear();
  order_.clear();
  oldest_ = 0;
}

size_t PlanCache::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return plans_.size();
}

}  // namespace engine_runtime
