// Running an engine: the call itself, its outputs, and what is set on a pooled context.
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

// Gives a context back; after a failure with nothing taken as set.
class ContextHolder {
 public:
  ContextHolder(ContextPool& pool, PooledContext* pooled) : pool_(pool), pooled(pooled) {}
  ~ContextHolder() {
    if (pooled != nullptr) {
      if (!finished) {
        pooled->forget();
      }
      pool_.give(pooled);
    }
  }
  ContextHolder(ContextHolder const&) = delete;
  ContextHolder& operator=(ContextHolder const&) = delete;

 private:
  ContextPool& pool_;

 public:
  PooledContext* pooled;
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
  ContextHolder holder(*pool_, capturing ? nullptr : pool_->take_idle(handle, given.signature));
  ShapeBindingPointer bound;
  if (holder.pooled != nullptr && holder.pooled->bound != nullptr && holder.pooled->bound->signature == given.signature) {
    bound = holder.pooled->bound;
  } else {
    bound = bindings_.find(given.signature);
  }
  if (bound == nullptr) {
    if (capturing) {
      pool_->take_for_capture(stream, handle, nullptr);
    }
    if (holder.pooled == nullptr) {
      holder.pooled = pool_->take(stream, handle);
    }
    bound = make_binding(given, *holder.pooled);
    bindings_.add(bound);
  }
  if (!bound->computes) {
    holder.finished = true;
    return empty_outputs(*bound, given);
  }
  if (holder.pooled == nullptr) {
    holder.pooled = capturing ? pool_->take_for_capture(stream, handle, bound) : pool_->take(stream, handle);
  }
  if (holder.pooled->rebound >= kMaxRebinds && library_.layout->rtx && !capturing) {
    pool_->discard(std::exchange(holder.pooled, nullptr));
    return_free_memory();
    holder.pooled = pool_->take(stream, handle);
  }
  if (holder.pooled->bound != nullptr && holder.pooled->bound != bound && !capturing &&
      pool_->take_turns(handle, bound, kMaxContextsPerStream)) {
    vary(holder.pooled, stream, handle);
  }
  PooledContext& pooled = *holder.pooled;
  abi::ContextSlots const& slots = library_.layout->context;
  if (pooled.bound != bound) {
    ++pooled.rebound;
    bind(pooled, bound);
  }
  if (options_.share_device_memory) {
    set_workspace(pooled);
  }
  for (size_t i = 0; i < given.addresses.size(); ++i) {
    void const* address = given.addresses[i];
    if (address != nullptr && address != pooled.input_addresses[i]) {
      abi::call<bool, char const*, void*>(
          pooled.context, slots.set_address, inputs_[i].name.c_str(), const_cast<void*>(address));
      pooled.input_addresses[i] = address;
    }
  }
  Results results;
  allocate(*bound, given, pooled, results);
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].defined()) {
      continue;
    }
    void* address = results[i].mutable_data_ptr();
    if (address == nullptr) {
      address = scratch_address_;
    }
    if (address != pooled.output_addresses[i]) {
      abi::call<bool, char const*, void*>(pooled.context, slots.set_address, outputs_[i].name.c_str(), address);
      pooled.output_addresses[i] = address;
    }
  }
  if (!abi::call<bool, void*>(pooled.context, slots.enqueue, handle)) {
    throw Failure(FailureKind::Execution, called() + " did not run", recent_errors());
  }
  if (!bound->plain) {
    collect(*bound, pooled, results);
  } else if (options_.pre_allocated_outputs && pooled.kept.empty()) {
    pooled.kept.assign(results.begin(), results.end());
  }
  holder.finished = true;
  return results;
}

