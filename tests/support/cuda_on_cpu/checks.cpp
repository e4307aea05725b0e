// Runs the kernels on the CPU and checks what they compute against plain loops in float64. The arguments are the groups
// of checks to run; `--short NAME` makes the memory of that name an element too short, which a sanitizer must find.
#include "checks.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace checks {
namespace {

int64_t checked = 0, failed = 0;
uint64_t digested = 0;

// Rounds a value to a dtype, puts it there, and returns it.
double store(uint8_t* at, DType dtype, double value) {
    const auto put = [&](auto rounded) { std::memcpy(at, &rounded, sizeof rounded); };
    const float narrow = static_cast<float>(value);
    switch (dtype) {
        case DType::float64:
            put(value);
            return value;
        case DType::float32:
            put(narrow);
            return narrow;
        case DType::float16:
            put(static_cast<_Float16>(narrow));
            return static_cast<double>(static_cast<_Float16>(narrow));
        default:
            const auto high = static_cast<uint16_t>(std::bit_cast<uint32_t>(narrow) >> 16);
            put(high);
            return std::bit_cast<float>(uint32_t{high} << 16);
    }
}

// Without sanitizers, which would take most of the time: y[i] = sum over j of (-1)^popcount(i & j) x[j].
__attribute__((no_sanitize("address", "undefined", "thread"))) void hadamard_sums(int64_t n, const double* odd,
                                                                                  const double* x, double* y) {
    for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += odd[i & j] * x[j];
        y[i] = sum;
    }
}

// The orthonormal Walsh-Hadamard transform of x[0], x[step], ..., n of them.
void hadamard(double* x, int64_t n, int64_t step) {
    std::vector<double> odd(static_cast<size_t>(n)), from(odd), to(odd);
    for (int64_t i = 0; i < n; ++i) {
        odd[static_cast<size_t>(i)] = std::popcount(static_cast<uint64_t>(i)) % 2 ? -1 : 1;
        from[static_cast<size_t>(i)] = x[i * step];
    }
    hadamard_sums(n, odd.data(), from.data(), to.data());
    for (int64_t i = 0; i < n; ++i) x[i * step] = to[static_cast<size_t>(i)] / std::sqrt(static_cast<double>(n));
}

}  // namespace

void expect(bool holds, const std::string& what) {
    ++checked;
    if (holds) return;
    ++failed;
    std::printf("FAILED %s\n", what.c_str());
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double limit,
                 const std::string& what) {
    if (got.size() != expected.size()) return expect(false, what + ": another size");
    for (size_t i = 0; i < got.size(); ++i) {
        if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
        const double error = got[i] == expected[i] ? 0 : std::abs(got[i] - expected[i]);
        if (!(error <= limit))
            return expect(false, what + " [" + std::to_string(i) + "]: " + std::to_string(got[i]) + ", not " +
                                     std::to_string(expected[i]) + ", off by " + std::to_string(error / limit) +
                                     " times the limit");
    }
    expect(true, what);
}

void digest(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) digested = univfast::mix64(digested ^ static_cast<const uint8_t*>(data)[i]);
}

int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : (dtype == DType::float32 ? 4 : 2); }

const char* name_of(DType dtype) {
    constexpr const char* kNames[] = {"float64", "float32", "float16", "bfloat16"};
    return kNames[static_cast<int>(dtype)];
}

Input::Input(const std::string& name, DType dtype, int64_t rows, int64_t columns, const std::vector<double>& values,
             Layout layout)
    : dtype_(dtype), rows_(rows), columns_(columns), stride_(columns), values_(values) {
    constexpr int64_t kGap = 16;  // keeps rows aligned
    if (layout == Layout::gaps) stride_ = columns + kGap;
    if (layout == Layout::backwards) stride_ = -columns - kGap;
    if (layout == Layout::repeated) stride_ = 0;
    const int64_t begin = stride_ < 0 ? (1 - rows) * stride_ : 0, bytes = bytes_of(dtype);
    const int64_t elements = (rows - 1) * std::abs(stride_) + columns;
    std::vector<uint8_t> stored(static_cast<size_t>(elements * bytes), 0xff);  // NaN in the gaps
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t column = 0; column < columns; ++column) {
            const int64_t from = layout == Layout::repeated ? column : row * columns + column;
            uint8_t* at = stored.data() + (begin + row * stride_ + column) * bytes;
            values_[static_cast<size_t>(row * columns + column)] = store(at, dtype, values[static_cast<size_t>(from)]);
        }
    }
    memory_ = std::make_unique<Memory<uint8_t>>(name, stored, layout == Layout::unaligned ? bytes : 0);
    first_ = memory_->data() + begin * bytes;
}

