// What torch and torchvision do on a GPU in many kernels, or in one thread, here in one each. Compiled by NVRTC when a
// worker starts (gpu_kernels.py); no header, no compiler on the user's machine.
//
//     STORED       what features are stored in: float, or unsigned short, bfloat16's bits, the upper half of float's
//     STRIP        pixels of a row that a thread convolves
//     MOST_BOXES   of a group
//
// Shape shorthand: G groups of N boxes, W = ceil(N / 32) words of bits, B images, C channels, S side of the output.

struct alignas(16) Vector {  // of 16 bytes: what a thread reads and writes at once
    STORED lane[16 / sizeof(STORED)];
};
constexpr int LANES = 16 / sizeof(STORED);

__device__ float value(float stored) { return stored; }
__device__ float value(unsigned short stored) { return __uint_as_float((unsigned)stored << 16); }
__device__ void store(float number, float &stored) { stored = number; }
__device__ void store(float number, unsigned short &stored) {
    unsigned bits = __float_as_uint(number);  // to the nearest, of two equally near ones to the even
    stored = number == number ? (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 : 0x7FC0;
}

__device__ float cut(float number, float least, float most) {  // NaN stays NaN
    return number < least ? least : number > most ? most : number;
}

// Which better boxes of its class overlap each box: bits (G, W, N), bit j of word w of box i stands for box 32 w + j.
// boxes (G, N, 4), best first; classes (G, N). Words that hold no better box stay unwritten.
// The overlap is calculated as torchvision does, each step rounded.
extern "C" __global__ void overlaps(const float4 *boxes, const long long *classes, unsigned *bits, int count,
                                    double most) {
    __shared__ float4 others[32];
    __shared__ long long other_classes[32];
    const int word = blockIdx.y, start = word * 32, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (start >= (blockIdx.x + 1) * blockDim.x) return;
    const size_t group = blockIdx.z;
    boxes += group * count;
    classes += group * count;
    if (threadIdx.x < 32 && start + threadIdx.x < count) {
        others[threadIdx.x] = boxes[start + threadIdx.x];
        other_classes[threadIdx.x] = classes[start + threadIdx.x];
    }
    __syncthreads();
    if (index >= count || index < start) return;
    const float4 box = boxes[index];
    const long long own = classes[index];
    const float area = __fmul_rn(box.z - box.x, box.w - box.y), threshold = most;
    unsigned found = 0;
    for (int bit = 0; bit < min(32, index - start); ++bit) {
        const float4 other = others[bit];
        const float wide = fmaxf(fminf(box.z, other.z) - fmaxf(box.x, other.x), 0.f);
        const float high = fmaxf(fminf(box.w, other.w) - fmaxf(box.y, other.y), 0.f);
        const float shared = __fmul_rn(wide, high), others_area = __fmul_rn(other.z - other.x, other.w - other.y);
        const float together = __fsub_rn(__fadd_rn(area, others_area), shared);
        if (own == other_classes[bit] && __fdiv_rn(shared, together) > threshold) found |= 1u << bit;
    }
    bits[(group * gridDim.y + word) * count + index] = found;
}

// Which boxes overlap no better one that survives: kept (G, N). One block for a group.
// Word by word: first the 32 boxes among themselves, then all behind them that overlap one of those.
extern "C" __global__ void survivors(const unsigned *bits, const bool *usable, bool *kept, int count) {
    __shared__ bool dead[MOST_BOXES];
    __shared__ unsigned living;
    const int words = (count + 31) / 32;
    const size_t group = blockIdx.x;
    bits += group * words * count;
    usable += group * count;
    kept += group * count;
    for (int index = threadIdx.x; index < count; index += blockDim.x) dead[index] = !usable[index];
    __syncthreads();
    for (int word = 0; word < words; ++word) {
        const unsigned *of_word = bits + (size_t)word * count;
        if (threadIdx.x < 32) {
            const int index = word * 32 + threadIdx.x;
            const unsigned own = index < count ? of_word[index] : 0;
            unsigned alive = __ballot_sync(~0u, index < count && !dead[index]);
            for (int bit = 0; bit < 32; ++bit)
                if (alive >> bit & 1) alive &= ~__ballot_sync(~0u, own >> bit & 1);
            if (index < count) kept[index] = alive >> threadIdx.x & 1;
            if (threadIdx.x == 0) living = alive;
        }
        __syncthreads();
        const unsigned alive = living;
        if (alive)
            for (int index = (word + 1) * 32 + threadIdx.x; index < count; index += blockDim.x)
                if (of_word[index] & alive) dead[index] = true;
        __syncthreads();
    }
}

// ROIAlignV2 (aligned) of boxes (B · R, 4) in px of the network's input, each from its level of a pyramid of up to four:
// (B · R, S, S, C) from (B, h, w, C). A warp makes a cell, each of its threads LANES channels at a time.
// Levels are chosen as by Detectron2's assign_boxes_to_levels: first + 0 … levels - 1.
extern "C" __global__ void pool(const Vector *level0, int height0, int width0, double scale0,  //
                                const Vector *level1, int height1, int width1, double scale1,  //
                                const Vector *level2, int height2, int width2, double scale2,  //
                                const Vector *level3, int height3, int width3, double scale3,  //
                                const float4 *boxes, Vector *out, int levels, int channels, int each, int side,
                                int ratio, int first, double canonical_size, double canonical_level) {
    const Vector *all[4] = {level0, level1, level2, level3};
    const int heights[4] = {height0, height1, height2, height3}, widths[4] = {width0, width1, width2, width3};
    const float scales[4] = {(float)scale0, (float)scale1, (float)scale2, (float)scale3};
    const float4 box = boxes[blockIdx.x];
    const float size = sqrtf((box.z - box.x) * (box.w - box.y)) / (float)canonical_size;
    const float wanted = floorf((float)canonical_level + log2f(size + 1e-8f));
    const int level = (int)fminf(fmaxf(wanted, first), first + levels - 1) - first;
    const float scale = scales[level];  // px of the level for one of the input
    const int height = heights[level], width = widths[level], vectors = channels / LANES;
    const Vector *image = all[level] + (size_t)(blockIdx.x / each) * height * width * vectors;
    const float left = box.x * scale - .5f, top = box.y * scale - .5f;
    const float wide = (box.z * scale - .5f - left) / side, high = (box.w * scale - .5f - top) / side;
    const int across = ratio > 0 ? ratio : (int)ceilf(wide), down = ratio > 0 ? ratio : (int)ceilf(high);
    const float samples = max(across * down, 1);
    for (int cell = threadIdx.x / 32; cell < side * side; cell += blockDim.x / 32) {
        const float cell_y = top + cell / side * high, cell_x = left + cell % side * wide;
        for (int vector = threadIdx.x % 32; vector < vectors; vector += 32) {
            float total[LANES] = {};
            for (int row = 0; row < down; ++row) {
                float y = cell_y + (row + .5f) * high / down;
                if (!(y >= -1 && y <= height)) continue;  // a sample further than a pixel outside counts 0
                y = fminf(fmaxf(y, 0), height - 1);
                const int y_low = y, y_high = min(y_low + 1, height - 1);
                for (int column = 0; column < across; ++column) {
                    float x = cell_x + (column + .5f) * wide / across;
                    if (!(x >= -1 && x <= width)) continue;
                    x = fminf(fmaxf(x, 0), width - 1);
                    const int x_low = x, x_high = min(x_low + 1, width - 1);
                    const float below = y - y_low, right = x - x_low;
                    const int rows[2] = {y_low, y_high}, columns[2] = {x_low, x_high};
                    const float in_y[2] = {1 - below, below}, in_x[2] = {1 - right, right};
                    for (int corner = 0; corner < 4; ++corner) {
                        const int pixel = rows[corner / 2] * width + columns[corner % 2];
                        const Vector seen = image[(size_t)pixel * vectors + vector];
                        const float weight = in_y[corner / 2] * in_x[corner % 2];
                        for (int lane = 0; lane < LANES; ++lane) total[lane] += weight * value(seen.lane[lane]);
                    }
                }
            }
            Vector answer;
            for (int lane = 0; lane < LANES; ++lane) store(total[lane] / samples, answer.lane[lane]);
            out[((size_t)blockIdx.x * side * side + cell) * vectors + vector] = answer;
        }
    }
}

// See depthwise(): the work of one thread.
template <int STRIDE>
__device__ void convolve(const Vector *image, const float *weights, const float *bias, Vector *out, int height,
                         int width, int wide, int vectors, int row, int first, int dilation, float least, float most,
                         float from, float to) {
    float total[STRIP][LANES], weight[3][LANES];
    for (int step = 0; step < STRIP; ++step)
        for (int lane = 0; lane < LANES; ++lane) total[step][lane] = bias[lane];
    for (int tap = 0; tap < 3; ++tap) {
        const int y = row * STRIDE + (tap - 1) * dilation;
        if (y < 0 || y >= height) continue;
        for (int side = 0; side < 3; ++side)
            for (int lane = 0; lane < LANES; ++lane)
                weight[side][lane] = weights[(tap * 3 + side) * vectors * LANES + lane];
#pragma unroll
        for (int column = 0; column < (STRIP - 1) * STRIDE + 3; ++column) {  // each is read once
            const int x = first * STRIDE + (column - 1) * dilation;
            if (x < 0 || x >= width) continue;
            const Vector seen = image[(y * width + x) * vectors];
            for (int lane = 0; lane < LANES; ++lane) {
                const float number = cut(value(seen.lane[lane]), from, to);
#pragma unroll
                for (int step = 0; step < STRIP; ++step) {
                    const int side = column - step * STRIDE;
                    if (side >= 0 && side < 3) total[step][lane] += weight[side][lane] * number;
                }
            }
        }
    }
    for (int step = 0; step < STRIP; ++step) {
        const int x = first + step * dilation;
        if (x >= wide) return;
        Vector answer;
        for (int lane = 0; lane < LANES; ++lane) store(cut(total[step][lane], least, most), answer.lane[lane]);
        out[x * vectors] = answer;
    }
}

// A depthwise 3×3 convolution, padded by its dilation, with its bias, cut to least … most: (B, h', w', C) from
// (B, h, w, C). Inputs are cut likewise first where `cut_inputs`: of a ReLU6 before. weights (3, 3, C), bias (C,): float.
// The stride is 1 or 2, and 1 where there is a dilation. A thread makes LANES channels of STRIP pixels of a row,
// `dilation` pixels apart.
extern "C" __global__ void depthwise(const Vector *image, const float *weights, const float *bias, Vector *out,
                                     int count, int height, int width, int channels, int stride, int dilation,
                                     double least, double most, int cut_inputs) {
    const unsigned vectors = channels / LANES, high = (height - 1) / stride + 1, wide = (width - 1) / stride + 1;
    const unsigned strips = (wide + STRIP * dilation - 1) / (STRIP * dilation) * dilation;
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= count * high * strips * vectors) return;
    const unsigned vector = place % vectors;
    place /= vectors;
    const int strip = place % strips, first = strip / dilation * dilation * STRIP + strip % dilation;
    place /= strips;
    const float infinity = __int_as_float(0x7F800000);
    const float from = cut_inputs ? (float)least : -infinity, to = cut_inputs ? (float)most : infinity;
    image += (size_t)(place / high) * height * width * vectors + vector;
    out += (size_t)place * wide * vectors + vector;
    weights += vector * LANES;
    bias += vector * LANES;
    const int row = place % high;
    if (stride == 1)
        convolve<1>(image, weights, bias, out, height, width, wide, vectors, row, first, dilation, least, most, from, to);
    else
        convolve<2>(image, weights, bias, out, height, width, wide, vectors, row, first, dilation, least, most, from, to);
}

// numbers (M, C) += bias (C,), float, and cut to least … most; count is of vectors.
extern "C" __global__ void add_bias(Vector *numbers, const float *bias, int count, int channels, double least,
                                    double most) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    Vector one = numbers[index];
    bias += index % (channels / LANES) * LANES;
    for (int lane = 0; lane < LANES; ++lane)
        store(cut(value(one.lane[lane]) + bias[lane], least, most), one.lane[lane]);
    numbers[index] = one;
}

// level (B, h, w, C) += above (B, h / 2, w / 2, C), each of its pixels four times.
extern "C" __global__ void add_doubled(Vector *level, const Vector *above, int count, int height, int width,
                                       int channels) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, vectors = channels / LANES;
    if (index >= (unsigned)count * height * width * vectors) return;
    const unsigned vector = index % vectors, pixel = index / vectors, row = pixel / width;  // of all images
    Vector one = level[index];
    const Vector other = above[((size_t)(row / 2) * (width / 2) + pixel % width / 2) * vectors + vector];
    for (int lane = 0; lane < LANES; ++lane) store(value(one.lane[lane]) + value(other.lane[lane]), one.lane[lane]);
    level[index] = one;
}
