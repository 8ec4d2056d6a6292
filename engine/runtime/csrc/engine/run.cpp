// Running an engine: the call itself, its outputs, and what is set on a lane.
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <malloc.h>

#include <algorithm>
#include <utility>

#include "engine/device.h"
#include "tensorrt/failure.h"
#include "engine/given.h"
#include "engine/limits.h"
#include "engine/loaded_engine.h"
#include "tensorrt/log.h"
#include "engine/workspace.h"

namespace engine_runtime {
namespace {

// Gives a lane back; after a failure with nothing taken as set.
class LaneHolder {
 public:
  LaneHolder(LanePool& pool, Lane* lane) : pool_(pool), lane(lane) {}
  ~LaneHolder() {
    if (lane != nullptr) {
      if (!finished) {
        lane->forget();
      }
      pool_.give(lane);
    }
  }
  LaneHolder(LaneHolder const&) = delete;
  LaneHolder& operator=(LaneHolder const&) = delete;

 private:
  LanePool& pool_;

 public:
  Lane* lane;
  bool finished = false;
};

// Of memory that a context freed, glibc returns little to the system by itself.
void return_free_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

bool same(abi::Dims const& a, abi::Dims const& b) {
  return a.rank == b.rank && std::equal(a.sizes, a.sizes + a.rank, b.sizes);
}

}  // namespace

Results LoadedEngine::run(Input const* inputs, size_t count) {
  std::shared_lock<std::shared_mutex> lock(configuring_);
  if (device::current() == device_) {
    return run_here(inputs, count);
  }
  c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_)));
  return run_here(inputs, count);
}

Results LoadedEngine::run_here(Input const* inputs, size_t count) {
  check_count(count);
  Given given;
  if (!read(inputs, count, given)) {
    normalise(inputs, count, given);
  }
  c10::Stream const stream = device::current_stream(device_);
  void* const handle = device::handle(stream);
  bool const capturing = device::capturing(handle);
  LaneHolder holder(*pool_, capturing ? nullptr : pool_->take_idle(handle, given.signature));
  PlanPointer plan;
  if (holder.lane != nullptr && holder.lane->plan != nullptr && holder.lane->plan->signature == given.signature) {
    plan = holder.lane->plan;
  } else {
    plan = plans_.find(given.signature);
  }
  if (plan == nullptr) {
    if (capturing) {
      pool_->take_for_capture(stream, handle, nullptr);
    }
    if (holder.lane == nullptr) {
      holder.lane = pool_->take(stream, handle);
    }
    plan = make_plan(given, *holder.lane);
    plans_.add(plan);
  }
  if (!plan->computes) {
    holder.finished = true;
    return empty_outputs(*plan, given);
  }
  if (holder.lane == nullptr) {
    holder.lane = capturing ? pool_->take_for_capture(stream, handle, plan) : pool_->take(stream, handle);
  }
  if (holder.lane->rebound >= kMaxRebinds && library_.layout->rtx && !capturing) {
    pool_->discard(std::exchange(holder.lane, nullptr));
    return_free_memory();
    holder.lane = pool_->take(stream, handle);
  }
  if (holder.lane->plan != nullptr && holder.lane->plan != plan && !capturing &&
      pool_->take_turns(handle, plan, kMaxContextsPerStream)) {
    vary(holder.lane, stream, handle);
  }
  Lane& lane = *holder.lane;
  abi::ContextSlots const& slots = library_.layout->context;
  if (lane.plan != plan) {
    ++lane.rebound;
    bind(lane, plan);
  }
  if (options_.share_device_memory) {
    set_workspace(lane);
  }
  for (size_t i = 0; i < given.addresses.size(); ++i) {
    void const* address = given.addresses[i];
    if (address != nullptr && address != lane.input_addresses[i]) {
      abi::call<bool, char const*, void*>(
          lane.context, slots.set_address, inputs_[i].name.c_str(), const_cast<void*>(address));
      lane.input_addresses[i] = address;
    }
  }
  Results results;
  allocate(*plan, given, lane, results);
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].defined()) {
      continue;
    }
    void* address = results[i].mutable_data_ptr();
    if (address == nullptr) {
      address = scratch_address_;
    }
    if (address != lane.output_addresses[i]) {
      abi::call<bool, char const*, void*>(lane.context, slots.set_address, outputs_[i].name.c_str(), address);
      lane.output_addresses[i] = address;
    }
  }
  if (!abi::call<bool, void*>(lane.context, slots.enqueue, handle)) {
    throw Failure(FailureKind::Execution, called() + " did not run", recent_errors());
  }
  if (!plan->plain) {
    collect(*plan, lane, results);
  } else if (options_.pre_allocated_outputs && lane.kept.empty()) {
    lane.kept.assign(results.begin(), results.end());
  }
  holder.finished = true;
  return results;
}

void LoadedEngine::vary(Lane*& lane, c10::Stream const& stream, void* handle) {
  bool const small = options_.share_device_memory || memory_size_ <= kSmallWorkspace;
  if (Lane* extra = small ? pool_->take_extra(stream, handle, kMaxContextsPerStream) : nullptr; extra != nullptr) {
    pool_->give(std::exchange(lane, extra));
  }
}

