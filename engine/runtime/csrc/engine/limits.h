// The limits of engine/runtime/engines/limits.py, which says what each is for; setup.py defines the macros from it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine_runtime {

constexpr size_t kMaxShapeBindings = ENGINE_MAX_SHAPE_BINDINGS;
constexpr size_t kMaxContextsPerStream = ENGINE_MAX_CONTEXTS_PER_STREAM;
constexpr int64_t kSmallWorkspace = ENGINE_SMALL_WORKSPACE;
constexpr int kMaxRebinds = ENGINE_MAX_REBINDS;
constexpr int kMissesBeforeExtra = ENGINE_MISSES_BEFORE_EXTRA;
constexpr uintptr_t kAlignment = ENGINE_ALIGNMENT;

}  // namespace engine_runtime
