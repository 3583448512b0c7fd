/* Windows added up where they came from: the adjoint of _windows.c, for contiguous floats and doubles.
 *
 * Every row of the result is computed at once: its numbers stay in registers while the rows of all kernel
 * positions that meet it pass by, so windows are read once and the result is written once. Where the stride of
 * the last dimension isn't 1, numbers are summed by their remainder and then put in their order.
 */

#include "_native.h"

enum { MAX_DIMS = 8 };

/* Bytes of windows of one task, and those that a thread of its own is worth. */
static const int64_t TASK = 1 << 16, THREAD = 1 << 18;

/* A kernel position of the last dimension: its outputs that meet the input, and where: o + shift, among the
 * inputs of one remainder. Its masks are one for each vector of these inputs. */
struct column {
    int64_t kernel, low, high, shift;
    const uint16_t *masks;
};

struct sum {
    int dims, channels_first;
    int64_t batch, channels, block, pitch; /* elements of a block, and from one to the next */
    int64_t inputs[MAX_DIMS], kernel[MAX_DIMS], outputs[MAX_DIMS], step[MAX_DIMS], dilation[MAX_DIMS],
        left[MAX_DIMS];
    int64_t inner[MAX_DIMS], kernels[MAX_DIMS]; /* outputs, and kernel positions, of the dimensions behind */
    int64_t plane, rows, depth; /* inputs, rows of them, and the most blocks that meet a row */
    struct column *columns;     /* by remainder */
    int64_t *first;             /* the first of each remainder, and the end */
    int64_t lanes, across;      /* elements of a vector, and vectors of one remainder */
    const char *windows;
    char *result;
    int64_t group, tasks;
    atomic_llong next_task;
    atomic_int failed;
    void (*run)(const struct sum *, int64_t, int64_t, void *, const void **);
};

/* Find the rows of windows that meet a row of the result, but for the position in the last dimension. */
static int64_t find_rows(const struct sum *s, const int64_t *place, const char *windows, int64_t item,
                         const void **found)
{
    int64_t count = 1;
    found[0] = windows;
    for (int d = 0; d < s->dims - 1; d++) {
        int64_t added = 0;
        const void **next = found + s->depth;
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k < s->kernel[d]; k++) {
                const int64_t reach = place[d] + s->left[d] - s->dilation[d] * k;
                if (reach < 0 || (s->step[d] > 1 && reach % s->step[d])) continue;
                const int64_t o = s->step[d] > 1 ? reach / s->step[d] : reach;
                if (o < s->outputs[d])
                    next[added++] = (const char *)found[i] + (k * s->kernels[d] * s->pitch + o * s->inner[d]) * item;
            }
        memcpy(found, next, (size_t)added * sizeof *found);
        count = added;
    }
    return count;
}

/* The inputs of one remainder. */
#define ADD(type)                                                                                             \
    INLINE void add_##type(const struct sum *s, int64_t phase, const void **rows, int64_t count,              \
                           type *restrict out, int64_t size)                                                  \
    {                                                                                                         \
        memset(out, 0, (size_t)size * sizeof *out);                                                           \
        for (int64_t r = 0; r < count; r++)                                                                   \
            for (int64_t c = s->first[phase]; c < s->first[phase + 1]; c++) {                                 \
                const struct column *p = s->columns + c;                                                      \
                const type *restrict in = (const type *)rows[r] + p->kernel * s->pitch;                       \
                for (int64_t o = p->low; o < p->high; o++) out[o + p->shift] += in[o];                        \
            }                                                                                                 \
    }
ADD(float)
ADD(double)
#undef ADD

#ifdef HAVE_X86
#define ADD(type, lanes_, mask, suffix, vector)                                                               \
    TARGET_AVX512 static void fast_##type(const struct sum *s, int64_t phase, const void **rows,              \
                                          int64_t count, type *restrict out, int64_t size)                    \
    {                                                                                                         \
        const struct column *first = s->columns + s->first[phase], *end = s->columns + s->first[phase + 1];   \
        for (int64_t i = 0, m = 0; i < size; i += lanes_, m++) {                                              \
            vector sum = _mm512_setzero_##suffix();                                                           \
            for (int64_t r = 0; r < count; r++)                                                               \
                for (const struct column *p = first; p < end; p++) {                                          \
                    const type *in = (const type *)rows[r] + p->kernel * s->pitch + i - p->shift;             \
                    sum = _mm512_add_##suffix(sum, _mm512_maskz_loadu_##suffix((mask)p->masks[m], in));       \
                }                                                                                             \
            const mask all = (mask) ~(mask)0;                                                                 \
            _mm512_mask_storeu_##suffix(out + i, size - i >= lanes_ ? all : all >> (lanes_ - (size - i)),     \
                                        sum);                                                                 \
        }                                                                                                     \
    }
