// The threads of a block as fibers, on one thread of the CPU: each runs until it waits for others, then another does.
// To the sanitizers they are threads that only barriers put in order. Real threads would need minutes for what takes
// these seconds, and run in another order every time.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#if defined(__has_feature)
#define ON_CPU_HAS(feature) __has_feature(feature)
#else
#define ON_CPU_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || ON_CPU_HAS(address_sanitizer)
#define ON_CPU_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__) || ON_CPU_HAS(thread_sanitizer)
#define ON_CPU_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

// For what keeps the order: the thread sanitizer would take it for races.
#define ON_CPU_UNSEEN __attribute__((no_sanitize("thread"), noinline))

namespace on_cpu {

inline void release([[maybe_unused]] void* address) {
#ifdef ON_CPU_THREAD_SANITIZER
    __tsan_release(address);
#endif
}

inline void acquire([[maybe_unused]] void* address) {
#ifdef ON_CPU_THREAD_SANITIZER
    __tsan_acquire(address);
#endif
}

// A stack, and what of it is saved while another runs.
struct Context {
    ucontext_t saved;
    const void* stack = nullptr;
    size_t stack_size = 0;
    void* fake_stack = nullptr;  // of the address sanitizer
    void* known_as = nullptr;    // to the thread sanitizer
};

ON_CPU_UNSEEN inline void switch_to(Context& from, Context& to) {
#ifdef ON_CPU_THREAD_SANITIZER
    __tsan_switch_to_fiber(to.known_as, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef ON_CPU_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_size);
#endif
    swapcontext(&from.saved, &to.saved);
#ifdef ON_CPU_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(from.fake_stack, &to.stack, &to.stack_size);
#endif
}

// All fibers, which take up work whenever there is some. One launch at a time has them.
class Fibers {
 public:
    // Does the work `count` times side by side, begun in order or backwards. `number` says to the one that runs which
    // of them it is.
    ON_CPU_UNSEEN void run(int count, bool backwards, unsigned& number, const std::function<void()>& work) {
        while (static_cast<int>(fibers_.size()) < count) add();
        self_ = this;
#ifdef ON_CPU_THREAD_SANITIZER
        outside_.known_as = __tsan_get_current_fiber();
#endif
        work_ = &work;
        for (int i = 0; i < count; ++i) fibers_[i]->state = State::ready;
        release(&begin_);
        for (int left = count; left > 0;) {
            bool any = false;
            for (int i = 0; i < count; ++i) {
                current_ = backwards ? count - 1 - i : i;
                Fiber& fiber = *fibers_[current_];
                if (fiber.state == State::waiting && *fiber.awaited == fiber.seen) continue;
                if (fiber.state == State::done) continue;
                any = true;
                number = static_cast<unsigned>(current_);
                switch_to(outside_, fiber.context);
                left -= fiber.state == State::done;
            }
            if (any) continue;
            std::fprintf(stderr, "a barrier that some of its threads never come to\n");
            std::abort();
        }
        acquire(&end_);
    }

    // Called by the one that runs: lets others run until the number is another.
    ON_CPU_UNSEEN void wait_while(const unsigned& number, unsigned seen) {
        Fiber& fiber = *fibers_[current_];
        fiber.awaited = &number;
        fiber.seen = seen;
        fiber.state = State::waiting;
        switch_to(fiber.context, outside_);
    }

 private:
    enum class State { ready, waiting, done };

    struct Fiber {
        Context context;
        std::unique_ptr<char[]> stack;
        State state = State::done;
        const unsigned* awaited = nullptr;
        unsigned seen = 0;
    };

    static inline Fibers* self_ = nullptr;

    ON_CPU_UNSEEN void add() {
        constexpr size_t kStack = 256 << 10;  // a sanitizer's report needs most of it
        auto fiber = std::make_unique<Fiber>();
        fiber->stack.reset(new char[kStack]);
        Context& context = fiber->context;
        context.stack = fiber->stack.get();
        context.stack_size = kStack;
        getcontext(&context.saved);
        context.saved.uc_stack.ss_sp = fiber->stack.get();
        context.saved.uc_stack.ss_size = kStack;
        context.saved.uc_link = nullptr;
        makecontext(&context.saved, &Fibers::take_work, 0);
        context.saved.uc_stack = {};  // or the address sanitizer would forget what it knows of the stack
#ifdef ON_CPU_THREAD_SANITIZER
        context.known_as = __tsan_create_fiber(0);
#endif
        fibers_.push_back(std::move(fiber));
    }

    // A fiber's first function, which it never leaves.
    ON_CPU_UNSEEN static void take_work() {
        Fibers& all = *self_;
#ifdef ON_CPU_ADDRESS_SANITIZER
        __sanitizer_finish_switch_fiber(nullptr, &all.outside_.stack, &all.outside_.stack_size);
#endif
        for (;;) {
            acquire(&all.begin_);
            (*all.work_)();
            Fiber& fiber = *all.fibers_[all.current_];
            fiber.state = State::done;
            release(&all.end_);
            switch_to(fiber.context, all.outside_);
        }
    }

    std::vector<std::unique_ptr<Fiber>> fibers_;
    Context outside_;
    const std::function<void()>* work_ = nullptr;
    int current_ = 0;
    char begin_ = 0, end_ = 0;
};

}  // namespace on_cpu
