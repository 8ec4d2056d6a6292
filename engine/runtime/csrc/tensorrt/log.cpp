#include "tensorrt/log.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <mutex>
#include <thread>

namespace engine_runtime {
namespace {

constexpr size_t kKept = 20;

struct Capture {
  std::thread::id thread;
  std::vector<std::string> errors;
};

class ProcessLogger final : public LogSource {
 public:
  void hear(abi::Severity severity, char const* text) noexcept {
    if (severity > abi::Severity::Warning || text == nullptr) {
      return;
    }
    try {
      if (severity == abi::Severity::Warning) {
        std::cerr << "TensorRT: " << text << std::endl;
        return;
      }
      std::lock_guard<std::mutex> lock(mutex_);
      add(recent_, text);
      bool mine = false;
      for (Capture* capture : captures_) {
        mine = mine || capture->thread == std::this_thread::get_id();
      }
      // TensorRT's own worker threads belong to nobody: everyone who listens hears them.
      for (Capture* capture : captures_) {
        if (!mine || capture->thread == std::this_thread::get_id()) {
          add(capture->errors, text);
        }
      }
    } catch (...) {
      // A message that cannot be kept is no reason to end the process.
    }
  }

  void* begin() override {
    auto* capture = new Capture{std::this_thread::get_id(), {}};
    std::lock_guard<std::mutex> lock(mutex_);
    captures_.push_back(capture);
    return capture;
  }

  std::vector<std::string> finish(void* token) override {
    auto* capture = static_cast<Capture*>(token);
    std::lock_guard<std::mutex> lock(mutex_);
    captures_.erase(std::find(captures_.begin(), captures_.end(), capture));
    std::vector<std::string> errors = std::move(capture->errors);
    delete capture;
    return errors;
  }

  std::vector<std::string> recent() override {
    std::lock_guard<std::mutex> lock(mutex_);
    return recent_;
  }

 private:
  static void add(std::vector<std::string>& texts, char const* text) {
    if (std::find(texts.begin(), texts.end(), text) == texts.end()) {
      texts.emplace_back(text);
    }
    if (texts.size() > kKept) {
      texts.erase(texts.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Capture*> captures_;
  std::vector<std::string> recent_;
};

// Never destroyed: TensorRT may log while the process ends.
ProcessLogger& logger() {
  static auto* instance = new ProcessLogger;
  return *instance;
}

// What TensorRT calls, in either form of its interface.
template <typename Interface>
class Ear final : public Interface {
 public:
  void log(abi::Severity severity, char const* text) noexcept override { logger().hear(severity, text); }
};

std::atomic<LogSource*> chosen{nullptr};
std::atomic<bool> own_logger{false};

LogSource& source() {
  LogSource* found = own_logger.load() ? nullptr : chosen.load();
  return found == nullptr ? logger() : *found;
}

}  // namespace

void set_log_source(LogSource* source) { chosen.store(source); }

void set_own_logger(bool own) { own_logger.store(own); }

void* process_logger(bool versioned) {
  // The pointers of the two interfaces themselves: TensorRT is handed a pointer without a type.
  static auto* plain = static_cast<abi::Logger*>(new Ear<abi::Logger>);
  static auto* newer = static_cast<abi::VersionedLogger*>(new Ear<abi::VersionedLogger>);
  return versioned ? static_cast<void*>(newer) : static_cast<void*>(plain);
}

Listener::Listener() : source_(&source()) { token_ = source_->begin(); }

Listener::~Listener() {
  if (listening_) {
    source_->finish(token_);
  }
}

std::vector<std::string> Listener::errors() {
  if (!listening_) {
    return {};
  }
  listening_ = false;
  return source_->finish(token_);
}

std::vector<std::string> recent_errors() {
  std::vector<std::string> all = source().recent();
  return {all.size() > 5 ? all.end() - 5 : all.begin(), all.end()};
}

}  // namespace engine_runtime
