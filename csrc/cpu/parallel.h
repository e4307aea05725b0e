// Threads for one call: started in it, joined before it returns, so nothing is left running between calls or
// across a fork, and torch's own pool is not touched.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace univfast::cpu {

// Values (float32, read or rotated once) that are worth a thread: fewer take less time than starting one.
constexpr int64_t kValuesPerThread = int64_t{1} << 17;

// How many of `threads` to use for this many tasks and values; at least 1.
inline int useful_threads(int threads, int64_t tasks, int64_t values) {
    return static_cast<int>(
        std::clamp<int64_t>(values / kValuesPerThread, 1, std::max<int64_t>(1, std::min<int64_t>(threads, tasks))));
}

// Calls task(index, thread) for each index in 0 .. count, each once, on up to `threads` threads. task must not
// throw. If the system gives fewer threads, those do the work.
template <class Task>
void parallel_for(int64_t count, int threads, const Task& task) {
    std::atomic<int64_t> next{0};
    const auto work = [&](int thread) noexcept {
        for (int64_t index = next++; index < count; index = next++) task(index, thread);
    };
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(threads));
    for (int thread = 1; thread < std::min<int64_t>(threads, count); ++thread) {
        try {
            others.emplace_back(work, thread);
        } catch (...) {
            break;
        }
    }
    work(0);
    for (std::thread& other : others) other.join();
}

}  // namespace univfast::cpu
