// Base64 and SHA-256 of an engine record.
#pragma once

#include <string>

namespace engine_runtime {

std::string encode_base64(std::string const& bytes);

// Whether `text` is base64; then `bytes` is what it says.
bool decode_base64(std::string const& text, std::string& bytes);

// In hexadecimal.
std::string sha256(std::string const& bytes);

}  // namespace engine_runtime
