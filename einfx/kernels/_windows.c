/* Windows of a tensor, copied for every position of a sliding kernel, for elements of any type.
 *
 * The output has a block for each channel, sample and kernel position: an element for each position of the
 * window. A padded copy of the input is never made. There are three ways:
 *
 *     SHIFTED   Two dimensions where output rows are no shorter than input rows divided by the stride: a plane
 *               is split by the remainders of the strides, with rows as long as the output's. Then every block
 *               is a part, shifted as a whole, but for the elements that come from padding or another row;
 *               masks make them 0.
 *     GATHERED  Blocks whose kernel positions differ in the first dimension only have their rows in common.
 *               They are gathered once, with their zeros, ordered by the remainder of the stride; then every
 *               block is one copy from there.
 *     DIRECT    Rows that are read once go straight to the output.
 *
 * Functions are written once, and compiled for every instruction set; which of them runs is decided when they
 * are called. Threads are those of the OpenMP library that the caller has running already.
 */

#include "_native.h"

enum mode { DIRECT, GATHERED, SHIFTED };

/* Dimensions; masks until rows repeat; bytes of a block that has masks for all of it. */
enum { MAX_DIMS = 8, PERIOD = 128, SMALL = 1024 };

/* Bytes of gathered rows and of a split plane, which stay in the caches; of one task; and of the output that a
 * thread of its own is worth. */
static const int64_t GATHERED_BYTES = 1 << 17, PLANE_BYTES = 1 << 20, TASK = 1 << 16, THREAD = 1 << 18;

/* A kernel position of one dimension: the outputs that meet the input, and what output 0 reads. */
struct place {
    int64_t low, high, origin;
    int64_t shift, phase; /* origin == shift * step + phase */
};

struct dimension {
    int64_t inputs, kernel, outputs, step, dilation, left;
    int64_t pitch;       /* of the input, in bytes */
    int64_t block;       /* bytes of the output below one position */
    int64_t whole, rest; /* of inputs by step */
    struct place *places;
};

/* Where vectors hold every `step`-th element, and which elements of the result each of them has. */
struct picks {
    int64_t step; /* 0 for none */
    unsigned char places[64];
    uint64_t held[8];
};

struct job {
    int dims, channels_first;
    int64_t item; /* bytes of an element */
    int64_t batch, channels, batch_pitch, channel_pitch, out_batch, out_channel, out_kernel, out_block;
    struct dimension dim[MAX_DIMS];
    struct picks picks;
    enum mode mode;
    /* SHIFTED: which bytes are inside, for each kernel position, and bytes of a part of a plane. */
    const uint64_t *masks;
    int64_t period, part;
    int small; /* masks are for whole blocks */
    /* GATHERED: outputs of the first dimension at a time, remainders of the stride, and rows of each. */
    int64_t strip, phases, depth;
    int64_t pieces; /* of a plane: kernel positions of the first dimension, or of all the others */
    int64_t group, tasks, scratch;
    const char *input;
    char *output;
    atomic_llong next_task;
    atomic_int failed;
    void (*run)(const struct job *, int64_t, int64_t, char *);
    void (*face)(const struct job *, const struct dimension *, int64_t, const char *, int64_t, int64_t, char *);
};

/* A few bytes are copied without a call: the last piece overlaps the one before. */
#define PIECES(width, from)                                                                                   \
    if (count >= width) {                                                                                     \
        for (int64_t i = 0; i + width <= count; i += width) memcpy(to + i, from, width);                      \
        const int64_t i = count - width;                                                                      \
        memcpy(to + i, from, width);                                                                          \
        return;                                                                                               \
    }