Rotations::Rotations(int64_t neurons, int64_t draws, uint64_t seed) : neurons_(neurons), draws_(draws) {
    Random random(seed);
    for (int64_t i = 0; i < (univfast::kCommonRounds + draws) * univfast::kStages * neurons; ++i) {
        signs_.push_back(random.bits() & 1 ? 1.0f : -1.0f);
    }
    memory_ = std::make_unique<Memory<float>>("signs", signs_);
}

// W and the signs before it.
void Rotations::mix(std::vector<double>& x, int64_t round) const {
    const int64_t n = neurons_;
    const float* signs = signs_.data() + round * univfast::kStages * n;
    int64_t block = 1;
    while (n % (2 * block) == 0) block *= 2;
    if (block < univfast::kMinBlock && block != n) block = 1;
    const int64_t blocks = n / block;
    for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] *= static_cast<double>(signs[i]);
    for (int64_t i = 0; i < n; i += block) hadamard(x.data() + i, block, 1);
    if (blocks == 1 || block >= univfast::kMinShare * blocks) return;
    int64_t window = 1;
    while (2 * window <= blocks) window *= 2;
    const int64_t remainder = n - window * block;
    for (int64_t i = 0; i < block; ++i) hadamard(x.data() + i, window, block);
    for (int64_t i = remainder; i < n; ++i) x[static_cast<size_t>(i)] *= static_cast<double>(signs[n + i]);
    for (int64_t i = 0; i < block; ++i) hadamard(x.data() + remainder + i, window, block);
}

// P.
std::vector<double> Rotations::deal(const std::vector<double>& x) const {
    const int64_t n = neurons_;
    const bool grouped = n % univfast::kMinBlock == 0 && n >= univfast::kMinGrouped;
    const int64_t group = grouped ? univfast::kGroup : 1, groups = n / group;
    int64_t stride = groups * 181 / 256;
    while (std::gcd(stride, groups) != 1) ++stride;
    std::vector<double> dealt(x.size());
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t j = 0; j < group; ++j) {
            dealt[static_cast<size_t>(g * group + j)] =
                x[static_cast<size_t>((g * stride * group + j + univfast::kTurn) % n)];
        }
    }
    return dealt;
}

std::vector<double> Rotations::first(std::vector<double> x) const {
    mix(x, 0);
    x = deal(x);
    if (neurons_ >= univfast::kMinBlock) return x;
    mix(x, 1);
    return deal(x);
}

std::vector<double> Rotations::last(int64_t draw, std::vector<double> x) const {
    mix(x, univfast::kCommonRounds + draw);
    return x;
}

}  // namespace checks

int main(int count, char** arguments) {
    using namespace checks;
    std::vector<std::string> groups;
    for (int i = 1; i < count; ++i) {
        if (std::string(arguments[i]) == "--short" && i + 1 < count) {
            short_one = arguments[++i];
        } else {
            groups.emplace_back(arguments[i]);
        }
    }
    if (groups.empty()) groups = {"paired", "rotation", "pairs"};
    for (const std::string& group : groups) {
        if (group == "paired") check_paired();
        if (group == "rotation") check_rotation();
        if (group == "pairs") check_pairs();
    }
    std::printf("%lld checks, %lld failed, digest %016llx\n", static_cast<long long>(checked),
                static_cast<long long>(failed), static_cast<unsigned long long>(digested));
    return failed == 0 && checked > 0 ? 0 : 1;
}
