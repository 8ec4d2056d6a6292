#include "engine/context_pool.h"

#include <algorithm>
#include <utility>

#include "engine/device.h"
#include "engine/limits.h"
#include "tensorrt/failure.h"
#include "engine/capture_safe_lock.h"

namespace engine_runtime {
PooledContext::PooledContext(void* context, std::unique_ptr<Configuration> configuration, size_t inputs, size_t outputs)
    : context(context),
      configuration(std::move(configuration)),
      input_addresses(inputs, nullptr),
      output_addresses(outputs, nullptr) {}

// The context goes before the allocators that it may still point to, and after its work.
PooledContext::~PooledContext() {
  try {
    if (stream.has_value() && !retired && !device::done(*stream)) {
      device::synchronise(*stream);
    }
  } catch (...) {
    // The work failed, or the process ends: there is nothing to wait for.
  }
  abi::destroy(context);
}

void PooledContext::forget() {
  bound.reset();
  profile = -1;
  kept.clear();
  std::fill(input_addresses.begin(), input_addresses.end(), nullptr);
  std::fill(output_addresses.begin(), output_addresses.end(), nullptr);
}

ContextPool::ContextPool(std::function<std::unique_ptr<PooledContext>()> create, size_t limit)
    : create_(std::move(create)), limit_(std::max<size_t>(1, limit)) {}

void ContextPool::add(std::unique_ptr<PooledContext> pooled) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(pooled.get());
  contexts_.push_back(std::move(pooled));
  ++count_;
}

PooledContext* ContextPool::take_idle(void* stream, Signature const& signature) {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t found = idle_.size();
  for (size_t i = idle_.size(); i-- > 0;) {
    PooledContext const& pooled = *idle_[i];
    if (pooled.stream_handle != stream || !pooled.stream.has_value()) {
      continue;
    }
    found = i;
    if (pooled.bound != nullptr && pooled.bound->signature == signature) {
      break;
    }
  }
  if (found == idle_.size()) {
    return nullptr;
  }
  // The one that was found last is the one that has been idle longest.
  PooledContext* pooled = idle_[found];
  idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(found));
  return pooled;
}

PooledContext* ContextPool::claim(std::function<bool(PooledContext const&)> const& fits) {
  for (size_t i = 0; i < idle_.size(); ++i) {
    if (fits(*idle_[i])) {
      PooledContext* pooled = idle_[i];
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
      return pooled;
    }
  }
  return nullptr;
}

PooledContext* ContextPool::take(c10::Stream const& stream, void* handle) {
  PooledContext* pooled = nullptr;
  bool create = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      pooled = claim([](PooledContext const& each) { return !each.stream.has_value() || device::done(*each.stream); });
      if (pooled != nullptr) {
        break;
      }
      if (count_ - extra_ < limit_) {
        ++count_;
        create = true;
        break;
      }
      pooled = claim([](PooledContext const& each) { return !device::capturing(each.stream_handle); });
      if (pooled != nullptr) {
        break;
      }
      given_.wait(lock);
    }
  }
  if (create) {
    return made(stream, handle, false);
  }
  if (pooled->stream.has_value() && !device::done(*pooled->stream)) {
    device::wait(stream, *pooled->stream);
  }
  pooled->stream = stream;
  pooled->stream_handle = handle;
  return pooled;
}

bool ContextPool::take_turns(void* handle, ShapeBindingPointer const& bound, size_t most) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& [bindings, calls] = missed_[handle];
  bindings.insert(bound);
  if (++calls <= kMissesBeforeExtra) {
    return false;
  }
  bool const few = bindings.size() <= most;
  missed_.erase(handle);
  return few;
}

PooledContext* ContextPool::take_extra(c10::Stream const& stream, void* handle, size_t most) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto const here = std::count_if(
        contexts_.begin(), contexts_.end(), [&](auto const& each) { return each->stream_handle == handle; });
    if (static_cast<size_t>(here) >= most || extra_ >= limit_) {
      return nullptr;
    }
    ++count_;
    ++extra_;
  }
  return made(stream, handle, true);
}

