/* Logarithms of sums of exp(x + y + ...) of any number of tensors, and what they pass on of their gradients.
 *
 *     sums    added over logarithms to what the target holds, or written there
 *     shares  exp(x + y + ... - total) * gradient, added to the gradient of each operand
 *
 * Both go through the terms once or twice, so many at a time as stay in the nearest cache, and take no other
 * memory. Tensors may lie in any way: a tensor has a step of 0 along what it lacks. Sums of a few thousand
 * terms are floats, sums of such sums doubles where there are few of them.
 */
#include <math.h>

#include "_log_math.h"

enum { MAX_DIMS = 24, MAX_TENSORS = 20, MAX_TARGETS = 8, TERMS = 4096, LANES = 32, WIDEST = 1024, FEW = 512 };

/* Terms that a thread of its own is worth. */
static const int64_t TERMS_PER_THREAD = 1 << 15;

struct terms {
    int64_t dims, outer, operands, targets; /* outer: dimensions of the sums, which come first */
    int64_t shape[MAX_DIMS], steps[MAX_TENSORS][MAX_DIMS];
    const float *inputs[MAX_TENSORS];
    float *out[MAX_TARGETS];
    double *apart[MAX_TARGETS]; /* sums of targets that are few */
    int64_t apart_steps[MAX_TARGETS][MAX_DIMS];
    int accumulate;
    float empty;
    int64_t tasks, step;
    atomic_llong next_task, failed;
    void (*run)(struct terms *, int64_t);
};

enum { NEGLIGIBLE = -86 };

/* Sums of numbers that are so large that they aren't told apart may be less than their terms. */
#define MOST 80.0f

/* exp(x) for x up to about 0; nan stays. */
INLINE float share_of(float x)
{
    const float y = exponential(x < MOST ? x : MOST);
    return x > (float)NEGLIGIBLE ? y : x <= (float)NEGLIGIBLE ? 0.0f : x;
}

/* A row of numbers side by side. */
INLINE void gather(float *restrict to, const float *x, int64_t step, int64_t n)
{
    if (step == 1) for (int64_t l = 0; l < n; l++) to[l] = x[l];
    else if (step == 0) for (int64_t l = 0; l < n; l++) to[l] = *x;
    else for (int64_t l = 0; l < n; l++) to[l] = x[l * step];
}

INLINE void gather_more(float *restrict to, const float *x, int64_t step, int64_t n)
{
    if (step == 1) for (int64_t l = 0; l < n; l++) to[l] += x[l];
    else if (step == 0) for (int64_t l = 0; l < n; l++) to[l] += *x;
    else for (int64_t l = 0; l < n; l++) to[l] += x[l * step];
}

/* The next place of dimensions from `first` to before `end`, the last of which goes fastest; 0 after the last. */
INLINE int forward(const struct terms *p, int64_t *index, int first, int end, const float **at, int tensors)
{
    for (int d = end - 1; d >= first; d--) {
        if (++index[d] < p->shape[d]) {
            for (int q = 0; q < tensors; q++) at[q] += p->steps[q][d];
            return 1;
        }
        index[d] = 0;
        for (int q = 0; q < tensors; q++) at[q] -= p->steps[q][d] * (p->shape[d] - 1);
    }
    return 0;
}

/* Where a number of a place among dimensions 0 to before `end` is. */
INLINE void locate(const struct terms *p, int64_t place, int end, int64_t *index, int64_t *offsets, int tensors)
{
    for (int q = 0; q < tensors; q++) offsets[q] = 0;
    for (int d = end - 1; d >= 0; d--) {
        index[d] = place % p->shape[d];
        place /= p->shape[d];
        for (int q = 0; q < tensors; q++) offsets[q] += index[d] * p->steps[q][d];
    }
}

/* What has been summed so far of one number: relative to its top, and what is no number or +inf. */
struct sum {
    double total;
    float top, odd;
};

INLINE struct sum begin(const struct terms *p, const float *out)
{
    struct sum s = {0.0, -INFINITY, 0.0f};
    if (p->accumulate) {
        if (!(*out < INFINITY)) s.odd = *out;
        else if (*out > -INFINITY) s.total = 1.0, s.top = *out;
    }
    return s;
}

INLINE void end(struct sum s, float *out)
{
    const float y = logarithm((float)s.total, 0) + s.top;
    *out = s.odd != 0.0f ? s.odd : s.total > 0.0 ? y : -INFINITY;
}