INLINE void copy(char *restrict to, const char *restrict from, int64_t count)
{
    if (count > 1024) {
        memcpy(to, from, (size_t)count);
        return;
    }
    PIECES(64, from + i)
    PIECES(16, from + i)
    PIECES(4, from + i)
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

INLINE void zero(char *to, int64_t count)
{
    static const char nothing[16];
    if (count > 256) {
        memset(to, 0, (size_t)count);
        return;
    }
    PIECES(16, nothing)
    PIECES(4, nothing)
    for (int64_t i = 0; i < count; i++) to[i] = 0;
}
#undef PIECES

#ifdef HAVE_X86
/* Rows of every `step`-th element, by a permutation of each vector that holds some of them. */
#define PICK(bits, lanes, mask)                                                                               \
    TARGET_AVX512 static void pick_##bits(char *to, int64_t to_pitch, const char *from, int64_t from_pitch,   \
                                          int64_t rows, int64_t count, const struct picks *p)                 \
    {                                                                                                         \
        const __m512i place = _mm512_loadu_si512(p->places);                                                  \
        const int64_t step = p->step, whole = (count - 1) / lanes, rest = count - whole * lanes;              \
        const int64_t last = (rest - 1) * step, vectors = last / lanes;                                       \
        const mask all = (mask) ~(mask)0, end = all >> (lanes - rest);                                        \
        const mask read = all >> (lanes - 1 - last % lanes);                                                  \
        if (whole == 0 && vectors <= 1) {                                                                     \
            const mask first = (mask)p->held[0], second = (mask)p->held[1];                                   \
            const mask low = vectors ? all : read, high = vectors ? read : 0;                                 \
            for (int64_t r = 0; r < rows; r++, to += to_pitch, from += from_pitch) {                          \
                const uint##bits##_t *in = (const uint##bits##_t *)from;                                      \
                __m512i v = _mm512_maskz_loadu_epi##bits(low, in);                                            \
                v = _mm512_maskz_permutexvar_epi##bits(first, place, v);                                      \
                v = _mm512_mask_permutexvar_epi##bits(v, second, place,                                       \
                                                      _mm512_maskz_loadu_epi##bits(high, in + lanes));        \
                _mm512_mask_storeu_epi##bits(to, end, v);                                                     \
            }                                                                                                 \
            return;                                                                                           \
        }                                                                                                     \
        for (int64_t r = 0; r < rows; r++, to += to_pitch, from += from_pitch) {                              \
            const uint##bits##_t *in = (const uint##bits##_t *)from;                                          \
            uint##bits##_t *out = (uint##bits##_t *)to;                                                       \
            for (int64_t i = 0; i < whole; i++, in += lanes * step, out += lanes) {                           \
                __m512i v = _mm512_permutexvar_epi##bits(place, _mm512_loadu_si512(in));                      \
                for (int64_t n = 1; n < step; n++)                                                            \
                    v = _mm512_mask_permutexvar_epi##bits(v, (mask)p->held[n], place,                         \
                                                          _mm512_loadu_si512(in + n * lanes));                \
                _mm512_storeu_si512(out, v);                                                                  \
            }                                                                                                 \
            __m512i v = _mm512_setzero_si512();                                                               \
            for (int64_t n = 0; n < vectors; n++)                                                             \
                v = _mm512_mask_permutexvar_epi##bits(v, (mask)p->held[n], place,                             \
                                                      _mm512_loadu_si512(in + n * lanes));                    \
            v = _mm512_mask_permutexvar_epi##bits(                                                            \
                v, (mask)p->held[vectors], place, _mm512_maskz_loadu_epi##bits(read, in + vectors * lanes));  \
            _mm512_mask_storeu_epi##bits(out, end, v);                                                        \
        }                                                                                                     \
    }
PICK(16, 32, __mmask32)
PICK(32, 16, __mmask16)
PICK(64, 8, __mmask8)
#undef PICK

