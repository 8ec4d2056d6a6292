#include "engine/lane.h"

#include <algorithm>
#include <utility>

#include "engine/device.h"
#include "engine/limits.h"
#include "tensorrt/failure.h"
#include "engine/undisturbed.h"

namespace engine_runtime {
Lane::Lane(void* context, std::unique_ptr<Configuration> configuration, size_t inputs, size_t outputs)
    : context(context),
      configuration(std::move(configuration)),
      input_addresses(inputs, nullptr),
      output_addresses(outputs, nullptr) {}

// The context goes before the allocators that it may still point to, and after its work.
Lane::~Lane() {
  try {
    if (stream.has_value() && !retired && !device::done(*stream)) {
      device::synchronise(*stream);
    }
  } catch (...) {
    // The work failed, or the process ends: there is nothing to wait for.
  }
  abi::destroy(context);
}

void Lane::forget() {
  plan.reset();
  profile = -1;
  kept.clear();
  std::fill(input_addresses.begin(), input_addresses.end(), nullptr);
  std::fill(output_addresses.begin(), output_addresses.end(), nullptr);
}

LanePool::LanePool(std::function<std::unique_ptr<Lane>()> create, size_t limit)
    : create_(std::move(create)), limit_(std::max<size_t>(1, limit)) {}

void LanePool::add(std::unique_ptr<Lane> lane) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(lane.get());
  lanes_.push_back(std::move(lane));
  ++count_;
}

Lane* LanePool::take_idle(void* stream, Signature const& signature) {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t found = idle_.size();
  for (size_t i = idle_.size(); i-- > 0;) {
    Lane const& lane = *idle_[i];
    if (lane.stream_handle != stream || !lane.stream.has_value()) {
      continue;
    }
    found = i;
    if (lane.plan != nullptr && lane.plan->signature == signature) {
      break;
    }
  }
  if (found == idle_.size()) {
    return nullptr;
  }
  // The one that was found last is the one that has been idle longest.
  Lane* lane = idle_[found];
  idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(found));
  return lane;
}

Lane* LanePool::claim(std::function<bool(Lane const&)> const& fits) {
  for (size_t i = 0; i < idle_.size(); ++i) {
    if (fits(*idle_[i])) {
      Lane* lane = idle_[i];
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
      return lane;
    }
  }
  return nullptr;
}

Lane* LanePool::take(c10::Stream const& stream, void* handle) {
  Lane* lane = nullptr;
  bool create = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      lane = claim([](Lane const& each) { return !each.stream.has_value() || device::done(*each.stream); });
      if (lane != nullptr) {
        break;
      }
      if (count_ - extra_ < limit_) {
        ++count_;
        create = true;
        break;
      }
      lane = claim([](Lane const& each) { return !device::capturing(each.stream_handle); });
      if (lane != nullptr) {
        break;
      }
      given_.wait(lock);
    }
  }
  if (create) {
    return made(stream, handle, false);
  }
  if (lane->stream.has_value() && !device::done(*lane->stream)) {
    device::wait(stream, *lane->stream);
  }
  lane->stream = stream;
  lane->stream_handle = handle;
  return lane;
}

bool LanePool::take_turns(void* handle, PlanPointer const& plan, size_t most) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& [plans, calls] = missed_[handle];
  plans.insert(plan);
  if (++calls <= kMissesBeforeExtra) {
    return false;
  }
  bool const few = plans.size() <= most;
  missed_.erase(handle);
  return few;
}

Lane* LanePool::take_extra(c10::Stream const& stream, void* handle, size_t most) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto const here = std::count_if(
        lanes_.begin(), lanes_.end(), [&](auto const& each) { return each->stream_handle == handle; });
    if (static_cast<size_t>(here) >= most || extra_ >= limit_) {
      return nullptr;
    }
    ++count_;
    ++extra_;
  }
  return made(stream, handle, true);
}