/* Add a stretch of terms, with LANES of room behind it. */
INLINE void meet(struct sum *s, float *terms, int64_t count)
{
    float tops[LANES], parts[LANES], odd = 0.0f, top = s->top;
    int32_t strange[LANES] = {0}, special = 0;
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t k = count; k < padded; k++) terms[k] = -INFINITY;
    for (int l = 0; l < LANES; l++) tops[l] = top;
    for (int64_t k = 0; k < padded; k += LANES)
        for (int l = 0; l < LANES; l++) {
            const float y = terms[k + l];
            tops[l] = y > tops[l] ? y : tops[l];
            strange[l] |= !(y < INFINITY);
        }
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) {
            tops[l] = tops[l + half] > tops[l] ? tops[l + half] : tops[l];
            strange[l] |= strange[l + half];
        }
    top = tops[0], special = strange[0];
    if (special) {
        for (int64_t k = 0; k < count; k++) odd += terms[k] < INFINITY ? 0.0f : terms[k];
        s->odd += odd;
        return;
    }
    if (top == -INFINITY) return;
    for (int l = 0; l < LANES; l++) parts[l] = 0;
    for (int64_t k = 0; k < padded; k += LANES)
        for (int l = 0; l < LANES; l++) {
            const float distance = terms[k + l] - top, y = exponential(distance);
            parts[l] += distance > (float)NEGLIGIBLE ? y : 0.0f;
        }
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) parts[l] += parts[l + half];
    if (s->top < top) {
        const float distance = s->top - top;
        s->total *= distance > (float)NEGLIGIBLE ? exponential(distance) : 0.0f;
        s->top = top;
    }
    s->total += parts[0];
}

/* Sums whose innermost label is summed: one number after the other. */
INLINE void sum_rows(struct terms *p, int64_t task)
{
    const int outer = (int)p->outer, last = (int)p->dims - 1, operands = (int)p->operands, own = operands + 1;
    const int64_t n = p->shape[last];
    int64_t index[MAX_DIMS] = {0}, offsets[MAX_TENSORS], all = 1;
    float terms[TERMS + LANES];
    const float *at[MAX_TENSORS];
    for (int d = 0; d < outer; d++) all *= p->shape[d];
    const int64_t start = task * p->step, stop = least(all, start + p->step);
    locate(p, start, outer, index, offsets, own);
    for (int q = 0; q < own; q++) at[q] = p->inputs[q] + offsets[q];
    for (int64_t place = start; place < stop; place++) {
        float *out = p->out[0] + (at[operands] - p->inputs[operands]);
        struct sum s = begin(p, out);
        int64_t count = 0;
        do {
            for (int64_t from = 0; from < n;) {
                const int64_t length = least(n - from, TERMS - count);
                gather(terms + count, at[0] + from * p->steps[0][last], p->steps[0][last], length);
                for (int q = 1; q < operands; q++)
                    gather_more(terms + count, at[q] + from * p->steps[q][last], p->steps[q][last], length);
                from += length, count += length;
                if (count == TERMS) meet(&s, terms, count), count = 0;
            }
        } while (forward(p, index, outer, last, at, own));
        if (count) meet(&s, terms, count);
        end(s, out);
        forward(p, index, 0, outer, at, own);
    }
}