void LoadedEngine::vary(PooledContext*& pooled, c10::Stream const& stream, void* handle) {
  bool const small = options_.share_device_memory || memory_size_ <= kSmallWorkspace;
  if (PooledContext* extra = small ? pool_->take_extra(stream, handle, kMaxContextsPerStream) : nullptr; extra != nullptr) {
    pool_->give(std::exchange(pooled, extra));
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
  ShapeBindingPointer bound = bindings_.find(given.signature);
  if (bound == nullptr) {
    c10::Stream const stream = device::current_stream(device_);
    void* const handle = device::handle(stream);
    if (device::capturing(handle)) {
      pool_->take_for_capture(stream, handle, nullptr);
    }
    ContextHolder holder(*pool_, pool_->take_idle(handle, given.signature));
    if (holder.pooled == nullptr) {
      holder.pooled = pool_->take(stream, handle);
    }
    bound = make_binding(given, *holder.pooled);
    bindings_.add(bound);
    holder.finished = true;
  }
  std::vector<std::optional<Sizes>> result;
  for (OutputBinding const& output : bound->outputs) {
    result.push_back(output.known ? std::optional<Sizes>(output.shape) : std::nullopt);
  }
  return result;
}

void LoadedEngine::bind(PooledContext& pooled, ShapeBindingPointer const& bound) {
  abi::ContextSlots const& slots = library_.layout->context;
  ShapeBindingPointer before = std::move(pooled.bound);
  pooled.bound = nullptr;
  pooled.kept.clear();
  if (profiles_ > 1 && pooled.profile != bound->profile) {
    if (!abi::call<bool, int32_t, void*>(pooled.context, slots.set_profile, bound->profile, pooled.stream_handle)) {
      throw Failure(
          FailureKind::Execution, "TensorRT rejected optimization profile " + std::to_string(bound->profile));
    }
    pooled.forget();
    pooled.profile = bound->profile;
    before = nullptr;
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    abi::Dims const& dims = bound->shapes[i];
    if (!inputs_[i].dynamic || (before != nullptr && same(before->shapes[i], dims))) {
      continue;
    }
    if (!abi::call<bool, char const*, abi::Dims const*>(
            pooled.context, slots.set_input_shape, inputs_[i].name.c_str(), &dims)) {
      throw Failure(
          FailureKind::Execution,
          "TensorRT rejected shape " + bracketed(Sizes(dims.sizes, dims.sizes + dims.rank)) + " for input '" +
              inputs_[i].name + "'");
    }
  }
  for (auto const& [position, memory] : bound->host_inputs) {
    abi::call<bool, char const*, void*>(
        pooled.context,
        slots.set_address,
        inputs_[static_cast<size_t>(position)].name.c_str(),
        const_cast<void*>(memory.const_data_ptr()));
  }
  set_allocators(pooled, *bound);
  pooled.bound = bound;
}

void LoadedEngine::set_allocators(PooledContext& pooled, ShapeBinding const& bound) const {
  for (size_t i = 0; i < bound.outputs.size(); ++i) {
    if (bound.outputs[i].allocated && pooled.allocators.count(static_cast<int>(i)) == 0) {
      auto allocator = std::make_unique<TensorAllocator>(device_);
      abi::call<bool, char const*, void*>(
          pooled.context,
          library_.layout->context.set_output_allocator,
          outputs_[i].name.c_str(),
          allocator->interface(library_.layout->brief_allocator));
      pooled.allocators.emplace(static_cast<int>(i), std::move(allocator));
    }
  }
}

void LoadedEngine::set_workspace(PooledContext& pooled) {
  // A captured graph may replay beside anything, so its context does not share.
  at::Tensor space = !pooled.retired ? shared_workspace(device_, pooled.stream_handle, memory_size_)
                                   : own_workspace(device_, memory_size_);
  if (!pooled.workspace.defined() || pooled.workspace.const_data_ptr() != space.const_data_ptr()) {
    abi::call<void, void*, int64_t>(
        pooled.context, library_.layout->context.set_memory, space.mutable_data_ptr(), space.numel());
    pooled.workspace = std::move(space);
  }
}

at::Tensor LoadedEngine::fresh(OutputBinding const& output) const {
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

void LoadedEngine::allocate(ShapeBinding const& bound, Given const& given, PooledContext const& pooled, Results& results) const {
  if (bound.plain) {
    if (!pooled.kept.empty()) {
      results.append(pooled.kept.begin(), pooled.kept.end());
      return;
    }
    for (OutputBinding const& output : bound.outputs) {
      results.push_back(fresh(output));
    }
    return;
  }
  for (size_t i = 0; i < bound.outputs.size(); ++i) {
    if (aliases_[i] >= 0) {
      results.push_back(*given.inputs[aliases_[i]].tensor);
    } else if (bound.outputs[i].allocated || outputs_[i].host) {
      results.emplace_back();
    } else {
      results.push_back(fresh(bound.outputs[i]));
    }
  }
}

Results LoadedEngine::empty_outputs(ShapeBinding const& bound, Given const& given) const {
  Results results;
  for (size_t i = 0; i < bound.outputs.size(); ++i) {
    if (aliases_[i] >= 0) {
      results.push_back(*given.inputs[aliases_[i]].tensor);
    } else if (outputs_[i].host) {
      results.push_back(at::empty(bound.outputs[i].shape, at::TensorOptions().dtype(bound.outputs[i].dtype)));
    } else {
      results.push_back(fresh(bound.outputs[i]));
    }
  }
  return results;
}

void LoadedEngine::collect(ShapeBinding const& bound, PooledContext& pooled, Results& results) const {
  for (size_t i = 0; i < bound.outputs.size(); ++i) {
    if (bound.outputs[i].allocated) {
      results[i] = pooled.allocators.at(static_cast<int>(i))->take(bound.outputs[i].dtype);
    }
  }
  for (auto const& [position, memory] : pooled.host_outputs) {
    results[static_cast<size_t>(position)] = memory.clone();
  }
}

}  // namespace engine_runtime
