#include "engine/capture_safe_lock.h"

#include <atomic>

namespace engine_runtime {
namespace {

std::atomic<CaptureSafeLock*> chosen{nullptr};

}  // namespace

void set_capture_safe_lock(CaptureSafeLock* lock) { chosen.store(lock); }

CaptureSafeGuard::CaptureSafeGuard() : lock_(chosen.load()) {
  if (lock_ != nullptr) {
    lock_->acquire();
  }
}

CaptureSafeGuard::~CaptureSafeGuard() {
  if (lock_ != nullptr) {
    lock_->release();
  }
}

}  // namespace engine_runtime
