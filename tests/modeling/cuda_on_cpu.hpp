// CUDA's words for a C++ compiler, one block after the other. For tests.
#include <algorithm>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static
using std::max;
using std::min;

struct Place { int x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
static Place gridDim, blockDim, blockIdx;
static thread_local Place threadIdx;

static float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
static float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
static unsigned __float_as_uint(float number) { return std::bit_cast<unsigned>(number); }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }

static std::unique_ptr<std::barrier<>> of_block, of_warp;
static unsigned ballots[32];
static void __syncthreads() { of_block->arrive_and_wait(); }
static unsigned __ballot_sync(unsigned, bool mine) {  // of the first warp: no other one asks
    ballots[threadIdx.x] = mine;
    of_warp->arrive_and_wait();
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= ballots[lane] << lane;
    of_warp->arrive_and_wait();
    return all;
}

template <class... Args, size_t... I>
void call(void (*kernel)(Args...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Args> *>(args[I])...);
}

// One thread after the other: of kernels whose threads do not wait for each other.
template <class... Args>
void run(void (*kernel)(Args...), void **args) {
    const long total = (long)gridDim.x * gridDim.y * gridDim.z * blockDim.x;
    for (long place = 0; place < total; ++place) {
        const int block = place / blockDim.x;
        blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
        threadIdx = {(int)(place % blockDim.x), 0, 0};
        call(kernel, args, std::index_sequence_for<Args...>{});
    }
}

template <class... Args>
void run_together(void (*kernel)(Args...), void **args) {
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
                of_block = std::make_unique<std::barrier<>>(blockDim.x);
                of_warp = std::make_unique<std::barrier<>>(32);
                std::vector<std::jthread> threads;
                for (int index = 0; index < blockDim.x; ++index)
                    threads.emplace_back([=] {
                        threadIdx = {index, 0, 0};
                        call(kernel, args, std::index_sequence_for<Args...>{});
                        of_block->arrive_and_drop();  // those that go on do not wait for it
                    });
            }
}

#include KERNELS

extern "C" void launch(const char *name, const int *grid, const int *block, void **args) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    const auto is = [name](const char *other) { return std::strcmp(name, other) == 0; };
    if (is("overlaps")) run_together(overlaps, args);
    if (is("survivors")) run_together(survivors, args);
    if (is("pool")) run(pool, args);
    if (is("depthwise")) run(depthwise, args);
    if (is("add_bias")) run(add_bias, args);
    if (is("add_doubled")) run(add_doubled, args);
}
