// What TensorRT says, kept for error messages.
//
// TensorRT has one logger for the process: the first that it was given.  In a Python process that
// is usually Python's, which then is the source to ask.
#pragma once

#include <string>
#include <vector>

#include "tensorrt/abi.h"

namespace engine_runtime {

// Where messages are read when TensorRT's logger is not ours.
class LogSource {
 public:
  virtual ~LogSource() = default;
  // Starts to gather the calling thread's messages; the result is for `finish`.
  virtual void* begin() = 0;
  // The error messages since `begin`.
  virtual std::vector<std::string> finish(void* token) = 0;
  // The newest errors of the process.
  virtual std::vector<std::string> recent() = 0;
};

// Takes effect where TensorRT's logger is not ours.
void set_log_source(LogSource* source);

// Says whether TensorRT took our logger.
void set_own_logger(bool own);

// Our logger, for createInferRuntime; lives as long as the process.
void* process_logger(bool versioned);

// Gathers errors while it lives.
class Listener {
 public:
  Listener();
  ~Listener();
  Listener(Listener const&) = delete;
  Listener& operator=(Listener const&) = delete;

  // The errors heard, oldest first, without repeats; nothing is gathered any more.
  std::vector<std::string> errors();

 private:
  LogSource* source_;
  void* token_ = nullptr;
  bool listening_ = true;
};

// The newest errors, for a failure that nobody listened for.
std::vector<std::string> recent_errors();

}  // namespace engine_runtime