/* Bytes where a mask, of which there are `period`, has ones; the others become 0, and are never touched. */
TARGET_AVX512 static void sift(char *restrict to, const char *restrict from, int64_t count,
                               const uint64_t *masks, int64_t period)
{
    int64_t i = 0;
    while (count - i >= 64)
        for (int64_t m = 0; m < period && count - i >= 64; m++, i += 64)
            _mm512_storeu_si512(to + i, _mm512_maskz_loadu_epi8(masks[m], from + i));
    if (count > i) {
        const uint64_t rest = ~0ull >> (64 - (count - i));
        _mm512_mask_storeu_epi8(to + i, rest, _mm512_maskz_loadu_epi8(masks[i / 64 % period] & rest, from + i));
    }
}

/* The same with a mask for everything. */
TARGET_AVX512 static void sift_small(char *restrict to, const char *restrict from, int64_t count,
                                     const uint64_t *masks)
{
    for (; count > 64; count -= 64, to += 64, from += 64)
        _mm512_storeu_si512(to, _mm512_maskz_loadu_epi8(*masks++, from));
    _mm512_mask_storeu_epi8(to, ~0ull >> (64 - count), _mm512_maskz_loadu_epi8(*masks, from));
}
#endif

struct wide {
    uint64_t low, high;
};

/* Rows of elements at equal distances: `step` bytes of the input. */
INLINE void gather(const struct job *j, char *to, int64_t to_pitch, const char *from, int64_t from_pitch,
                   int64_t rows, int64_t count, int64_t step, int level)
{
    const int64_t item = j->item;
    if (rows <= 0 || count <= 0) return;
    if (step == item) {
        for (int64_t r = 0; r < rows; r++) copy(to + r * to_pitch, from + r * from_pitch, count * item);
        return;
    }
#ifdef HAVE_X86
    if (level == AVX512 && j->picks.step) {
        if (item == 4) pick_32(to, to_pitch, from, from_pitch, rows, count, &j->picks);
        if (item == 8) pick_64(to, to_pitch, from, from_pitch, rows, count, &j->picks);
        if (item == 2) pick_16(to, to_pitch, from, from_pitch, rows, count, &j->picks);
        return;
    }
#endif
#define GATHER(type)                                                                                          \
    if (item == sizeof(type)) {                                                                               \
        for (int64_t r = 0; r < rows; r++) {                                                                  \
            type *restrict out = (type *)(to + r * to_pitch);                                                 \
            const type *restrict in = (const type *)(from + r * from_pitch);                                  \
            if (step == 2 * item)                                                                             \
                for (int64_t i = 0; i < count; i++) out[i] = in[2 * i];                                       \
            else                                                                                              \
                for (int64_t i = 0; i < count; i++) out[i] = *(const type *)((const char *)in + i * step);    \
        }                                                                                                     \
        return;                                                                                               \
    }
    GATHER(uint32_t)
    GATHER(uint16_t)
    GATHER(uint64_t)
    GATHER(uint8_t)
    GATHER(struct wide)
#undef GATHER
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i++)
            copy(to + r * to_pitch + i * item, from + r * from_pitch + i * step, item);
}

/* Rows of the last two dimensions, `count` of them; the first one is of input `first`, maybe outside. */
INLINE void face(const struct job *j, const struct dimension *d, int64_t kernel, const char *plane,
                 int64_t first, int64_t count, char *to, int level)
{
    const struct dimension *w = d + 1;
    const struct place q = w->places[kernel];
    const int64_t step = d->step, width = d->block, item = j->item, last = d->inputs - 1 - first;
    const int64_t before = first < 0 ? least(count, (-first + step - 1) / step) : 0;
    const int64_t end = most(before, last < 0 ? 0 : least(count, last / step + 1));
    zero(to, before * width);
    if (q.low)
        for (int64_t r = before; r < end; r++) zero(to + r * width, q.low * item);
    const char *from = plane + (first + before * step) * d->pitch + (q.origin + w->step * q.low) * w->pitch;
    gather(j, to + before * width + q.low * item, width, from, step * d->pitch, end - before, q.high - q.low,
           w->step * w->pitch, level);
    if (q.high < w->outputs)
        for (int64_t r = before; r < end; r++)
            zero(to + r * width + q.high * item, (w->outputs - q.high) * item);
    zero(to + end * width, (count - end) * width);
}

