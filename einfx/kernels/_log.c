/* The elementwise passes around the real matrix product of a log-semiring product, for contiguous floats.
 *
 *     shift   the maxima of rows or columns, and the exponentials of what is left, in one pass over memory
 *     finish  from sums of products to their logarithms, setting apart those that are too small to be right
 *     divide  gradients by sums
 *     meet    sums of products relative to one number with those relative to another
 *     bound   which of these what is left could still change
 *     single  sums that a shift lost, term by term, or the gradients of their terms
 *
 * Functions are written once as ordinary loops, which the compiler turns into vectors for every instruction
 * set; which of them runs is decided when it is called. Threads are those of the OpenMP library that the
 * caller has running already: others would wait for it to stop spinning.
 */
#include <math.h>

#include "_log_math.h"

enum kind { SHIFT_ROWS, SHIFT_COLUMNS, SHIFT_SHORT_ROWS, SHIFT_FEW_COLUMNS, FINISH, DIVIDE, MEET, BOUND, SINGLE };

/* Columns whose maxima are taken together: 1 KiB of a row. */
enum { STRIP = 256 };

/* Columns whose single sums are taken together: a line of the cache. */
enum { NARROW = 16 };

enum { MAX_PAIRS = 4 };

/* Elements of one task, and how many a thread of its own is worth. */
static const int64_t TASK = 1 << 14, ELEMENTS_PER_THREAD = 1 << 17;

struct job {
    enum kind kind;
    int64_t batch, rows, columns;    /* columns are next to each other */
    int64_t batch_stride, row_stride; /* of the input, in elements; outputs are contiguous */
    const float *input;              /* operand, or gradients */
    float *first, *second, *tops;    /* exponentials, and scaled ones (NULL for none); sums, and logarithms */
    const float *row_tops, *column_tops;
    float window, scale, low;
    int32_t power;
    int linear;
    /* For bounds: pairs of tops, which entries are asked for, and which aren't complete. */
    const float *pair_tops[MAX_PAIRS][2];
    int pairs;
    const unsigned char *wanted;
    unsigned char *flags;
    /* For single sums: operands (B, I, K) and (B, K, J), and the strides of all that belongs to them. */
    const float *left, *right, *sums;
    float *logs, *gradient;
    int64_t depth, left_strides[3], right_strides[3], logs_strides[3], input_strides[3], gradient_strides[3];
    int64_t step, tasks; /* rows, or strips of columns, of one task */
    atomic_llong next_task, found;
    void (*run)(struct job *, int64_t);
};

/* What an element becomes, relative to its top: 0 at and below the window. */
INLINE float shifted(float x, float top, float window, float low, int linear)
{
    if (linear) {
        const float y = x / top;
        return fabsf(y) > low ? y : 0.0f;
    }
    const float distance = x - top;
    const float y = exponential(distance);
    return distance > -window ? y : 0.0f;
}

/* Ask for what comes next while computing: processors don't look past a page themselves. */
INLINE void fetch(const float *x, int64_t count)
{
    for (int64_t j = 0; j < count; j += 16) __builtin_prefetch(x + j);
}

/* Exponentials of one row; where both are wanted, the loop has no condition in it. */
INLINE void put_shifted(const struct job *p, const float *restrict x, const float *next,
                        const float *restrict tops, float top,
                        float *restrict plain, float *restrict scaled, int64_t count, int linear)
{
    const float window = p->window, scale = p->scale, low = p->low;
#define PUT(write)                                                                                            \
    for (int64_t j = start; j < end; j++) {                                                                   \
        const float y = shifted(x[j], tops ? tops[j] : top, window, low, linear);                             \
        write;                                                                                                \
    }
    for (int64_t start = 0; start < count; start += STRIP) {
        const int64_t end = count - start < STRIP ? count : start + STRIP;
        fetch(next + start, end - start);
        if (plain && scaled) PUT(plain[j] = y; scaled[j] = y * scale)
        else if (plain) PUT(plain[j] = y)
        else PUT(scaled[j] = y * scale)
    }
#undef PUT
}