// Outside of the lock: making a context may compile kernels for seconds.
PooledContext* ContextPool::made(c10::Stream const& stream, void* handle, bool extra) {
  std::unique_ptr<PooledContext> pooled;
  try {
    CaptureSafeGuard guard;
    std::lock_guard<std::mutex> one(creating_);
    pooled = create_();
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    --count_;
    extra_ -= extra ? 1 : 0;
    given_.notify_one();
    throw;
  }
  pooled->stream = stream;
  pooled->stream_handle = handle;
  pooled->extra = extra;
  std::lock_guard<std::mutex> lock(mutex_);
  contexts_.push_back(std::move(pooled));
  return contexts_.back().get();
}

PooledContext* ContextPool::take_for_capture(c10::Stream const& stream, void* handle, ShapeBindingPointer const& bound) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto const fits = [&](PooledContext const& each) {
    return bound != nullptr && each.bound != nullptr && each.bound->signature == bound->signature;
  };
  // Of this stream first: another stream's context may have work that the graph would not wait for.
  PooledContext* pooled = claim([&](PooledContext const& each) { return each.stream_handle == handle && fits(each); });
  if (pooled == nullptr) {
    pooled = claim(fits);
  }
  if (pooled == nullptr) {
    throw Failure(
        FailureKind::Execution,
        "the engine cannot be captured into a CUDA graph yet: run it with inputs of the same shapes before each "
        "capture, and at most once inside it");
  }
  pooled->retired = true;
  pooled->stream = stream;
  pooled->stream_handle = handle;
  auto owned = std::find_if(contexts_.begin(), contexts_.end(), [&](auto const& each) { return each.get() == pooled; });
  captured_.push_back(std::move(*owned));
  contexts_.erase(owned);
  newly_captured_.push_back(pooled);
  --count_;
  extra_ -= pooled->extra ? 1 : 0;
  return pooled;
}

void ContextPool::give(PooledContext* pooled) {
  if (pooled->retired) {
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(pooled);
  }
  given_.notify_one();
}

void ContextPool::discard(PooledContext* pooled) {
  std::unique_ptr<PooledContext> gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto owned = std::find_if(contexts_.begin(), contexts_.end(), [&](auto const& each) { return each.get() == pooled; });
    gone = std::move(*owned);
    contexts_.erase(owned);
    --count_;
    extra_ -= pooled->extra ? 1 : 0;
  }
  {
    CaptureSafeGuard guard;
    std::lock_guard<std::mutex> one(creating_);
    gone.reset();
  }
  given_.notify_one();
}

std::vector<PooledContext*> ContextPool::take_captured() {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(newly_captured_, {});
}

void ContextPool::release_captured(PooledContext* pooled) {
  std::unique_ptr<PooledContext> gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto owned = std::find_if(captured_.begin(), captured_.end(), [&](auto const& each) { return each.get() == pooled; });
    if (owned == captured_.end()) {
      return;
    }
    gone = std::move(*owned);
    captured_.erase(owned);
    newly_captured_.erase(std::remove(newly_captured_.begin(), newly_captured_.end(), pooled), newly_captured_.end());
    if (count_ - extra_ < limit_) {
      pooled->retired = false;
      pooled->extra = false;
      // Its stream was that of the capture, and what ran last is the graph's affair.
      pooled->stream.reset();
      pooled->stream_handle = nullptr;
      pooled->forget();
      pooled->workspace = at::Tensor();
      ++count_;
      idle_.push_back(pooled);
      contexts_.push_back(std::move(gone));
    }
  }
  given_.notify_one();
}

void ContextPool::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  given_.wait(lock, [&] { return idle_.size() == count_; });
  idle_.clear();
  contexts_.clear();
  count_ = 0;
  extra_ = 0;
}

bool ContextPool::captured() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !captured_.empty();
}

size_t ContextPool::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

std::string ContextPool::kernels() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string largest;
  for (auto const& pooled : contexts_) {
    std::string found = pooled->configuration == nullptr ? std::string() : pooled->configuration->kernels();
    if (found.size() > largest.size()) {
      largest = std::move(found);
    }
  }
  return largest;
}

}  // namespace engine_runtime
