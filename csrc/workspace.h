// Hands out pieces of the caller's workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace univfast {

constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector

// Bytes that take<T>(count) uses up.
template <class T>
constexpr int64_t piece(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
}

class Workspace {
 public:
    Workspace(std::byte* data, int64_t size) : next_(data), end_(data + size) {
        if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
            throw std::invalid_argument("workspace: must be aligned to 64 bytes");
        }
    }

    template <class T>
    T* take(int64_t count) {
        if (piece<T>(count) > end_ - next_) throw std::invalid_argument("workspace: too small");
        T* taken = reinterpret_cast<T*>(next_);
        next_ += piece<T>(count);
        return taken;
    }

 private:
    std::byte* next_;
    std::byte* end_;
};

}  // namespace univfast