/* The number to subtract or divide by: a top that is -inf, or 0 in linear space, would make nan. */
INLINE float divisor(float top, int linear) { return linear ? (top == 0 ? 1.0f : top) : (top > -INFINITY ? top : 0.0f); }

enum { LANES = 32 };

/* Numbers that are computed side by side where rows are too short for it: one of each of so many rows. */
enum { ABREAST = 16 };

/* Maxima of as many stretches of numbers as are given, and exponentials of what is left.
 *
 * from, to: where each of them starts, in the input and in the outputs; after the last one, the last again.
 * depth, step: how long they are, and how far apart the numbers of each are, there and in the outputs.
 */
INLINE int shift_abreast(const struct job *p, const int64_t *from, const int64_t *to, int64_t depth, int64_t step,
                         int64_t out_step, float *kept, int linear)
{
    const float window = p->window, low = p->low, scale = p->scale;
    float tops[ABREAST], by[ABREAST], y[ABREAST];
    int32_t odd[ABREAST] = {0}, special = 0;
    const float *x[ABREAST];
    for (int l = 0; l < ABREAST; l++) tops[l] = linear ? 0.0f : -INFINITY, x[l] = p->input + from[l];
    for (int64_t k = 0; k < depth; k++) {
        for (int l = 0; l < ABREAST; l++) y[l] = x[l][k * step];
        for (int l = 0; l < ABREAST; l++) {
            const float z = linear ? fabsf(y[l]) : y[l];
            tops[l] = z > tops[l] ? z : tops[l];
            odd[l] |= !(z < INFINITY);
        }
    }
    for (int l = 0; l < ABREAST; l++) by[l] = divisor(tops[l], linear), special |= odd[l], kept[l] = tops[l];
    for (int64_t k = 0; k < depth; k++) {
        for (int l = 0; l < ABREAST; l++) y[l] = x[l][k * step];
        for (int l = 0; l < ABREAST; l++) y[l] = shifted(y[l], by[l], window, low, linear);
        if (p->first)
            for (int l = 0; l < ABREAST; l++) p->first[to[l] + k * out_step] = y[l];
        if (p->second)
            for (int l = 0; l < ABREAST; l++) p->second[to[l] + k * out_step] = y[l] * scale;
    }
    return special;
}

INLINE void shift_short_rows(struct job *p, int64_t task, int linear)
{
    const int64_t all = p->batch * p->rows, end = least((task + 1) * p->step, all);
    int64_t from[ABREAST], to[ABREAST];
    float tops[ABREAST];
    int special = 0;
    for (int64_t row = task * p->step; row < end; row += ABREAST) {
        const int count = (int)least(ABREAST, end - row);
        for (int l = 0; l < ABREAST; l++) {
            const int64_t own = row + (l < count ? l : count - 1);
            from[l] = own / p->rows * p->batch_stride + own % p->rows * p->row_stride;
            to[l] = own * p->columns;
        }
        special |= shift_abreast(p, from, to, p->columns, 1, 1, tops, linear);
        memcpy(p->tops + row, tops, count * sizeof *tops);
    }
    if (special) atomic_store(&p->found, 1);
}

/* Columns of matrices that have few of them: the same column of many matrices side by side. */
INLINE void shift_few_columns(struct job *p, int64_t task, int linear)
{
    const int64_t end = least((task + 1) * p->step, p->batch);
    int64_t from[ABREAST], to[ABREAST];
    float tops[ABREAST];
    int special = 0;
    for (int64_t batch = task * p->step; batch < end; batch += ABREAST) {
        const int count = (int)least(ABREAST, end - batch);
        for (int64_t j = 0; j < p->columns; j++) {
            for (int l = 0; l < ABREAST; l++) {
                const int64_t own = batch + (l < count ? l : count - 1);
                from[l] = own * p->batch_stride + j;
                to[l] = own * p->rows * p->columns + j;
            }
            special |= shift_abreast(p, from, to, p->rows, p->row_stride, p->columns, tops, linear);
            for (int l = 0; l < count; l++) p->tops[(batch + l) * p->columns + j] = tops[l];
        }
    }
    if (special) atomic_store(&p->found, 1);
}

