#include "engine/undisturbed.h"

#include <atomic>

namespace engine_runtime {
namespace {

std::atomic<UndisturbedLock*> chosen{nullptr};

}  // namespace

void set_undisturbed_lock(UndisturbedLock* lock) { chosen.store(lock); }

Undisturbed::Undisturbed() : lock_(chosen.load()) {
  if (lock_ != nullptr) {
    lock_->acquire();
  }
}

Undisturbed::~Undisturbed() {
  if (lock_ != nullptr) {
    lock_->release();
  }
}

}  // namespace engine_runtime
