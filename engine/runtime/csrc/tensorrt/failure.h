// Failures, of the kinds that Python has exception classes for.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace engine_runtime {

enum class FailureKind {
  Input,        // an input has the wrong count, dtype, device or shape
  Load,         // TensorRT does not load the engine
  Execution,    // TensorRT does not run the engine
  Unavailable,  // this machine or process cannot run engines
  Record,       // an engine record is damaged
  Settings,     // the library or the engine cannot do what an option asks for
};

// `what()` ends with TensorRT's messages; `text()` is without them.
class Failure : public std::runtime_error {
 public:
  Failure(FailureKind kind, std::string text);
  Failure(FailureKind kind, std::string text, std::vector<std::string> messages);

  FailureKind kind() const { return kind_; }
  std::string const& text() const { return text_; }
  std::vector<std::string> const& messages() const { return messages_; }

 private:
  FailureKind kind_;
  std::string text_;
  std::vector<std::string> messages_;
};

// TensorRT's messages as the end of an error message.
std::string quoted(std::vector<std::string> const& messages);

// "[2, 3]"
template <typename Sizes>
std::string bracketed(Sizes const& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return text + "]";
}

}  // namespace engine_runtime
