// The rotation by itself: every draw of every row, against its definition.
#include <cmath>
#include <stdexcept>

#include "checks.h"

namespace checks {
namespace {

// What the kernel makes of rows: [draws, rows, neurons].
template <class T>
std::vector<double> rotated(const Input& x, const Rotations& rotations) {
    const Matrix matrix = x.matrix();
    const int64_t size = univfast::cuda::rotate_workspace(matrix, 0), draws = rotations.signs().draws;
    Workspace workspace(size);
    Memory<T> output("output", std::vector<T>(static_cast<size_t>(draws * matrix.rows * matrix.columns), T(NAN)));
    univfast::cuda::rotate({matrix, rotations.signs(), output.data(), workspace.data(), size}, kStream);
    const std::vector<T> values = output.computed();
    return {values.begin(), values.end()};
}

std::vector<double> rotated(DType dtype, const Input& x, const Rotations& rotations) {
    return dtype == DType::float64 ? rotated<double>(x, rotations) : rotated<float>(x, rotations);
}

// Of the rows' root mean square.
double limit_of(DType dtype) { return dtype == DType::float64 ? 1e-14 : 2e-6; }

void check_definition(int64_t neurons, DType dtype, int64_t rows, int64_t draws, Layout layout) {
    Random random(static_cast<uint64_t>(neurons));
    const Input x("x", dtype, rows, neurons, random.uniform(rows * neurons), layout);
    const Rotations rotations(neurons, draws, static_cast<uint64_t>(neurons));
    std::vector<double> expected;
    for (int64_t draw = 0; draw < draws; ++draw) {
        for (int64_t row = 0; row < rows; ++row) {
            const std::vector<double> z = rotations.last(draw, rotations.first(x.row(row)));
            expected.insert(expected.end(), z.begin(), z.end());
        }
    }
    expect_near(rotated(dtype, x, rotations), expected, limit_of(dtype),
                "rotation of " + std::to_string(neurons) + " neurons, " + name_of(dtype) + ", layout " +
                    std::to_string(static_cast<int>(layout)));
}

// The rotations of unit vectors are the columns of R_d, and orthonormal.
void check_orthogonal(int64_t neurons, DType dtype) {
    std::vector<double> units(static_cast<size_t>(neurons * neurons), 0);
    for (int64_t i = 0; i < neurons; ++i) units[static_cast<size_t>(i * (neurons + 1))] = 1;
    const std::vector<double> r =
        rotated(dtype, Input("x", dtype, neurons, neurons, units, Layout::plain), Rotations(neurons, 1, 3));
    std::vector<double> products;
    for (int64_t i = 0; i < neurons; ++i) {
        for (int64_t j = 0; j < neurons; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < neurons; ++k) {
                sum += r[static_cast<size_t>(i * neurons + k)] * r[static_cast<size_t>(j * neurons + k)];
            }
            products.push_back(sum);
        }
    }
    expect_near(products, units, limit_of(dtype),
                "rotation of " + std::to_string(neurons) + " neurons, " + name_of(dtype) + ": R^T R = 1");
}

void check_arguments() {
    const Rotations rotations(4, 1, 0);
    const auto refused = [&](DType dtype, int64_t neurons) {
        return throws<std::invalid_argument>([&] {
            univfast::cuda::rotate({{nullptr, dtype, 0, neurons, 4}, rotations.signs(), nullptr, nullptr, 0}, kStream);
        });
    };
    expect(!refused(DType::float32, 4), "rotation: no rows");
    expect(refused(DType::float16, 4), "rotation: float16");
    expect(refused(DType::float64, 0), "rotation: no neurons");
}

}  // namespace

void check_rotation() {
    for (const DType dtype : {DType::float32, DType::float64}) {
        for (const int64_t neurons : {1, 2, 7, 16, 32, 33, 48, 64, 96, 128, 257, 448}) {
            check_definition(neurons, dtype, 3, 2, Layout::plain);
        }
        for (const int64_t neurons : {512, 576, 1024, 1344, 1600, 2048, 3072}) {
            check_definition(neurons, dtype, 1, 2, Layout::plain);
        }
        check_definition(96, dtype, 37, 1, Layout::backwards);  // some rows a block
        check_definition(96, dtype, 3, 1, Layout::repeated);
        check_definition(64, dtype, 3, 1, Layout::unaligned);
        for (const int64_t neurons : {1, 7, 16, 33, 48, 64, 96}) check_orthogonal(neurons, dtype);
    }
    check_arguments();
}

}  // namespace checks