INLINE void shift_rows(struct job *p, int64_t task, int linear)
{
    const int64_t all = p->batch * p->rows, end = (task + 1) * p->step < all ? (task + 1) * p->step : all;
    int special = 0;
    for (int64_t row = task * p->step; row < end; row++) {
        const float *x = p->input + row / p->rows * p->batch_stride + row % p->rows * p->row_stride;
        const int64_t place = row * p->columns;
        float lanes[LANES], top = linear ? 0.0f : -INFINITY;
        int32_t odd[LANES] = {0};
        int64_t j = 0;
        for (int l = 0; l < LANES; l++) lanes[l] = top;
        for (; j + LANES <= p->columns; j += LANES)
            for (int l = 0; l < LANES; l++) {
                const float y = linear ? fabsf(x[j + l]) : x[j + l];
                lanes[l] = y > lanes[l] ? y : lanes[l];
                odd[l] |= !(y < INFINITY);
            }
        for (; j < p->columns; j++) {
            const float y = linear ? fabsf(x[j]) : x[j];
            top = y > top ? y : top;
            special |= !(y < INFINITY);
        }
        for (int l = 0; l < LANES; l++) {
            top = lanes[l] > top ? lanes[l] : top;
            special |= odd[l];
        }
        p->tops[row] = top;
        put_shifted(p, x, x + p->row_stride, NULL, divisor(top, linear), p->first ? p->first + place : NULL,
                    p->second ? p->second + place : NULL, p->columns, linear);
    }
    if (special) atomic_store(&p->found, 1);
}

INLINE void shift_columns(struct job *p, int64_t task, int linear)
{
    const int64_t strips = (p->columns + p->step - 1) / p->step, batch = task / strips;
    const int64_t start = task % strips * p->step;
    const int64_t count = p->columns - start < p->step ? p->columns - start : p->step;
    const float *input = p->input + batch * p->batch_stride + start;
    float tops[STRIP], *kept = p->tops + batch * p->columns + start;
    int32_t odd[STRIP], special = 0;
    for (int64_t j = 0; j < count; j++) tops[j] = linear ? 0.0f : -INFINITY, odd[j] = 0;
    for (int64_t row = 0; row < p->rows; row++) {
        const float *x = input + row * p->row_stride;
        fetch(x + 6 * p->row_stride, count);
        for (int64_t j = 0; j < count; j++) {
            const float y = linear ? fabsf(x[j]) : x[j];
            tops[j] = y > tops[j] ? y : tops[j];
            odd[j] |= !(y < INFINITY);
        }
    }
    for (int64_t j = 0; j < count; j++) {
        kept[j] = tops[j];
        special |= odd[j];
        tops[j] = divisor(tops[j], linear);
    }
    for (int64_t row = 0; row < p->rows; row++) {
        const int64_t place = (batch * p->rows + row) * p->columns + start;
        put_shifted(p, input + row * p->row_stride, input + (row + 2) * p->row_stride, tops, 0, p->first ? p->first + place : NULL,
                    p->second ? p->second + place : NULL, count, linear);
    }
    if (special) atomic_store(&p->found, 1);
}

/* Sums that aren't above `low` become 0, with -inf as their logarithm; negative ones have none. */
INLINE void finish(struct job *p, int64_t task)
{
    const int64_t all = p->batch * p->rows, end = (task + 1) * p->step < all ? (task + 1) * p->step : all;
    const float low = p->low, scale = p->scale;
    const int32_t power = p->power;
    int64_t found = 0;
    for (int64_t row = task * p->step; row < end; row++) {
        float *sums = p->first + row * p->columns, *logs = p->second + row * p->columns;
        const float top = p->row_tops[row];
        const float *restrict tops = p->column_tops + row / p->rows * p->columns;
        int32_t lost = 0;
        /* Both may be the same: then logarithms, written last, are what stays. */
        _Pragma("GCC ivdep") for (int64_t j = 0; j < p->columns; j++)
        {
            const float given = sums[j], sum = given * scale;
            const int32_t small = !(fabsf(sum) > low);
            const float y = logarithm(given, power) + top + tops[j];
            sums[j] = small ? 0.0f : sum;
            logs[j] = small ? -INFINITY : sum < 0 ? NAN : y;
            lost += small;
        }
        found += lost;
    }
    atomic_fetch_add(&p->found, found);
}

