// The known layouts.  docs/cpp.md says how each was found and how to add one.
#include "tensorrt/abi.h"

namespace engine_runtime::abi {
namespace {

constexpr ContextSlots kContext10 = {15, 19, 20, 22, 26, 30, 35, 47};
constexpr ContextSlots kContext11 = {14, 18, 19, 21, 25, 29, 34, 46};

constexpr EngineSlots kEngine10 = {3, 8, 17, 18, 19, 21, 27, 28, 29, 44, 46, 47, 50, 52, 53, 54, 56};
constexpr EngineSlots kEngine11 = {3, 6, 13, 14, 15, 17, 23, 24, 25, 36, 38, 39, 42, 44, 45, 46, 48};
// Between the two: the functions that TensorRT 10 deprecated are gone in part.
constexpr EngineSlots kEngineRtx14 = {3, 6, 15, 16, 17, 19, 25, 26, 27, 42, 44, 45, 48, 50, 51, 52, 54};

constexpr EngineSlots without_aliases(EngineSlots slots) {
  slots.aliased_input = -1;
  return slots;
}

constexpr ConfigSlots kConfig = {1, -1, -1, -1, -1};
constexpr ConfigSlots kConfigRtx = {1, 3, 4, 6, 8};
constexpr CacheSlots kNoCache = {-1, -1};
constexpr CacheSlots kCacheRtx = {0, 1};

constexpr Layout kLayouts[] = {
    {"TensorRT 10", false, 101100, 101499, false, true, false, 1, without_aliases(kEngine10), kContext10, kConfig, kNoCache},
    {"TensorRT 10", false, 101500, 109999, false, true, false, 1, kEngine10, kContext10, kConfig, kNoCache},
    {"TensorRT 11", false, 110000, 119999, true, true, false, 1, kEngine11, kContext11, kConfig, kNoCache},
    {"TensorRT-RTX 1.4", true, 10400, 10499, false, false, true, 1, kEngineRtx14, kContext10, kConfigRtx, kCacheRtx},
    {"TensorRT-RTX 1.5", true, 10500, 10599, true, false, true, 1, kEngine11, kContext11, kConfigRtx, kCacheRtx},
    {"TensorRT-RTX 1.6", true, 10600, 10799, true, true, true, 1, kEngine11, kContext11, kConfigRtx, kCacheRtx},
};

}  // namespace

Layout const* find_layout(bool rtx, int32_t version) {
  for (Layout const& layout : kLayouts) {
    if (layout.rtx == rtx && layout.first <= version && version <= layout.last) {
      return &layout;
    }
  }
  return nullptr;
}

}  // namespace engine_runtime::abi