/* The same of all dimensions from one on. */
static void deep(const struct job *j, const int64_t *k, int dim, const char *from, int64_t first, int64_t count,
                 char *to)
{
    const struct dimension *d = &j->dim[dim], *below = d + 1;
    if (dim == j->dims - 2) {
        j->face(j, d, k[dim + 1], from, first, count, to);
        return;
    }
    for (int64_t o = 0; o < count; o++, first += d->step, to += d->block) {
        if (first < 0 || first >= d->inputs) zero(to, d->block);
        else
            deep(j, k, dim + 1, from + first * d->pitch, below->places[k[dim + 1]].origin, below->outputs, to);
    }
}

INLINE void rows(const struct job *j, const int64_t *k, const char *plane, int64_t first, int64_t count,
                 char *to, int level)
{
    if (j->dims == 2) face(j, &j->dim[0], k[1], plane, first, count, to, level);
    else deep(j, k, 0, plane, first, count, to);
}

/* All blocks of one plane whose kernel position is the same but for the first dimension. */
INLINE void column(const struct job *j, const char *from, char *to, int64_t inner, char *gathered, int level)
{
    const struct dimension *d = &j->dim[0];
    const int64_t pitch = j->pieces * j->out_kernel;
    int64_t k[MAX_DIMS];
    to += inner * j->out_kernel;
    for (int i = j->dims - 1; i > 0; i--) {
        k[i] = inner % j->dim[i].kernel;
        inner /= j->dim[i].kernel;
    }
    if (j->mode == DIRECT) {
        for (int64_t kernel = 0; kernel < d->kernel; kernel++, to += pitch)
            rows(j, k, from, d->dilation * kernel - d->left, d->outputs, to, level);
        return;
    }
    for (int64_t start = 0; start < d->outputs; start += j->strip) {
        const int64_t count = least(j->strip, d->outputs - start), depth = j->depth - (j->strip - count);
        for (int64_t phase = 0; phase < j->phases; phase++)
            rows(j, k, from, start * d->step + phase - d->left, depth, gathered + phase * j->depth * d->block,
                 level);
        for (int64_t kernel = 0; kernel < d->kernel; kernel++) {
            const int64_t reach = d->dilation * kernel;
            copy(to + kernel * pitch + start * d->block,
                 gathered + (reach % d->step * j->depth + reach / d->step) * d->block, count * d->block);
        }
    }
}

/* The plane in parts, one for each pair of remainders of the strides, with rows as long as the output's. */
INLINE void split(const struct job *j, const char *from, char *to, int level)
{
    const struct dimension *d = &j->dim[0], *w = &j->dim[1];
    for (int64_t row = 0; row < d->step; row++)
        for (int64_t start = 0; start < w->step; start++, to += j->part)
            gather(j, to, d->block, from + row * d->pitch + start * w->pitch, d->step * d->pitch,
                   d->whole + (row < d->rest), w->whole + (start < w->rest), w->step * w->pitch, level);
}