/* Gradients by sums, and 0 where the sum is. */
INLINE void divide(struct job *p, int64_t task)
{
    const int64_t all = p->batch * p->rows, end = (task + 1) * p->step < all ? (task + 1) * p->step : all;
    int64_t found = 0;
    for (int64_t row = task * p->step; row < end; row++) {
        const float *x = p->input + row / p->rows * p->batch_stride + row % p->rows * p->row_stride;
        const float *sums = p->first + row * p->columns;
        float *out = p->second + row * p->columns;
        int32_t lost = 0;
        /* The output may be the input itself. */
        _Pragma("GCC ivdep") for (int64_t j = 0; j < p->columns; j++)
        {
            const float quotient = x[j] / sums[j];
            out[j] = sums[j] == 0 ? 0.0f : quotient;
            lost += sums[j] == 0;
        }
        found += lost;
    }
    atomic_fetch_add(&p->found, found);
}

/* Totals relative to references, both changed, and products relative to the sums of two tops. */
INLINE void meet(struct job *p, int64_t task)
{
    const int64_t all = p->batch * p->rows, end = (task + 1) * p->step < all ? (task + 1) * p->step : all;
    for (int64_t row = task * p->step; row < end; row++) {
        const float *restrict x = p->input + row * p->columns;
        const float *restrict tops = p->column_tops + row / p->rows * p->columns;
        float *restrict totals = p->first + row * p->columns, *restrict references = p->second + row * p->columns;
        const float top = p->row_tops[row];
        for (int64_t j = 0; j < p->columns; j++) {
            const float own = x[j] > 0 ? top + tops[j] : -INFINITY, known = references[j];
            const float larger = own > known ? own : known;
            const float below = known - larger, above = own - larger;
            const float left = exponential(below), right = exponential(above);
            /* The difference of two -inf is nan, and not above anything. */
            totals[j] = (below > -86.0f ? totals[j] * left : 0.0f) + (above > -86.0f ? x[j] * right : 0.0f);
            references[j] = larger;
        }
    }
}

/* Whether some sum of two tops is above the logarithm of a total, less a margin. */
INLINE void bound(struct job *p, int64_t task)
{
    const int64_t all = p->batch * p->rows, end = (task + 1) * p->step < all ? (task + 1) * p->step : all;
    int64_t found = 0;
    for (int64_t row = task * p->step; row < end; row++) {
        const int64_t place = row * p->columns, batch = row / p->rows;
        const float *totals = p->first + place, *references = p->second + place;
        const unsigned char *wanted = p->wanted + place;
        unsigned char *flags = p->flags + place;
        float bounds[STRIP];
        for (int64_t start = 0; start < p->columns; start += STRIP) {
            const int64_t count = p->columns - start < STRIP ? p->columns - start : STRIP;
            int32_t set = 0;
            for (int64_t j = 0; j < count; j++) bounds[j] = -INFINITY;
            for (int q = 0; q < p->pairs; q++) {
                const float top = p->pair_tops[q][0][row];
                const float *tops = p->pair_tops[q][1] + batch * p->columns + start;
                for (int64_t j = 0; j < count; j++) {
                    const float y = top + tops[j];
                    bounds[j] = y > bounds[j] ? y : bounds[j];
                }
            }
            _Pragma("GCC ivdep") for (int64_t j = 0; j < count; j++)
            {
                /* Where the total is 0, the reference is -inf, whatever the logarithm. */
                const float enough = logarithm(totals[start + j], 0) + references[start + j] + p->low;
                const int32_t open = (bounds[j] > enough) & (wanted[start + j] != 0);
                flags[start + j] = (unsigned char)open;
                set += open;
            }
            found += set;
        }
    }
    atomic_fetch_add(&p->found, found);
}

INLINE float largest_sum(const float *restrict a, const float *restrict b, int64_t count)
{
    float lanes[LANES], top = -INFINITY;
    int64_t k = 0;
    for (int l = 0; l < LANES; l++) lanes[l] = top;
    for (; k + LANES <= count; k += LANES)
        for (int l = 0; l < LANES; l++) {
            const float y = a[k + l] + b[k + l];
            lanes[l] = y > lanes[l] ? y : lanes[l];
        }
    for (; k < count; k++) top = a[k] + b[k] > top ? a[k] + b[k] : top;
    for (int l = 0; l < LANES; l++) top = lanes[l] > top ? lanes[l] : top;
    return top;
}