std::vector<std::optional<Sizes>> LoadedEngine::output_shapes(std::vector<Sizes> const& shapes) {
  if (has_host_inputs_) {
    throw Failure(FailureKind::Input, called() + " computes output shapes from values of its inputs");
  }
  check_count(shapes.size());
  std::shared_lock<std::shared_mutex> lock(configuring_);
  choose_profile(inputs_, shapes, std::vector<Sizes>(shapes.size()));
  c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_)));
  Given given;
  for (Sizes const& shape : shapes) {
    given.signature.append(shape.begin(), shape.end());
  }
  PlanPointer plan = plans_.find(given.signature);
  if (plan == nullptr) {
    c10::Stream const stream = device::current_stream(device_);
    void* const handle = device::handle(stream);
    if (device::capturing(handle)) {
      pool_->take_for_capture(stream, handle, nullptr);
    }
    LaneHolder holder(*pool_, pool_->take_idle(handle, given.signature));
    if (holder.lane == nullptr) {
      holder.lane = pool_->take(stream, handle);
    }
    plan = make_plan(given, *holder.lane);
    plans_.add(plan);
    holder.finished = true;
  }
  std::vector<std::optional<Sizes>> result;
  for (OutputPlan const& output : plan->outputs) {
    result.push_back(output.known ? std::optional<Sizes>(output.shape) : std::nullopt);
  }
  return result;
}

void LoadedEngine::bind(Lane& lane, PlanPointer const& plan) {
  abi::ContextSlots const& slots = library_.layout->context;
  PlanPointer before = std::move(lane.plan);
  lane.plan = nullptr;
  lane.kept.clear();
  if (profiles_ > 1 && lane.profile != plan->profile) {
    if (!abi::call<bool, int32_t, void*>(lane.context, slots.set_profile, plan->profile, lane.stream_handle)) {
      throw Failure(
          FailureKind::Execution, "TensorRT refused optimization profile " + std::to_string(plan->profile));
    }
    lane.forget();
    lane.profile = plan->profile;
    before = nullptr;
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    abi::Dims const& dims = plan->shapes[i];
    if (!inputs_[i].dynamic || (before != nullptr && same(before->shapes[i], dims))) {
      continue;
    }
    if (!abi::call<bool, char const*, abi::Dims const*>(
            lane.context, slots.set_input_shape, inputs_[i].name.c_str(), &dims)) {
      throw Failure(
          FailureKind::Execution,
          "TensorRT refused shape " + bracketed(Sizes(dims.sizes, dims.sizes + dims.rank)) + " for input '" +
              inputs_[i].name + "'");
    }
  }
  for (auto const& [position, memory] : plan->host_inputs) {
    abi::call<bool, char const*, void*>(
        lane.context,
        slots.set_address,
        inputs_[static_cast<size_t>(position)].name.c_str(),
        const_cast<void*>(memory.const_data_ptr()));
  }
  set_allocators(lane, *plan);
  lane.plan = plan;
}

void LoadedEngine::set_allocators(Lane& lane, BindPlan const& plan) const {
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].allocated && lane.allocators.count(static_cast<int>(i)) == 0) {
      auto allocator = std::make_unique<TensorAllocator>(device_);
      abi::call<bool, char const*, void*>(
          lane.context,
          library_.layout->context.set_output_allocator,
          outputs_[i].name.c_str(),
          allocator->interface(library_.layout->brief_allocator));
      lane.allocators.emplace(static_cast<int>(i), std::move(allocator));
    }
  }
}

void LoadedEngine::set_workspace(Lane& lane) {
  // A captured graph may replay beside anything, so its lane does not share.
  at::Tensor space = !lane.retired ? shared_workspace(device_, lane.stream_handle, memory_size_)
                                   : own_workspace(device_, memory_size_);
  if (!lane.workspace.defined() || lane.workspace.const_data_ptr() != space.const_data_ptr()) {
    abi::call<void, void*, int64_t>(
        lane.context, library_.layout->context.set_memory, space.mutable_data_ptr(), space.numel());
    lane.workspace = std::move(space);
  }
}

at::Tensor LoadedEngine::fresh(OutputPlan const& output) const {
  // The allocator itself: at::empty spends more time on the way to it.
  c10::Allocator* allocator = c10::GetAllocator(c10::DeviceType::CUDA);
  if (allocator != nullptr) {
    return at::Tensor(at::detail::empty_generic(
        output.shape, allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), output.dtype, std::nullopt));
  }
  return at::empty(
      output.shape,
      at::TensorOptions().dtype(output.dtype).device(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_))));
}

void LoadedEngine::allocate(BindPlan const& plan, Given const& given, Lane const& lane, Results& results) const {
  if (plan.plain) {
    if (!lane.kept.empty()) {
      results.append(lane.kept.begin(), lane.kept.end());
      return;
    }
    for (OutputPlan const& output : plan.outputs) {
      results.push_back(fresh(output));
    }
    return;
  }
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (aliases_[i] >= 0) {
      results.push_back(*given.inputs[aliases_[i]].tensor);
    } else if (plan.outputs[i].allocated || outputs_[i].host) {
      results.emplace_back();
    } else {
      results.push_back(fresh(plan.outputs[i]));
    }
  }
}

Results LoadedEngine::empty_outputs(BindPlan const& plan, Given const& given) const {
  Results results;
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (aliases_[i] >= 0) {
      results.push_back(*given.inputs[aliases_[i]].tensor);
    } else if (outputs_[i].host) {
      results.push_back(at::empty(plan.outputs[i].shape, at::TensorOptions().dtype(plan.outputs[i].dtype)));
    } else {
      results.push_back(fresh(plan.outputs[i]));
    }
  }
  return results;
}

void LoadedEngine::collect(BindPlan const& plan, Lane& lane, Results& results) const {
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].allocated) {
      results[i] = lane.allocators.at(static_cast<int>(i))->take(plan.outputs[i].dtype);
    }
  }
  for (auto const& [position, memory] : lane.host_outputs) {
    results[static_cast<size_t>(position)] = memory.clone();
  }
}

}  // namespace engine_runtime
