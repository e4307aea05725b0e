// What the checks share: memory as a device would have it, inputs, rotations by their definition, and comparisons.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../../../csrc/cuda/operations.h"
#include "../../../csrc/rotation.h"

namespace checks {

using univfast::DType;
using univfast::Matrix;

inline const univfast::cuda::Stream kStream = {0, nullptr};

// ---- comparisons ----------------------------------------------------------------------------------------

void expect(bool holds, const std::string& what);

// |got - expected| <= limit, and NaN at the same places.
void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double limit,
                 const std::string& what);

// Takes bytes that were computed into the digest that is printed at the end.
void digest(const void* data, size_t bytes);

// Whether `run` throws an exception of this type.
template <class Exception, class Run>
bool throws(const Run& run) {
    try {
        run();
    } catch (const Exception&) {
        return true;
    }
    return false;
}

// ---- memory ---------------------------------------------------------------------------------------------

// The name of the memory that is to be an element too short; empty: none.
inline std::string short_one;

constexpr std::align_val_t kAligned{64};

// The caller's memory: what lies behind its last element is nobody's. It begins `offset` elements behind a place that
// is aligned to 64 bytes.
template <class T>
class Memory {
 public:
    Memory(const std::string& name, const std::vector<T>& values, int64_t offset = 0)
        : count_(static_cast<int64_t>(values.size()) - (name == short_one && !values.empty())), offset_(offset) {
        data_.reset(static_cast<T*>(::operator new(static_cast<size_t>(count_ + offset) * sizeof(T), kAligned)));
        if (count_ > 0) std::memcpy(data(), values.data(), static_cast<size_t>(count_) * sizeof(T));
    }

    T* data() { return data_.get() + offset_; }
    const T* data() const { return data_.get() + offset_; }

    // What is there now; it counts as computed.
    std::vector<T> computed() const {
        digest(data(), static_cast<size_t>(count_) * sizeof(T));
        return {data(), data() + count_};
    }

 private:
    struct Delete {
        void operator()(T* data) const { ::operator delete(data, kAligned); }
    };

    int64_t count_, offset_;
    std::unique_ptr<T, Delete> data_;
};

// With anything in it.
class Workspace {
 public:
    explicit Workspace(int64_t size) : memory_("workspace", std::vector<uint8_t>(static_cast<size_t>(size), 0xff)) {}
    std::byte* data() { return reinterpret_cast<std::byte*>(memory_.data()); }

 private:
    Memory<uint8_t> memory_;
};

// ---- inputs ---------------------------------------------------------------------------------------------

// The same numbers every time.
class Random {
 public:
    explicit Random(uint64_t seed) : seed_(univfast::mix64(seed)) {}
    uint64_t bits() { return univfast::mix64(seed_ ^ count_++); }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-52 - 1; }  // from -1 to 1
    std::vector<double> uniform(int64_t count) {
        std::vector<double> values(static_cast<size_t>(count));
        for (double& value : values) value = uniform();
        return values;
    }

 private:
    uint64_t seed_, count_ = 0;
};

// How the rows of an input lie in memory.
enum class Layout { plain, gaps, backwards, repeated, unaligned };

// An input of any dtype, and what it holds after rounding to that.
class Input {
 public:
    // Of the values [rows, columns]; all rows hold the first where the layout is `repeated`.
    Input(const std::string& name, DType dtype, int64_t rows, int64_t columns, const std::vector<double>& values,
          Layout layout);

    Matrix matrix() const { return {first_, dtype_, rows_, columns_, stride_}; }
    double operator()(int64_t row, int64_t column) const {
        return values_[static_cast<size_t>(row * columns_ + column)];
    }
    std::vector<double> row(int64_t row) const {
        return {values_.begin() + row * columns_, values_.begin() + (row + 1) * columns_};
    }

 private:
    DType dtype_;
    int64_t rows_, columns_, stride_;
    std::vector<double> values_;
    std::unique_ptr<Memory<uint8_t>> memory_;
    const void* first_;
};

int64_t bytes_of(DType dtype);
const char* name_of(DType dtype);

// ---- rotations ------------------------------------------------------------------------------------------

// R_d as csrc/rotation.h defines it, each sum written out.
class Rotations {
 public:
    Rotations(int64_t neurons, int64_t draws, uint64_t seed);

    univfast::Signs signs() const { return {memory_->data(), draws_}; }

    // R_d x = last(d, first(x)).
    std::vector<double> first(std::vector<double> x) const;
    std::vector<double> last(int64_t draw, std::vector<double> x) const;

 private:
    void mix(std::vector<double>& x, int64_t round) const;
    std::vector<double> deal(const std::vector<double>& x) const;

    int64_t neurons_, draws_;
    std::vector<float> signs_;  // [kCommonRounds + draws, kStages, neurons]
    std::unique_ptr<Memory<float>> memory_;
};

// ---- the checks, a file each ----------------------------------------------------------------------------

void check_paired();
void check_rotation();
void check_pairs();

}  // namespace checks