/* Sums whose innermost label is theirs: as many numbers side by side as there is room for. */
INLINE void sum_columns(struct terms *p, int64_t task)
{
    const int last = (int)p->outer - 1, dims = (int)p->dims, operands = (int)p->operands, own = operands + 1;
    const int64_t n = p->shape[last], strip = least(n, 256), deep = TERMS / strip;
    const int64_t out_step = p->steps[operands][last];
    int64_t index[MAX_DIMS] = {0}, offsets[MAX_TENSORS], all = 1;
    float terms[TERMS], tops[256], odd[256], parts[256];
    double totals[256];
    const float *at[MAX_TENSORS];
    for (int d = 0; d < last; d++) all *= p->shape[d];
    const int64_t start = task * p->step, stop = least(all, start + p->step);
    locate(p, start, last, index, offsets, own);
    for (int q = 0; q < own; q++) at[q] = p->inputs[q] + offsets[q];
    for (int64_t place = start; place < stop; place++) {
        for (int64_t from = 0; from < n; from += strip) {
            const int64_t width = least(strip, n - from);
            float *out = p->out[0] + (at[operands] - p->inputs[operands]) + from * out_step;
            for (int64_t l = 0; l < width; l++) totals[l] = 0, tops[l] = -INFINITY, odd[l] = 0;
            for (int64_t l = 0; p->accumulate && l < width; l++) {
                const struct sum s = begin(p, out + l * out_step);
                totals[l] = s.total, tops[l] = s.top, odd[l] = s.odd;
            }
            int more = 1;
            while (more) {
                int64_t rows = 0;
                int32_t special = 0;
                while (more && rows < deep) {
                    float *row = terms + rows++ * width;
                    gather(row, at[0] + from * p->steps[0][last], p->steps[0][last], width);
                    for (int q = 1; q < operands; q++)
                        gather_more(row, at[q] + from * p->steps[q][last], p->steps[q][last], width);
                    more = forward(p, index, last + 1, dims, at, own);
                }
                for (int64_t l = 0; l < width; l++) parts[l] = tops[l];
                for (int64_t k = 0; k < rows; k++)
                    for (int64_t l = 0; l < width; l++) {
                        const float y = terms[k * width + l];
                        tops[l] = y > tops[l] ? y : tops[l];
                        special |= !(y < INFINITY);
                    }
                if (special)
                    for (int64_t k = 0; k < rows; k++)
                        for (int64_t l = 0; l < width; l++) {
                            const float y = terms[k * width + l];
                            odd[l] += y < INFINITY ? 0.0f : y;
                        }
                for (int64_t l = 0; l < width; l++) {
                    const float distance = parts[l] - tops[l], y = exponential(distance);
                    totals[l] *= distance > (float)NEGLIGIBLE ? y : 0.0f;
                    parts[l] = 0;
                }
                for (int64_t k = 0; k < rows; k++)
                    for (int64_t l = 0; l < width; l++) {
                        const float distance = terms[k * width + l] - tops[l], y = exponential(distance);
                        parts[l] += distance > (float)NEGLIGIBLE ? y : 0.0f;
                    }
                for (int64_t l = 0; l < width; l++) totals[l] += parts[l];
            }
            for (int64_t l = 0; l < width; l++) {
                const float y = logarithm((float)totals[l], 0) + tops[l], sum = totals[l] > 0 ? y : -INFINITY;
                parts[l] = odd[l] != 0.0f ? odd[l] : sum;
            }
            if (out_step == 1) memcpy(out, parts, sizeof(float) * (size_t)width);
            else for (int64_t l = 0; l < width; l++) out[l * out_step] = parts[l];
        }
        forward(p, index, 0, last, at, own);
    }
}

INLINE float added(const float *x, int64_t n)
{
    float lanes[LANES] = {0}, sum = 0;
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += x[k + l];
    for (; k < n; k++) sum += x[k];
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return sum + lanes[0];
}

/* Add a matrix of shares to a target that may lack its rows, its columns or both. */
#define ADD_TO(to, down, right)                                                                               \
    if (right) {                                                                                              \
        const float *row = terms;                                                                             \
        if (!(down) && rows > 1) {                                                                            \
            for (int64_t l = 0; l < width; l++) sums[l] = terms[l];                                           \
            for (int64_t k = 1; k < rows; k++)                                                                \
                for (int64_t l = 0; l < width; l++) sums[l] += terms[k * width + l];                          \
            row = sums;                                                                                       \
        }                                                                                                     \
        for (int64_t k = 0; k < ((down) ? rows : 1); k++) {                                                   \
            if ((right) == 1) for (int64_t l = 0; l < width; l++) (to)[k * (down) + l] += row[k * width + l];  \
            else for (int64_t l = 0; l < width; l++) (to)[k * (down) + l * (right)] += row[k * width + l];     \
        }                                                                                                     \
    } else if (down) {                                                                                        \
        for (int64_t k = 0; k < rows; k++) (to)[k * (down)] += added(terms + k * width, width);               \
    } else {                                                                                                  \
        *(to) += added(terms, rows * width);                                                                  \
    }

/* Shares in sums that are -inf, in place of -inf - -inf; where nothing depends on the sum, none of nan. */
INLINE void put_empty(float *terms, const float *totals, const float *gradients, float empty, int64_t n)
{
    for (int64_t l = 0; l < n; l++)
        if (totals[l] == -INFINITY) terms[l] = empty != empty && gradients[l] == 0 ? 0.0f : empty * gradients[l];
}