/* All blocks of one plane for one position of the kernel in the first dimension, by shifts. */
INLINE void shifted(const struct job *j, const char *plane, char *to, int64_t kernel, int level)
{
    const struct dimension *d = &j->dim[0], *w = &j->dim[1];
    const struct place p = d->places[kernel];
    const int64_t width = d->block, item = j->item, count = p.high - p.low;
    to += kernel * w->kernel * j->out_kernel;
    for (int64_t k = 0; k < w->kernel; k++, to += j->out_kernel) {
        const struct place q = w->places[k];
        const char *from = plane + (p.phase * w->step + q.phase) * j->part + p.shift * width + q.shift * item;
        if (count == 0 || q.high == q.low) {
            zero(to, j->out_block);
            continue;
        }
#ifdef HAVE_X86
        if (level == AVX512 && j->masks && j->small) {
            sift_small(to, from, j->out_block, j->masks + (kernel * w->kernel + k) * j->period);
            continue;
        }
#endif
        char *out = to + p.low * width;
        from += p.low * width;
        zero(to, p.low * width);
        zero(to + p.high * width, (d->outputs - p.high) * width);
#ifdef HAVE_X86
        if (level == AVX512 && j->masks) {
            sift(out, from, count * width, j->masks + k * j->period, j->period);
            continue;
        }
#endif
        copy(out + q.low * item, from + q.low * item, (count - 1) * width + (q.high - q.low) * item);
        if (q.low)
            for (int64_t r = 0; r < count; r++) zero(out + r * width, q.low * item);
        if (q.high < w->outputs)
            for (int64_t r = 0; r < count; r++)
                zero(out + r * width + q.high * item, (w->outputs - q.high) * item);
    }
}

/* Some tasks, one after the other: whole planes, or pieces of them. */
INLINE void tasks(const struct job *j, int64_t first, int64_t last, char *scratch, int level)
{
    const int64_t plane = first / j->pieces, fast_end = j->channels_first ? j->batch : j->channels;
    int64_t piece = first % j->pieces, slow = plane / fast_end, fast = plane % fast_end;
    for (int64_t number = first; number < last; number++) {
        const int64_t b = j->channels_first ? fast : slow, c = j->channels_first ? slow : fast;
        const char *from = j->input + b * j->batch_pitch + c * j->channel_pitch;
        char *to = j->output + b * j->out_batch + c * j->out_channel;
        if (j->mode == SHIFTED) {
            if (j->scratch) {
                if (number == first || piece == 0) split(j, from, scratch, level);
                from = scratch;
            }
            if (j->pieces > 1) shifted(j, from, to, piece, level);
            else
                for (int64_t kernel = 0; kernel < j->dim[0].kernel; kernel++)
                    shifted(j, from, to, kernel, level);
        } else
            column(j, from, to, piece, scratch, level);
        if (++piece == j->pieces) {
            piece = 0;
            if (++fast == fast_end) fast = 0, slow++;
        }
    }
}

#define RUN(target, name, level)                                                                              \
    target static void run_##name(const struct job *j, int64_t first, int64_t last, char *scratch)            \
    {                                                                                                         \
        tasks(j, first, last, scratch, level);                                                                \
    }                                                                                                         \
    target static void face_##name(const struct job *j, const struct dimension *d, int64_t kernel,            \
                                   const char *plane, int64_t first, int64_t count, char *to)                 \
    {                                                                                                         \
        face(j, d, kernel, plane, first, count, to, level);                                                   \
    }
RUN(, baseline, BASELINE)
#ifdef HAVE_X86
RUN(TARGET_AVX2, avx2, AVX2)
RUN(TARGET_AVX512, avx512, AVX512)
#endif
#undef RUN

static void work(void *argument)
{
    struct job *j = argument;
    void *scratch = NULL;
    if (j->scratch && posix_memalign(&scratch, 64, (size_t)j->scratch)) {
        atomic_store(&j->failed, 1);
        return;
    }
    for (;;) {
        const long long first = atomic_fetch_add(&j->next_task, 1) * j->group;
        if (first >= j->tasks) break;
        j->run(j, first, least(first + j->group, j->tasks), scratch);
    }
    free(scratch);
}

/* The best instruction set of this machine, as in enum level. */
int einfx_windows_level(void) { return best_level(); }