ADD(float, 16, __mmask16, ps, __m512)
ADD(double, 8, __mmask8, pd, __m512d)
#undef ADD
#define FAST(type, level) if (level == AVX512) fast_##type(s, phase, found, count, to, size); else
#else
#define FAST(type, level)
#endif

/* Some planes of the result. */
#define PLANES(type)                                                                                          \
    INLINE void planes_##type(const struct sum *s, int64_t start, int64_t stop, type *scratch,                \
                              const void **found, int level)                                                  \
    {                                                                                                         \
        const int last = s->dims - 1;                                                                         \
        const int64_t step = s->step[last], width = s->inputs[last];                                          \
        const int64_t all = s->kernels[0] * s->kernel[0];                                                     \
        for (int64_t plane = start; plane < stop; plane++) {                                                  \
            const int64_t b = plane / s->channels, c = plane % s->channels;                                   \
            const int64_t block = s->channels_first ? c * all * s->batch + b : plane * all;                   \
            const char *windows = s->windows + block * s->block * (int64_t)sizeof(type);                      \
            type *out = (type *)s->result + plane * s->plane;                                                 \
            int64_t place[MAX_DIMS] = {0};                                                                    \
            for (int64_t row = 0; row < s->rows; row++, out += width) {                                       \
                const int64_t count = find_rows(s, place, windows, sizeof(type), found);                      \
                for (int d = last - 1; d >= 0 && ++place[d] == s->inputs[d]; d--) place[d] = 0;               \
                if (count == 0) {                                                                             \
                    memset(out, 0, (size_t)width * sizeof *out);                                              \
                    continue;                                                                                 \
                }                                                                                             \
                for (int64_t phase = 0; phase < least(step, width); phase++) {                                \
                    const int64_t size = (width - phase + step - 1) / step;                                   \
                    type *to = step == 1 ? out : step == 2 ? scratch + phase * width : scratch;               \
                    FAST(type, level) add_##type(s, phase, found, count, to, size);                           \
                    if (step > 2)                                                                             \
                        for (int64_t i = 0; i < size; i++) out[step * i + phase] = to[i];                     \
                }                                                                                             \
                if (step == 2) {                                                                              \
                    const type *restrict even = scratch, *restrict odd = scratch + width;                     \
                    type *restrict to = out;                                                                  \
                    for (int64_t i = 0; i < width / 2; i++) to[2 * i] = even[i], to[2 * i + 1] = odd[i];      \
                    if (width % 2) to[width - 1] = even[width / 2];                                           \
                }                                                                                             \
            }                                                                                                 \
        }                                                                                                     \
    }
PLANES(float)
PLANES(double)
#undef PLANES

#define RUN(target, name, level)                                                                              \
    target static void float_##name(const struct sum *s, int64_t start, int64_t stop, void *scratch,          \
                                    const void **found)                                                       \
    {                                                                                                         \
        planes_float(s, start, stop, scratch, found, level);                                                  \
    }                                                                                                         \
    target static void double_##name(const struct sum *s, int64_t start, int64_t stop, void *scratch,         \
                                     const void **found)                                                      \
    {                                                                                                         \
        planes_double(s, start, stop, scratch, found, level);                                                 \
    }
RUN(, baseline, BASELINE)
#ifdef HAVE_X86
RUN(TARGET_AVX2, avx2, AVX2)
RUN(TARGET_AVX512, avx512, AVX512)
#endif
#undef RUN

static void work(void *argument)
{
    struct sum *s = argument;
    void *scratch = malloc((size_t)(2 * s->inputs[s->dims - 1]) * sizeof(double));
    const void **found = malloc((size_t)(2 * s->depth) * sizeof *found);
    if (!scratch || !found) atomic_store(&s->failed, 1);
    else
        for (;;) {
            const long long first = atomic_fetch_add(&s->next_task, 1) * s->group;
            if (first >= s->tasks) break;
            s->run(s, first, least(first + s->group, s->tasks), scratch, found);
        }
    free(scratch);
    free(found);
}