// Outside of the lock: making a context may compile kernels for seconds.
Lane* LanePool::made(c10::Stream const& stream, void* handle, bool extra) {
  std::unique_ptr<Lane> lane;
  try {
    Undisturbed undisturbed;
    std::lock_guard<std::mutex> one(creating_);
    lane = create_();
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    --count_;
    extra_ -= extra ? 1 : 0;
    given_.notify_one();
    throw;
  }
  lane->stream = stream;
  lane->stream_handle = handle;
  lane->extra = extra;
  std::lock_guard<std::mutex> lock(mutex_);
  lanes_.push_back(std::move(lane));
  return lanes_.back().get();
}

Lane* LanePool::take_for_capture(c10::Stream const& stream, void* handle, PlanPointer const& plan) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto const bound = [&](Lane const& each) {
    return plan != nullptr && each.plan != nullptr && each.plan->signature == plan->signature;
  };
  // Of this stream first: another stream's lane may have work that the graph would not wait for.
  Lane* lane = claim([&](Lane const& each) { return each.stream_handle == handle && bound(each); });
  if (lane == nullptr) {
    lane = claim(bound);
  }
  if (lane == nullptr) {
    throw Failure(
        FailureKind::Execution,
        "the engine cannot be captured into a CUDA graph yet: run it with inputs of the same shapes before each "
        "capture, and at most once inside it");
  }
  lane->retired = true;
  lane->stream = stream;
  lane->stream_handle = handle;
  auto owned = std::find_if(lanes_.begin(), lanes_.end(), [&](auto const& each) { return each.get() == lane; });
  captured_.push_back(std::move(*owned));
  lanes_.erase(owned);
  newly_captured_.push_back(lane);
  --count_;
  extra_ -= lane->extra ? 1 : 0;
  return lane;
}

void LanePool::give(Lane* lane) {
  if (lane->retired) {
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(lane);
  }
  given_.notify_one();
}

void LanePool::discard(Lane* lane) {
  std::unique_ptr<Lane> gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto owned = std::find_if(lanes_.begin(), lanes_.end(), [&](auto const& each) { return each.get() == lane; });
    gone = std::move(*owned);
    lanes_.erase(owned);
    --count_;
    extra_ -= lane->extra ? 1 : 0;
  }
  {
    Undisturbed undisturbed;
    std::lock_guard<std::mutex> one(creating_);
    gone.reset();
  }
  given_.notify_one();
}

std::vector<Lane*> LanePool::take_captured() {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(newly_captured_, {});
}

void LanePool::release_captured(Lane* lane) {
  std::unique_ptr<Lane> gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto owned = std::find_if(captured_.begin(), captured_.end(), [&](auto const& each) { return each.get() == lane; });
    if (owned == captured_.end()) {
      return;
    }
    gone = std::move(*owned);
    captured_.erase(owned);
    newly_captured_.erase(std::remove(newly_captured_.begin(), newly_captured_.end(), lane), newly_captured_.end());
    if (count_ - extra_ < limit_) {
      lane->retired = false;
      lane->extra = false;
      // Its stream was that of the capture, and what ran last is the graph's affair.
      lane->stream.reset();
      lane->stream_handle = nullptr;
      lane->forget();
      lane->workspace = at::Tensor();
      ++count_;
      idle_.push_back(lane);
      lanes_.push_back(std::move(gone));
    }
  }
  given_.notify_one();
}

void LanePool::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  given_.wait(lock, [&] { return idle_.size() == count_; });
  idle_.clear();
  lanes_.clear();
  count_ = 0;
  extra_ = 0;
}

bool LanePool::captured() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !captured_.empty();
}

size_t LanePool::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

std::string LanePool::kernels() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string largest;
  for (auto const& lane : lanes_) {
    std::string found = lane->configuration == nullptr ? std::string() : lane->configuration->kernels();
    if (found.size() > largest.size()) {
      largest = std::move(found);
    }
  }
  return largest;
}

}  // namespace engine_runtime