/* exp(a + b - top), and their sum. */
INLINE float put_terms(const float *restrict a, const float *restrict b, float top, float *restrict terms,
                       int64_t count)
{
    float lanes[LANES] = {0}, sum = 0;
    int64_t k = 0;
    for (int64_t j = 0; j < count; j++) {
        const float distance = a[j] + b[j] - top;
        const float y = exponential(distance);
        terms[j] = distance > -86.0f ? y : 0.0f;
    }
    for (; k + LANES <= count; k += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += terms[k + l];
    for (; k < count; k++) sum += terms[k];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

/* The columns of one strip: what was lost there, of sums or of the gradient of the right operand. */
INLINE void single(struct job *p, int64_t task)
{
    const int64_t strips = (p->columns + NARROW - 1) / NARROW, batch = task / strips;
    const int64_t start = task % strips * NARROW, depth = p->depth;
    const int64_t width = p->columns - start < NARROW ? p->columns - start : NARROW;
    const int64_t *ls = p->left_strides, *rs = p->right_strides, *os = p->logs_strides, *is = p->input_strides;
    const float *right = p->right + batch * rs[0] + start * rs[2];
    float *panel = NULL, *added = NULL, *row = NULL, *terms = NULL;
    for (int64_t i = 0; i < p->rows; i++) {
        const float *left = NULL;
        for (int64_t j = 0; j < width; j++) {
            const int64_t place = batch * os[0] + i * os[1] + (start + j) * os[2];
            const float known = p->logs[place];
            if (p->gradient ? p->sums[place] != 0 || !(fabsf(known) < INFINITY) : known != -INFINITY) continue;
            if (!panel) {
                panel = malloc(sizeof(float) * (size_t)depth * (2 * NARROW + 2));
                if (!panel) {
                    atomic_store(&p->found, -1);
                    return;
                }
                added = panel + NARROW * depth, row = added + NARROW * depth, terms = row + depth;
                for (int64_t k = 0; k < depth; k++)
                    for (int64_t l = 0; l < width; l++) panel[l * depth + k] = right[k * rs[1] + l * rs[2]];
                memset(added, 0, sizeof(float) * (size_t)depth * NARROW);
            }
            if (!left) {
                const float *from = p->left + batch * ls[0] + i * ls[1];
                left = from;
                if (ls[2] != 1) {
                    for (int64_t k = 0; k < depth; k++) row[k] = from[k * ls[2]];
                    left = row;
                }
            }
            const float top = largest_sum(left, panel + j * depth, depth);
            if (top == -INFINITY) continue;
            const float sum = put_terms(left, panel + j * depth, top, terms, depth);
            if (p->gradient) {
                const float weight = p->input[batch * is[0] + i * is[1] + (start + j) * is[2]] / sum;
                float *restrict to = added + j * depth;
                const float *restrict from = terms;
                for (int64_t k = 0; k < depth; k++) to[k] += weight * from[k];
            } else {
                p->logs[place] = logarithm(sum, 0) + top;
            }
        }
    }
    if (panel && p->gradient) {
        const int64_t *gs = p->gradient_strides;
        float *to = p->gradient + batch * gs[0] + start * gs[2];
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = 0; j < width; j++) to[k * gs[1] + j * gs[2]] += added[j * depth + k];
    }
    free(panel);
}

INLINE void run_task(struct job *p, int64_t task)
{
    switch (p->kind) {
    case SHIFT_ROWS:
        if (p->linear) shift_rows(p, task, 1);
        else shift_rows(p, task, 0);
        break;
    case SHIFT_COLUMNS:
        if (p->linear) shift_columns(p, task, 1);
        else shift_columns(p, task, 0);
        break;
    case SHIFT_SHORT_ROWS:
        if (p->linear) shift_short_rows(p, task, 1);
        else shift_short_rows(p, task, 0);
        break;
    case SHIFT_FEW_COLUMNS:
        if (p->linear) shift_few_columns(p, task, 1);
        else shift_few_columns(p, task, 0);
        break;
    case FINISH: finish(p, task); break;
    case DIVIDE: divide(p, task); break;
    case MEET: meet(p, task); break;
    case BOUND: bound(p, task); break;
    case SINGLE: single(p, task); break;
    }
}

static void run_baseline(struct job *p, int64_t task) { run_task(p, task); }
#ifdef HAVE_X86
__attribute__((target("avx2,fma"))) static void run_avx2(struct job *p, int64_t task) { run_task(p, task); }
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512"))) static void
run_avx512(struct job *p, int64_t task)
{
    run_task(p, task);
}
#endif

static void work(void *argument)
{
    struct job *p = argument;
    for (;;) {
        const long long task = atomic_fetch_add(&p->next_task, 1);
        if (task >= p->tasks) break;
        p->run(p, task);
    }
}

/* The best instruction set of this machine, as in enum level. */
int einfx_log_level(void)
{
#ifdef HAVE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma")) return BASELINE;
#endif
    return best_level();
}

static int64_t run(struct job *p, int level, int threads, parallel_function parallel)
{
    const int64_t elements = p->batch * p->rows * p->columns;
    const int best = einfx_log_level();
    if (elements == 0) return 0;
    if (level > best) level = best;
    p->run = run_baseline;
#ifdef HAVE_X86
    if (level >= AVX2) p->run = run_avx2;
    if (level >= AVX512) p->run = run_avx512;
#endif
    if (p->kind == SHIFT_COLUMNS) {
        p->step = STRIP;
        while (p->step > 64 && p->batch * ((p->columns + p->step - 1) / p->step) < 2 * threads) p->step /= 2;
        p->tasks = p->batch * ((p->columns + p->step - 1) / p->step);
    } else if (p->kind == SHIFT_FEW_COLUMNS) {
        p->step = TASK / (p->rows * p->columns) / ABREAST * ABREAST + ABREAST;
        p->tasks = (p->batch + p->step - 1) / p->step;
    } else if (p->kind == SINGLE) {
        p->tasks = p->batch * ((p->columns + NARROW - 1) / NARROW);
    } else {
        p->step = TASK / p->columns + 1;
        if (p->kind == SHIFT_SHORT_ROWS) p->step = TASK / p->columns / ABREAST * ABREAST;
        p->tasks = (p->batch * p->rows + p->step - 1) / p->step;
    }
    if (p->kind != SINGLE && threads > elements / ELEMENTS_PER_THREAD) threads = (int)(elements / ELEMENTS_PER_THREAD);
    atomic_init(&p->next_task, 0);
    atomic_init(&p->found, 0);
    if (threads > 1 && parallel) parallel(work, p, (unsigned)threads, 0);
    else work(p);
    return atomic_load(&p->found);
}

/* Maxima of rows (or of columns), and exp(x - maximum), as it is and times `scale`, where they aren't NULL.
 *
 * geometry: batch, rows, columns, and the strides of x (batch, row). In linear space, maxima are of absolute
 * values, and x is divided by them. Returns whether there is nan or +inf, which the results then lack.
 */
int64_t einfx_log_shift(const float *x, float *plain, float *scaled, float *tops, const int64_t *geometry,
                        int by_column, int linear, float window, float scale, int level, int threads,
                        parallel_function parallel)
{
    struct job p = {.kind = by_column ? SHIFT_COLUMNS : SHIFT_ROWS, .batch = geometry[0], .rows = geometry[1],
                    .columns = geometry[2], .batch_stride = geometry[3], .row_stride = geometry[4], .input = x,
                    .first = plain, .second = scaled, .tops = tops, .window = window, .scale = scale,
                    .low = expf(-window), .linear = linear};
    if (!by_column && p.columns < LANES) p.kind = SHIFT_SHORT_ROWS;
    if (by_column && p.columns < ABREAST && p.batch >= ABREAST / 2) p.kind = SHIFT_FEW_COLUMNS;
    return run(&p, level, threads, parallel);
}

/* Logarithms of sums of scaled exponentials; sums lose the scale 2^power. They may be the same tensor.
 *
 * geometry: batch, rows, columns. Returns how many aren't above `low` without the scale.
 */
int64_t einfx_log_finish(float *sums, float *logs, const float *row_tops, const float *column_tops,
                         const int64_t *geometry, float low, int power, int level, int threads,
                         parallel_function parallel)
{
    struct job p = {.kind = FINISH, .batch = geometry[0], .rows = geometry[1], .columns = geometry[2],
                    .first = sums, .second = logs, .row_tops = row_tops, .column_tops = column_tops,
                    .scale = ldexpf(1, -power), .low = low, .power = power};
    return run(&p, level, threads, parallel);
}

/* out = x / sums, and 0 where a sum is; geometry as for shift. Returns how many are. */
int64_t einfx_log_divide(const float *x, const float *sums, float *out, const int64_t *geometry, int level,
                         int threads, parallel_function parallel)
{
    struct job p = {.kind = DIVIDE, .batch = geometry[0], .rows = geometry[1], .columns = geometry[2],
                    .batch_stride = geometry[3], .row_stride = geometry[4], .input = x, .first = (float *)sums,
                    .second = out};
    return run(&p, level, threads, parallel);
}

/* totals * exp(references) + x * exp(top + top), as a total and a reference again; all are contiguous.
 *
 * geometry: batch, rows, columns. References are -inf where the total is 0.
 */
int64_t einfx_log_meet(const float *x, float *totals, float *references, const float *row_tops,
                       const float *column_tops, const int64_t *geometry, int level, int threads,
                       parallel_function parallel)
{
    struct job p = {.kind = MEET, .batch = geometry[0], .rows = geometry[1], .columns = geometry[2], .input = x,
                    .first = totals, .second = references, .row_tops = row_tops, .column_tops = column_tops};
    return run(&p, level, threads, parallel);
}

/* flags = wanted, where the largest sum of a pair of tops is above log(total) + reference + margin.
 *
 * geometry: batch, rows, columns, pairs. tops: for every pair, those of rows and of columns. Returns how many
 * flags are set.
 */
int64_t einfx_log_bound(const float *totals, const float *references, const unsigned char *wanted,
                        unsigned char *flags, const float *const *tops, const int64_t *geometry, float margin,
                        int level, int threads, parallel_function parallel)
{
    struct job p = {.kind = BOUND, .batch = geometry[0], .rows = geometry[1], .columns = geometry[2],
                    .pairs = (int)geometry[3], .first = (float *)totals, .second = (float *)references,
                    .wanted = wanted, .flags = flags, .low = margin};
    for (int q = 0; q < p.pairs; q++) p.pair_tops[q][0] = tops[2 * q], p.pair_tops[q][1] = tops[2 * q + 1];
    return run(&p, level, threads, parallel);
}

/* Term by term, where logs are -inf: logarithms of sums of exp(left + right). With a gradient, where sums are
 * 0 and logs finite: add the derivatives of those sums by the right operand, times x.
 *
 * geometry: batch, rows, depth, columns; then three strides each of left (B, I, K), right (B, K, J), logs and
 * sums (B, I, J), x (B, I, J) and the gradient (B, K, J). Returns -1 if there is no memory.
 */
int64_t einfx_log_single(const float *left, const float *right, float *logs, const float *sums, const float *x,
                         float *gradient, const int64_t *geometry, int level, int threads,
                         parallel_function parallel)
{
    struct job p = {.kind = SINGLE, .batch = geometry[0], .rows = geometry[1], .depth = geometry[2],
                    .columns = geometry[3], .left = left, .right = right, .logs = logs, .sums = sums, .input = x,
                    .gradient = gradient};
    memcpy(p.left_strides, geometry + 4, sizeof p.left_strides);
    memcpy(p.right_strides, geometry + 7, sizeof p.right_strides);
    memcpy(p.logs_strides, geometry + 10, sizeof p.logs_strides);
    memcpy(p.input_strides, geometry + 13, sizeof p.input_strides);
    memcpy(p.gradient_strides, geometry + 16, sizeof p.gradient_strides);
    return run(&p, level, threads, parallel);
}