/* Kernel positions of the last dimension by remainder, with their masks. Returns 1 if there is no memory. */
static int find_columns(struct sum *s, uint16_t **masks)
{
    const int d = s->dims - 1;
    const int64_t step = s->step[d], size = s->inputs[d], kernel = s->kernel[d];
    const int64_t phases = least(step, size);
    s->across = ((size + step - 1) / step + s->lanes - 1) / s->lanes;
    s->columns = malloc((size_t)kernel * sizeof *s->columns);
    s->first = calloc((size_t)phases + 1, sizeof *s->first);
    *masks = calloc((size_t)(kernel * s->across), sizeof **masks);
    if (!s->columns || !s->first || !*masks) return 1;
    int64_t count = 0;
    for (int64_t phase = 0; phase < phases; phase++) {
        s->first[phase] = count;
        for (int64_t k = 0; k < kernel; k++) {
            const int64_t origin = s->dilation[d] * k - s->left[d], shift = floor_div(origin, step);
            const int64_t low = most(0, -shift), high = least(s->outputs[d], floor_div(size - 1 - origin, step) + 1);
            if (origin - shift * step != phase || high <= low) continue;
            uint16_t *own = *masks + count * s->across;
            for (int64_t i = low + shift; i < high + shift; i++) own[i / s->lanes] |= (uint16_t)(1u << i % s->lanes);
            s->columns[count++] = (struct column){k, low, high, shift, own};
        }
    }
    s->first[phases] = count;
    return 0;
}

int einfx_windows_level(void);

/* Add up all windows.
 *
 * geometry: dimensions (2 to MAX_DIMS), bytes of an element (4 or 8), whether channels come first, batch,
 * channels; then for each dimension: inputs, kernel, outputs, stride, dilation, left padding. Windows are
 * contiguous, as einfx_windows_copy writes them; so is the result: batch, channels, inputs. Returns 1 if there is
 * no memory.
 */
int einfx_windows_add(const char *windows, char *result, const int64_t *geometry, int level, int threads,
                      parallel_function parallel)
{
    struct sum s = {.dims = (int)geometry[0], .channels_first = (int)geometry[2], .batch = geometry[3],
                    .channels = geometry[4], .windows = windows, .result = result};
    const int64_t item = geometry[1];
    const int best = einfx_windows_level();
    if (level > best) level = best;
    s.plane = s.block = s.depth = 1;
    int64_t kernels = 1;
    for (int d = s.dims - 1; d >= 0; d--) {
        const int64_t *g = geometry + 5 + 6 * d;
        s.inputs[d] = g[0], s.kernel[d] = g[1], s.outputs[d] = g[2];
        s.step[d] = g[3], s.dilation[d] = g[4], s.left[d] = g[5];
        s.inner[d] = s.block, s.kernels[d] = kernels;
        s.plane *= g[0], kernels *= g[1], s.block *= g[2];
        if (d < s.dims - 1) s.depth *= g[1];
    }
    s.tasks = s.batch * s.channels;
    if (s.tasks == 0) return 0;
    s.rows = s.plane / s.inputs[s.dims - 1];
    s.pitch = s.channels_first ? s.block * s.batch : s.block;
    s.lanes = 64 / item;
    uint16_t *masks = NULL;
    if (find_columns(&s, &masks)) atomic_init(&s.failed, 1);
    else {
        s.run = item == 4 ? float_baseline : double_baseline;
#ifdef HAVE_X86
        if (level == AVX2) s.run = item == 4 ? float_avx2 : double_avx2;
        if (level == AVX512) s.run = item == 4 ? float_avx512 : double_avx512;
#endif
        const int64_t bytes = kernels * s.block * item;
        s.group = most(1, TASK / bytes);
        threads = (int)least(threads, s.tasks * bytes / THREAD);
        atomic_init(&s.next_task, 0);
        atomic_init(&s.failed, 0);
        if (threads > 1 && parallel) parallel(work, &s, (unsigned)threads, 0);
        else work(&s);
    }
    free(masks);
    free(s.columns);
    free(s.first);
    return atomic_load(&s.failed);
}