/* A last dimension that stays as it is makes elements longer. */
static void merge(struct job *j)
{
    for (int tries = j->dims; tries > 0; tries--) {
        struct dimension *d = &j->dim[j->dims - 1];
        if (d->kernel != 1 || d->left || d->outputs != d->inputs || (d->step != 1 && d->outputs > 1) ||
            (d->pitch != j->item && d->inputs > 1))
            return;
        j->item *= d->inputs;
        if (j->dims > 2) j->dims--;
        else {
            *d = d[-1];
            d[-1] = (struct dimension){
                .inputs = 1, .kernel = 1, .outputs = 1, .step = 1, .dilation = 1, .whole = 1};
        }
    }
}

static void find_places(struct dimension *d)
{
    for (int64_t k = 0; k < d->kernel; k++) {
        const int64_t origin = d->dilation * k - d->left, shift = floor_div(origin, d->step);
        const int64_t low = least(d->outputs, most(0, -shift));
        const int64_t high = least(d->outputs, floor_div(d->inputs - 1 - origin, d->step) + 1);
        d->places[k] = (struct place){low, most(low, high), origin, shift, origin - shift * d->step};
    }
}

static void find_picks(struct picks *p, int64_t step, int64_t item)
{
    if (step % item || step < 2 * item || step > 8 * item || (item != 2 && item != 4 && item != 8)) return;
    const int64_t lanes = 64 / item;
    p->step = step / item;
    for (int64_t i = 0; i < lanes; i++) {
        p->places[i * item] = (unsigned char)(i * p->step % lanes);
        p->held[i * p->step / lanes] |= 1ull << i;
    }
}

/* The bits from one to another, in words. */
static void set_bits(uint64_t *words, int64_t first, int64_t last)
{
    for (int64_t i = first / 64; 64 * i < last; i++) {
        const int64_t start = most(0, first - 64 * i), stop = least(64, last - 64 * i);
        words[i] |= ~0ull << start & ~0ull >> (64 - stop);
    }
}

/* Masks of each block where blocks are small, or else of rows until they repeat. NULL if there is no memory. */
static uint64_t *find_masks(const struct job *j)
{
    const struct dimension *d = &j->dim[0], *w = &j->dim[1];
    const int64_t count = (j->small ? d->kernel : 1) * w->kernel;
    uint64_t *masks = calloc((size_t)(count * j->period), sizeof *masks);
    if (!masks) return NULL;
    for (int64_t k = 0; k < count; k++) {
        const struct place p = d->places[k / w->kernel], q = w->places[k % w->kernel];
        const int64_t first = j->small ? p.low : 0, last = j->small ? p.high : 64 * j->period / d->block;
        if (q.high > q.low)
            for (int64_t r = first; r < last; r++)
                set_bits(masks + k * j->period, r * d->block + q.low * j->item, r * d->block + q.high * j->item);
    }
    return masks;
}

/* Decide for one of the ways; `kernels` is the number of kernel positions. */
static void choose(struct job *j, int64_t kernels, int threads)
{
    const struct dimension *d = &j->dim[0], *w = &j->dim[1];
    const int64_t parts = d->step * w->step, part = (d->inputs + d->step - 1) / d->step * d->block;
    const int64_t reach = d->dilation * (d->kernel - 1), behind = reach / d->step;
    j->pieces = kernels / d->kernel;
    /* Splitting pays where parts are read more than once. */
    if (j->dims == 2 && (w->inputs + w->step - 1) / w->step <= w->outputs && 2 * kernels >= 3 * parts &&
        parts * part <= PLANE_BYTES) {
        j->mode = SHIFTED;
        j->part = part;
        if (parts > 1 || w->pitch != j->item || d->pitch != d->block) j->scratch = parts * part;
        j->pieces = j->batch * j->channels < 4 * threads ? d->kernel : 1;
        j->small = j->out_block <= SMALL;
        j->period = d->block;
        for (int halvings = 0; halvings < 6 && j->period % 2 == 0; halvings++) j->period /= 2;
        if (j->small) j->period = (j->out_block + 63) / 64;
    } else if (d->kernel > 1 && reach >= d->step && d->outputs > 1) {
        j->phases = least(d->step, reach + 1);
        const int64_t held = GATHERED_BYTES / (d->block * j->phases) - behind - 1;
        if (held > behind || held >= d->outputs) {
            j->mode = GATHERED;
            j->strip = least(held, d->outputs);
            j->depth = j->strip + behind;
            j->scratch = j->phases * j->depth * d->block;
        }
    }
}