/* Shares of a part of the outermost label. Inputs are the operands, the totals and their gradients. */
INLINE void share(struct terms *p, int64_t task)
{
    const int last = (int)p->dims - 1, second = last - 1, operands = (int)p->operands;
    const int own = operands + 2, all = own + (int)p->targets;
    const int64_t n = p->shape[last], strip = least(n, WIDEST), deep = TERMS / strip;
    int64_t index[MAX_DIMS] = {0}, offsets[MAX_TENSORS], apart[MAX_TARGETS] = {0};
    float terms[TERMS], totals[WIDEST], gradients[WIDEST], sums[WIDEST];
    const int64_t first = task * p->step, stop = least(p->shape[0], first + p->step);
    for (int64_t outermost = first; outermost < stop; outermost++) {
        for (int q = 0; q < all; q++) offsets[q] = outermost * p->steps[q][0];
        for (int t = 0; t < p->targets; t++) apart[t] = outermost * p->apart_steps[t][0];
        for (;;) {
            for (int64_t top = 0; top < p->shape[second]; top += deep) {
                const int64_t rows = least(deep, p->shape[second] - top);
                for (int64_t from = 0; from < n; from += strip) {
                    const int64_t width = least(strip, n - from);
                    for (int64_t k = 0; k < rows; k++) {
                        float *row = terms + k * width;
                        for (int q = 0; q < own; q++) {
                            const int64_t step = p->steps[q][last];
                            const float *x = p->inputs[q] + offsets[q] + (top + k) * p->steps[q][second] + from * step;
                            if (q == 0) gather(row, x, step, width);
                            else if (q < operands) gather_more(row, x, step, width);
                            else if (k == 0 || p->steps[q][second]) gather(q == operands ? totals : gradients, x, step, width);
                        }
                        int32_t empty = 0;
                        for (int64_t l = 0; l < width; l++) {
                            empty |= totals[l] == -INFINITY;
                            row[l] = share_of(row[l] - totals[l]) * gradients[l];
                        }
                        if (empty) put_empty(row, totals, gradients, p->empty, width);
                    }
                    for (int t = 0; t < p->targets; t++) {
                        if (p->apart[t]) {
                            const int64_t down = p->apart_steps[t][second], right = p->apart_steps[t][last];
                            double *to = p->apart[t] + apart[t] + top * down + from * right;
                            ADD_TO(to, down, right)
                        } else {
                            const int64_t down = p->steps[own + t][second], right = p->steps[own + t][last];
                            float *to = p->out[t] + offsets[own + t] + top * down + from * right;
                            ADD_TO(to, down, right)
                        }
                    }
                }
            }
            int d = second - 1;
            for (; d >= 1; d--) {
                const int64_t change = ++index[d] < p->shape[d] ? 1 : 1 - p->shape[d];
                for (int q = 0; q < all; q++) offsets[q] += change * p->steps[q][d];
                for (int t = 0; t < p->targets; t++) apart[t] += change * p->apart_steps[t][d];
                if (change == 1 && index[d] < p->shape[d]) break;
                index[d] = 0;
            }
            if (d < 1) break;
        }
    }
}

enum { ROWS, COLUMNS, SHARES };

#define VARIANTS(name, function)                                                                              \
    static void name##_baseline(struct terms *p, int64_t task) { function(p, task); }                         \
    WITH_X86(name, function)
#ifdef HAVE_X86
#define WITH_X86(name, function)                                                                              \
    __attribute__((target("avx2,fma"))) static void name##_avx2(struct terms *p, int64_t task)                \
    {                                                                                                         \
        function(p, task);                                                                                    \
    }                                                                                                         \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512"))) static void     \
    name##_avx512(struct terms *p, int64_t task)                                                              \
    {                                                                                                         \
        function(p, task);                                                                                    \
    }
#define CHOICES(name) {name##_baseline, name##_avx2, name##_avx512}
#else
#define WITH_X86(name, function)
#define CHOICES(name) {name##_baseline, name##_baseline, name##_baseline}
#endif

VARIANTS(rows, sum_rows)
VARIANTS(columns, sum_columns)
VARIANTS(shares, share)