/* Copy all windows.
 *
 * geometry: dimensions (2 to MAX_DIMS), bytes of an element, whether channels come first, batch, channels, the
 * pitches of both in the input, in bytes; then for each dimension: inputs, kernel, outputs, stride, dilation,
 * left padding, pitch. The output is contiguous: batch, channels, kernel positions, outputs, or with the batch
 * behind the kernel. Returns 1 if there is no memory.
 */
int einfx_windows_copy(const char *input, char *output, const int64_t *geometry, int level, int threads,
                       parallel_function parallel)
{
    struct job j = {.dims = (int)geometry[0], .item = geometry[1], .channels_first = (int)geometry[2],
                    .batch = geometry[3], .channels = geometry[4], .batch_pitch = geometry[5],
                    .channel_pitch = geometry[6], .input = input, .output = output};
    int64_t places = 0, kernels = 1;
    for (int i = 0; i < j.dims; i++) {
        const int64_t *g = geometry + 7 + 7 * i;
        j.dim[i] = (struct dimension){.inputs = g[0], .kernel = g[1], .outputs = g[2], .step = g[3], .dilation = g[4],
                                      .left = g[5], .pitch = g[6], .whole = g[0] / g[3], .rest = g[0] % g[3]};
    }
    merge(&j);
    j.out_block = j.item;
    for (int i = j.dims - 1; i >= 0; i--) {
        j.dim[i].block = j.out_block;
        j.out_block *= j.dim[i].outputs;
        places += j.dim[i].kernel;
        kernels *= j.dim[i].kernel;
    }
    const int64_t planes = j.batch * j.channels, total = planes * kernels * j.out_block;
    if (total == 0) return 0;
    struct place *place = malloc((size_t)places * sizeof *place);
    if (!place) return 1;
    j.dim[0].places = place;
    for (int i = 0; i < j.dims; i++) {
        find_places(&j.dim[i]);
        if (i < j.dims - 1) j.dim[i + 1].places = j.dim[i].places + j.dim[i].kernel;
    }
    find_picks(&j.picks, j.dim[j.dims - 1].step * j.dim[j.dims - 1].pitch, j.item);
    j.out_kernel = j.channels_first ? j.out_block * j.batch : j.out_block;
    j.out_batch = j.channels_first ? j.out_block : kernels * j.out_block * j.channels;
    j.out_channel = j.channels_first ? kernels * j.out_block * j.batch : kernels * j.out_block;
    choose(&j, kernels, threads);
    const int best = einfx_windows_level();
    if (level > best) level = best;
    uint64_t *masks = NULL;
    if (j.mode == SHIFTED && level == AVX512 && j.period <= PERIOD) {
        masks = find_masks(&j);
        if (!masks) {
            free(place);
            return 1;
        }
    }
    j.masks = masks;
    j.run = run_baseline;
    j.face = face_baseline;
#ifdef HAVE_X86
    if (level >= AVX2) j.run = run_avx2, j.face = face_avx2;
    if (level >= AVX512) j.run = run_avx512, j.face = face_avx512;
#endif
    j.tasks = planes * j.pieces;
    j.group = most(1, TASK / (total / j.tasks));
    threads = (int)least(threads, total / THREAD);
    atomic_init(&j.next_task, 0);
    atomic_init(&j.failed, 0);
    if (threads > 1 && parallel) parallel(work, &j, (unsigned)threads, 0);
    else work(&j);
    free(place);
    free(masks);
    return atomic_load(&j.failed);
}