static void work(void *argument)
{
    struct terms *p = argument;
    for (;;) {
        const long long task = atomic_fetch_add(&p->next_task, 1);
        if (task >= p->tasks) break;
        p->run(p, task);
    }
}

int einfx_log_level(void);

static void launch(struct terms *p, int kind, int level, int64_t places, int64_t threads, parallel_function parallel)
{
    static void (*const choices[3][3])(struct terms *, int64_t) = {CHOICES(rows), CHOICES(columns), CHOICES(shares)};
    int64_t terms = 1;
    for (int d = 0; d < p->dims; d++) terms *= p->shape[d];
    p->run = choices[kind][level < einfx_log_level() ? level : einfx_log_level()];
    threads = parallel ? least(least(threads, places), terms / TERMS_PER_THREAD) : 1;
    p->step = threads > 1 ? most(1, places / (4 * threads)) : places;
    p->tasks = (places + p->step - 1) / p->step;
    atomic_init(&p->next_task, 0);
    if (threads > 1) parallel(work, p, (unsigned)threads, 0);
    else work(p);
}

/* The dimensions and steps of a job: dims, outer, operands, targets, shape, then the steps of each tensor. */
static void read_geometry(struct terms *p, const int64_t *geometry, int tensors)
{
    p->dims = geometry[0], p->outer = geometry[1], p->operands = geometry[2], p->targets = geometry[3];
    memcpy(p->shape, geometry + 4, sizeof(int64_t) * (size_t)p->dims);
    for (int q = 0; q < tensors + (int)p->operands + (int)p->targets; q++)
        memcpy(p->steps[q], geometry + 4 + p->dims * (1 + q), sizeof(int64_t) * (size_t)p->dims);
}

/* Tensors: the operands, and the sums. By columns, the last dimension of the sums goes fastest. */
int64_t einfx_log_strided_sums(float *const *tensors, const int64_t *geometry, int accumulate, int by_columns,
                             int level, int threads, parallel_function parallel)
{
    struct terms p = {.accumulate = accumulate};
    int64_t places = 1;
    read_geometry(&p, geometry, 1);
    for (int q = 0; q <= p.operands; q++) p.inputs[q] = tensors[q];
    p.out[0] = tensors[p.operands];
    for (int d = 0; d < p.outer - by_columns; d++) places *= p.shape[d];
    launch(&p, by_columns ? COLUMNS : ROWS, level, places, threads, parallel);
    return 0;
}

/* Tensors: the operands, totals, their gradients, and the gradients that are added to. Threads share the
 * outermost dimension, if these all have it. At least three dimensions.
 */
int64_t einfx_log_strided_shares(float *const *tensors, const int64_t *geometry, float empty, int level,
                               int threads, parallel_function parallel)
{
    struct terms p = {.empty = empty};
    int apart_from_others = 1;
    double *sums = NULL;
    read_geometry(&p, geometry, 2);
    const int own = (int)p.operands + 2;
    for (int q = 0; q < own; q++) p.inputs[q] = tensors[q];
    int64_t sizes[MAX_TARGETS], total = 0;
    for (int t = 0; t < p.targets; t++) {
        p.out[t] = tensors[own + t];
        apart_from_others &= p.steps[own + t][0] != 0;
        sizes[t] = 1;
        for (int d = (int)p.dims - 1; d >= 0; d--) {
            if (!p.steps[own + t][d]) continue;
            p.apart_steps[t][d] = sizes[t];
            sizes[t] *= p.shape[d];
        }
        if (sizes[t] <= FEW) total += sizes[t];
    }
    if (total) sums = calloc((size_t)total, sizeof *sums);
    if (sums) {
        double *next = sums;
        for (int t = 0; t < p.targets; t++)
            if (sizes[t] <= FEW) p.apart[t] = next, next += sizes[t];
    }
    launch(&p, SHARES, level, p.shape[0], apart_from_others ? threads : 1, parallel);
    for (int t = 0; sums && t < p.targets; t++) {
        if (!p.apart[t]) continue;
        for (int64_t place = 0; place < sizes[t]; place++) {
            int64_t rest = place, offset = 0;
            for (int d = (int)p.dims - 1; d >= 0; d--) {
                if (!p.steps[own + t][d]) continue;
                offset += rest % p.shape[d] * p.steps[own + t][d];
                rest /= p.shape[d];
            }
            p.out[t][offset] += (float)p.apart[t][place];
        }
    }
    free(sums);
    return 0;
}
