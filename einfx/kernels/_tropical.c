/* Matrix products over semirings whose addition is a maximum, for strided float and double matrices.
 *
 * The loops are those of a matrix product in BLIS (Van Zee and van de Geijn, 2015): both operands are packed
 * into panels that fit the caches, and a tile of the output stays in registers while a block of the summed
 * dimension passes by. A fused multiply-add becomes two instructions, "multiply" (+, * or min) and maximum,
 * so half of the speed of a real matrix product is the ceiling. Minima are maxima of negated numbers: signs
 * change while packing and storing.
 *
 * A maximum in one instruction loses nan. Packing notices whether a block has numbers that could make one;
 * only such blocks take the careful variant.
 *
 * This file includes itself once for every instruction set and type; the template is at its end.
 */
#ifndef TILE

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
#include <immintrin.h>
#endif

enum product { PLUS, TIMES, MINIMUM };
enum level { BASELINE, AVX2, AVX512 };

/* Sizes of blocks, in elements: a packed panel of b has DEPTH x WIDTH, one of a has DEPTH x HEIGHT. */
enum { DEPTH = 384, WIDTH = 512, HEIGHT = 96, MAX_THREADS = 256 };

/* Fewer products than this aren't worth a thread of their own. */
static const double PRODUCTS_PER_THREAD = 1 << 20;

struct problem {
    const void *a, *b;
    void *out;
    int64_t *index; /* NULL where nobody asks */
    int64_t batch, rows, depth, columns;
    int64_t a_batch, a_row, a_depth, b_batch, b_depth, b_column; /* strides, in elements */
    int product, negate, annihilate;
    int64_t row_step, column_step; /* what one task computes */
    int64_t row_tasks, column_tasks;
    atomic_llong next_task;
    atomic_int out_of_memory;
    void (*block)(struct problem *, int64_t, int64_t, int64_t, void *);
    size_t workspace;
};

#define JOIN2(x, y) x##_##y
#define JOIN(x, y) JOIN2(x, y)

/* ---- float ---- */
#define REAL float
#define INDEX int32_t
#define SUFFIX f32

#define TILE base_f32
#define TARGET
#define LANES 1
#define ROWS 4
#define INDEX_ROWS 4
#define VECTORS 16
#define VEC float
#define IVEC int32_t
#define MASK int
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define ILOAD(p) (*(p))
#define ISTORE(p, v) (*(p) = (v))
#define SET(x) (x)
#define ISET(x) (x)
#define ADD(x, y) ((x) + (y))
#define MUL(x, y) ((x) * (y))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define GREATER(x, y) ((x) > (y))
#define EQUAL(x, y) ((x) == (y))
#define UNORDERED(x, y) ((x) != (x) || (y) != (y))
#define OR(m, n) ((m) | (n))
#define AND_NOT(m, n) ((m) & !(n))
#define CHOOSE(m, x, y) ((m) ? (x) : (y))
#define ICHOOSE(m, x, y) ((m) ? (x) : (y))
#include "_tropical.c"

#ifdef HAVE_X86
#define TILE avx2_f32
#define TARGET __attribute__((target("avx2")))
#define LANES 8
#define ROWS 6
#define INDEX_ROWS 3
#define VECTORS 2
#define VEC __m256
#define IVEC __m256i
#define MASK __m256
#define LOAD _mm256_load_ps
#define STORE _mm256_store_ps
#define ILOAD(p) _mm256_load_si256((const __m256i *)(p))
#define ISTORE(p, v) _mm256_store_si256((__m256i *)(p), v)
#define SET _mm256_set1_ps
#define ISET _mm256_set1_epi32
#define ADD _mm256_add_ps
#define MUL _mm256_mul_ps
#define MIN _mm256_min_ps
#define MAX _mm256_max_ps
#define GREATER(x, y) _mm256_cmp_ps(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) _mm256_cmp_ps(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) _mm256_cmp_ps(x, y, _CMP_UNORD_Q)
#define OR _mm256_or_ps
#define AND_NOT(m, n) _mm256_andnot_ps(n, m)
#define CHOOSE(m, x, y) _mm256_blendv_ps(y, x, m)
#define ICHOOSE(m, x, y) _mm256_blendv_epi8(y, x, _mm256_castps_si256(m))
#include "_tropical.c"

#define TILE avx512_f32
#define TARGET __attribute__((target("avx512f")))
#define LANES 16
#define ROWS 12
#define INDEX_ROWS 6
#define VECTORS 2
#define VEC __m512
#define IVEC __m512i
#define MASK __mmask16
#define LOAD _mm512_load_ps
#define STORE _mm512_store_ps
#define ILOAD(p) _mm512_load_si512(p)
#define ISTORE(p, v) _mm512_store_si512(p, v)
#define SET _mm512_set1_ps
#define ISET _mm512_set1_epi32
#define ADD _mm512_add_ps
#define MUL _mm512_mul_ps
#define MIN _mm512_min_ps
#define MAX _mm512_max_ps
#define GREATER(x, y) _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q)
#define OR(m, n) ((MASK)((m) | (n)))
#define AND_NOT(m, n) ((MASK)((m) & ~(n)))
#define CHOOSE(m, x, y) _mm512_mask_mov_ps(y, m, x)
#define ICHOOSE(m, x, y) _mm512_mask_mov_epi32(y, m, x)
#include "_tropical.c"
#endif

#undef REAL
#undef INDEX
#undef SUFFIX

/* ---- double ---- */
#define REAL double
#define INDEX int64_t
#define SUFFIX f64

#define TILE base_f64
#define TARGET
#define LANES 1
#define ROWS 4
#define INDEX_ROWS 4
#define VECTORS 8
#define VEC double
#define IVEC int64_t
#define MASK int
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define ILOAD(p) (*(p))
#define ISTORE(p, v) (*(p) = (v))
#define SET(x) (x)
#define ISET(x) (x)
#define ADD(x, y) ((x) + (y))
#define MUL(x, y) ((x) * (y))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define GREATER(x, y) ((x) > (y))
#define EQUAL(x, y) ((x) == (y))
#define UNORDERED(x, y) ((x) != (x) || (y) != (y))
#define OR(m, n) ((m) | (n))
#define AND_NOT(m, n) ((m) & !(n))
#define CHOOSE(m, x, y) ((m) ? (x) : (y))
#define ICHOOSE(m, x, y) ((m) ? (x) : (y))
#include "_tropical.c"

#ifdef HAVE_X86
#define TILE avx2_f64
#define TARGET __attribute__((target("avx2")))
#define LANES 4
#define ROWS 6
#define INDEX_ROWS 3
#define VECTORS 2
#define VEC __m256d
#define IVEC __m256i
#define MASK __m256d
#define LOAD _mm256_load_pd
#define STORE _mm256_store_pd
#define ILOAD(p) _mm256_load_si256((const __m256i *)(p))
#define ISTORE(p, v) _mm256_store_si256((__m256i *)(p), v)
#define SET _mm256_set1_pd
#define ISET _mm256_set1_epi64x
#define ADD _mm256_add_pd
#define MUL _mm256_mul_pd
#define MIN _mm256_min_pd
#define MAX _mm256_max_pd
#define GREATER(x, y) _mm256_cmp_pd(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) _mm256_cmp_pd(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) _mm256_cmp_pd(x, y, _CMP_UNORD_Q)
#define OR _mm256_or_pd
#define AND_NOT(m, n) _mm256_andnot_pd(n, m)
#define CHOOSE(m, x, y) _mm256_blendv_pd(y, x, m)
#define ICHOOSE(m, x, y) _mm256_blendv_epi8(y, x, _mm256_castpd_si256(m))
#include "_tropical.c"

#define TILE avx512_f64
#define TARGET __attribute__((target("avx512f")))
#define LANES 8
#define ROWS 12
#define INDEX_ROWS 6
#define VECTORS 2
#define VEC __m512d
#define IVEC __m512i
#define MASK __mmask8
#define LOAD _mm512_load_pd
#define STORE _mm512_store_pd
#define ILOAD(p) _mm512_load_si512(p)
#define ISTORE(p, v) _mm512_store_si512(p, v)
#define SET _mm512_set1_pd
#define ISET _mm512_set1_epi64
#define ADD _mm512_add_pd
#define MUL _mm512_mul_pd
#define MIN _mm512_min_pd
#define MAX _mm512_max_pd
#define GREATER(x, y) _mm512_cmp_pd_mask(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) _mm512_cmp_pd_mask(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) _mm512_cmp_pd_mask(x, y, _CMP_UNORD_Q)
#define OR(m, n) ((MASK)((m) | (n)))
#define AND_NOT(m, n) ((MASK)((m) & ~(n)))
#define CHOOSE(m, x, y) _mm512_mask_mov_pd(y, m, x)
#define ICHOOSE(m, x, y) _mm512_mask_mov_epi64(y, m, x)
#include "_tropical.c"
#endif

#undef REAL
#undef INDEX
#undef SUFFIX

/* ---- tasks and threads ---- */

static void *work(void *argument)
{
    struct problem *p = argument;
    void *workspace = NULL;
    const long long tasks = (long long)(p->batch * p->row_tasks * p->column_tasks);
    if (posix_memalign(&workspace, 64, p->workspace)) {
        atomic_store(&p->out_of_memory, 1);
        return NULL;
    }
    for (;;) {
        const long long task = atomic_fetch_add(&p->next_task, 1);
        if (task >= tasks) break;
        const int64_t column = task % p->column_tasks;
        const int64_t row = task / p->column_tasks % p->row_tasks;
        p->block(p, task / p->column_tasks / p->row_tasks, row * p->row_step, column * p->column_step, workspace);
    }
    free(workspace);
    return NULL;
}

static int64_t at_least_one(int64_t x) { return x < 1 ? 1 : x; }

static int run(struct problem *p, int threads)
{
    const double products = (double)p->batch * p->rows * p->depth * p->columns;
    pthread_t started[MAX_THREADS];
    int count = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > products / PRODUCTS_PER_THREAD) threads = (int)(products / PRODUCTS_PER_THREAD);
    p->row_step = at_least_one(p->rows);
    p->column_step = at_least_one(p->columns);
    if (threads > 1 && p->batch < 4 * threads) {
        /* Four tasks a thread, in whole tiles, along the longer side. */
        const int64_t parts = (4 * threads + p->batch - 1) / at_least_one(p->batch);
        int64_t *step = p->rows >= p->columns ? &p->row_step : &p->column_step;
        *step = at_least_one((*step + parts - 1) / parts);
        *step = (*step + HEIGHT / 2 - 1) / (HEIGHT / 2) * (HEIGHT / 2);
    }
    p->row_tasks = (p->rows + p->row_step - 1) / p->row_step;
    p->column_tasks = (p->columns + p->column_step - 1) / p->column_step;
    atomic_init(&p->next_task, 0);
    atomic_init(&p->out_of_memory, 0);
    /* A thread that can't be had is no loss: the others take its tasks. */
    while (count < threads - 1 && !pthread_create(&started[count], NULL, work, p)) count++;
    work(p);
    for (int i = 0; i < count; i++) pthread_join(started[i], NULL);
    return atomic_load(&p->out_of_memory);
}

/* The best instruction set of this machine, as in enum level. */
int einfx_tropical_level(void)
{
#ifdef HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return AVX512;
    if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
    return BASELINE;
}

static void set_up(struct problem *p, const void *a, const void *b, void *out, int64_t *index,
                   const int64_t *geometry, int product, int negate, int annihilate)
{
    p->a = a, p->b = b, p->out = out, p->index = index;
    p->batch = geometry[0], p->rows = geometry[1], p->depth = geometry[2], p->columns = geometry[3];
    p->a_batch = geometry[4], p->a_row = geometry[5], p->a_depth = geometry[6];
    p->b_batch = geometry[7], p->b_depth = geometry[8], p->b_column = geometry[9];
    p->product = product, p->negate = negate, p->annihilate = annihilate;
}

/* out[n, i, j] = max over k of a[n, i, k] (product) b[n, k, j], and the first k where that is reached.
 *
 * geometry: batch, rows, depth, columns, then the strides of a (batch, row, depth) and of b (batch, depth,
 * column). out and index are contiguous; index may be NULL. depth is at least 1 and fits 31 bits.
 * negate: take minima, of negated operands. annihilate: the zero of the semiring wins over infinity and nan.
 * level: use no better instruction set than this. Returns 0, or 1 when there is no memory for the panels.
 */
#ifdef HAVE_X86
#define CHOOSE_BLOCK(type)                                                                                    \
    if (level >= AVX512) p.block = block_avx512_##type, p.workspace = workspace_avx512_##type;                \
    else if (level >= AVX2) p.block = block_avx2_##type, p.workspace = workspace_avx2_##type;                 \
    else
#else
#define CHOOSE_BLOCK(type)
#endif

#define ENTRY(type, real)                                                                                     \
    int einfx_tropical_##type(const real *a, const real *b, real *out, int64_t *index,                        \
                              const int64_t *geometry, int product, int negate, int annihilate, int level,    \
                              int threads)                                                                    \
    {                                                                                                         \
        struct problem p;                                                                                     \
        const int best = einfx_tropical_level();                                                              \
        if (level > best) level = best;                                                                       \
        set_up(&p, a, b, out, index, geometry, product, negate, annihilate);                                  \
        CHOOSE_BLOCK(type) p.block = block_base_##type, p.workspace = workspace_base_##type;                  \
        return run(&p, threads);                                                                              \
    }

ENTRY(f32, float)
ENTRY(f64, double)

#else /* The template: everything above, once for every TILE. */

#define COLUMNS (LANES * VECTORS)

/* One step of the summed dimension for a tile; the loops are unrolled and acc and at stay in registers. */
#define STEP(rows, MULTIPLY, UPDATE)                                                                          \
    for (int64_t k = 0; k < depth; k++, a += rows, b += COLUMNS) {                                            \
        VEC right[VECTORS];                                                                                   \
        _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++) right[v] = LOAD(b + v * LANES);            \
        _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                               \
        {                                                                                                     \
            const VEC left = SET(a[i]);                                                                       \
            _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)                                        \
            {                                                                                                 \
                const VEC term = MULTIPLY(left, right[v]);                                                    \
                UPDATE;                                                                                       \
            }                                                                                                 \
        }                                                                                                     \
    }

/* The order of MAX matters: where acc is nan, it stays. */
#define KEEP acc[i][v] = MAX(term, acc[i][v])
#define KEEP_INDEX                                                                                            \
    const MASK better = GREATER(term, acc[i][v]);                                                             \
    acc[i][v] = MAX(term, acc[i][v]);                                                                         \
    at[i][v] = ICHOOSE(better, ISET((INDEX)(first + k)), at[i][v])
/* What makes nan, or is it: the zero wins where asked, nan stays, and the first one gives the index. */
#define CAREFUL                                                                                               \
    const MASK nan = UNORDERED(left, right[v]);                                                               \
    const MASK none = OR(EQUAL(left, zero), EQUAL(right[v], zero));                                           \
    const VEC with_nan = CHOOSE(nan, ADD(left, right[v]), term);                                              \
    const VEC exact = annihilate ? CHOOSE(none, zero, with_nan) : with_nan;                                   \
    const MASK wins = AND_NOT(OR(GREATER(exact, acc[i][v]), UNORDERED(exact, exact)),                         \
                              UNORDERED(acc[i][v], acc[i][v]));                                               \
    acc[i][v] = CHOOSE(wins, exact, acc[i][v])
#define CAREFUL_INDEX                                                                                         \
    CAREFUL;                                                                                                  \
    at[i][v] = ICHOOSE(wins, ISET((INDEX)(first + k)), at[i][v])

#define FOR_TILE(rows)                                                                                        \
    _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                                   \
        _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)

#define TILE_FUNCTION(name, rows, UPDATE)                                                                     \
    TARGET static void JOIN(name, TILE)(int64_t depth, const REAL *restrict a, const REAL *restrict b,        \
                                        REAL *restrict values, int product)                                   \
    {                                                                                                         \
        VEC acc[rows][VECTORS];                                                                               \
        FOR_TILE(rows) acc[i][v] = LOAD(values + i * COLUMNS + v * LANES);                                    \
        if (product == PLUS) STEP(rows, ADD, UPDATE)                                                          \
        else if (product == TIMES) STEP(rows, MUL, UPDATE)                                                    \
        else STEP(rows, MIN, UPDATE)                                                                          \
        FOR_TILE(rows) STORE(values + i * COLUMNS + v * LANES, acc[i][v]);                                    \
    }

#define INDEX_TILE_FUNCTION(name, rows, UPDATE)                                                               \
    TARGET static void JOIN(name, TILE)(int64_t depth, const REAL *restrict a, const REAL *restrict b,        \
                                        REAL *restrict values, int product, INDEX *restrict places,           \
                                        int64_t first, int annihilate, REAL zero_value)                       \
    {                                                                                                         \
        VEC acc[rows][VECTORS];                                                                               \
        IVEC at[rows][VECTORS];                                                                               \
        const VEC zero = SET(zero_value);                                                                     \
        (void)zero, (void)annihilate;                                                                         \
        FOR_TILE(rows) acc[i][v] = LOAD(values + i * COLUMNS + v * LANES);                                    \
        FOR_TILE(rows) at[i][v] = ILOAD(places + i * COLUMNS + v * LANES);                                    \
        if (product == PLUS) STEP(rows, ADD, UPDATE)                                                          \
        else if (product == TIMES) STEP(rows, MUL, UPDATE)                                                    \
        else STEP(rows, MIN, UPDATE)                                                                          \
        FOR_TILE(rows) STORE(values + i * COLUMNS + v * LANES, acc[i][v]);                                    \
        FOR_TILE(rows) ISTORE(places + i * COLUMNS + v * LANES, at[i][v]);                                    \
    }

TILE_FUNCTION(tile, ROWS, KEEP)
INDEX_TILE_FUNCTION(index_tile, INDEX_ROWS, KEEP_INDEX)
/* The careful variant always finds the index too: it is rare, and one variant is enough. */
INDEX_TILE_FUNCTION(careful_tile, INDEX_ROWS, CAREFUL_INDEX)

/* Whether a number can make nan of another one, or is nan: nan itself, and the infinity that is not the zero
 * (both infinities where the product is *). Minima of anything else than nan are numbers. */
static inline int JOIN(suspect, TILE)(REAL x, int product)
{
    if (product == MINIMUM) return x != x;
    if (product == TIMES) return !(x - x == 0);
    return !(x < (REAL)INFINITY);
}

/* Pack `count` rows (of a, or columns of b) from `first` on into panels of `step`, and say if one is suspect. */
TARGET static int JOIN(pack, TILE)(const REAL *source, int64_t across, int64_t along, int64_t count,
                                   int64_t depth, int64_t step, int negate, int product, REAL *panel)
{
    int suspects = 0;
    for (int64_t start = 0; start < count; start += step, panel += step * depth) {
        const int64_t have = count - start < step ? count - start : step;
        const REAL *from = source + start * across;
        if (across == 1) {
            for (int64_t k = 0; k < depth; k++)
                for (int64_t i = 0; i < have; i++) panel[k * step + i] = from[k * along + i];
        } else {
            for (int64_t i = 0; i < have; i++)
                for (int64_t k = 0; k < depth; k++) panel[k * step + i] = from[i * across + k * along];
        }
        for (int64_t k = 0; k < depth && have < step; k++)
            for (int64_t i = have; i < step; i++) panel[k * step + i] = 0;
        if (negate)
            for (int64_t x = 0; x < step * depth; x++) panel[x] = -panel[x];
        for (int64_t x = 0; x < step * depth; x++) suspects |= JOIN(suspect, TILE)(panel[x], product);
    }
    return suspects;
}

/* Copies between a tile and the output; where the output has no number yet, the tile gets the zero. */
static void JOIN(fetch, TILE)(const struct problem *p, int64_t offset, int64_t rows, int64_t columns,
                              int begun, REAL zero, REAL *values, INDEX *places, int64_t tile_rows)
{
    const REAL *out = (const REAL *)p->out + offset;
    for (int64_t x = 0; x < tile_rows * COLUMNS; x++) values[x] = zero, places[x] = 0;
    if (!begun) return;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++) values[i * COLUMNS + j] = out[i * p->columns + j];
        for (int64_t j = 0; j < columns && p->negate; j++) values[i * COLUMNS + j] = -values[i * COLUMNS + j];
        for (int64_t j = 0; j < columns && p->index; j++)
            places[i * COLUMNS + j] = (INDEX)p->index[offset + i * p->columns + j];
    }
}

static void JOIN(put, TILE)(const struct problem *p, int64_t offset, int64_t rows, int64_t columns,
                            const REAL *values, const INDEX *places)
{
    REAL *out = (REAL *)p->out + offset;
    const REAL sign = p->negate ? -1 : 1;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++) out[i * p->columns + j] = sign * values[i * COLUMNS + j];
        for (int64_t j = 0; j < columns && p->index; j++)
            p->index[offset + i * p->columns + j] = places[i * COLUMNS + j];
    }
}

/* Both heights of a tile divide HEIGHT, and the width of every tile divides WIDTH. */
enum {
    JOIN(workspace, TILE) = (int)sizeof(REAL) * DEPTH * (WIDTH + HEIGHT)
};

/* One task: the rows and columns from `row` and `column` on. */
static void JOIN(block, TILE)(struct problem *p, int64_t batch, int64_t row, int64_t column, void *workspace)
{
    const REAL *a = (const REAL *)p->a + batch * p->a_batch;
    const REAL *b = (const REAL *)p->b + batch * p->b_batch;
    REAL *b_panels = workspace, *a_panels = b_panels + (int64_t)DEPTH * WIDTH;
    const int64_t row_end = row + p->row_step < p->rows ? row + p->row_step : p->rows;
    const int64_t column_end = column + p->column_step < p->columns ? column + p->column_step : p->columns;
    const REAL zero = p->product == TIMES ? 0 : -(REAL)INFINITY;
    REAL values[ROWS * COLUMNS] __attribute__((aligned(64)));
    INDEX places[ROWS * COLUMNS] __attribute__((aligned(64)));

    for (int64_t jc = column; jc < column_end; jc += WIDTH) {
        const int64_t width = column_end - jc < WIDTH ? column_end - jc : WIDTH;
        for (int64_t kc = 0; kc < p->depth; kc += DEPTH) {
            const int64_t depth = p->depth - kc < DEPTH ? p->depth - kc : DEPTH;
            const int b_suspect = JOIN(pack, TILE)(b + kc * p->b_depth + jc * p->b_column, p->b_column, p->b_depth,
                                                   width, depth, COLUMNS, p->negate, p->product, b_panels);
            for (int64_t ic = row; ic < row_end; ic += HEIGHT) {
                const int64_t height = row_end - ic < HEIGHT ? row_end - ic : HEIGHT;
                const REAL *a_from = a + ic * p->a_row + kc * p->a_depth;
                int64_t step = p->index || b_suspect ? INDEX_ROWS : ROWS;
                const int a_suspect = JOIN(pack, TILE)(a_from, p->a_row, p->a_depth, height, depth, step,
                                                       p->negate, p->product, a_panels);
                const int careful = a_suspect || b_suspect;
                if (careful && step != INDEX_ROWS) {
                    step = INDEX_ROWS;
                    JOIN(pack, TILE)(a_from, p->a_row, p->a_depth, height, depth, step, p->negate, p->product,
                                     a_panels);
                }
                for (int64_t j = 0; j < width; j += COLUMNS) {
                    const int64_t columns = width - j < COLUMNS ? width - j : COLUMNS;
                    for (int64_t i = 0; i < height; i += step) {
                        const int64_t rows = height - i < step ? height - i : step;
                        const int64_t offset = (batch * p->rows + ic + i) * p->columns + jc + j;
                        const REAL *left = a_panels + i * depth, *right = b_panels + j * depth;
                        JOIN(fetch, TILE)(p, offset, rows, columns, kc > 0, zero, values, places, step);
                        if (careful)
                            JOIN(careful_tile, TILE)(depth, left, right, values, p->product, places, kc,
                                                     p->annihilate, zero);
                        else if (p->index)
                            JOIN(index_tile, TILE)(depth, left, right, values, p->product, places, kc, 0, zero);
                        else
                            JOIN(tile, TILE)(depth, left, right, values, p->product);
                        JOIN(put, TILE)(p, offset, rows, columns, values, places);
                    }
                }
            }
        }
    }
}

#undef COLUMNS
#undef STEP
#undef KEEP
#undef KEEP_INDEX
#undef CAREFUL
#undef CAREFUL_INDEX
#undef FOR_TILE
#undef TILE_FUNCTION
#undef INDEX_TILE_FUNCTION
#undef TILE
#undef TARGET
#undef LANES
#undef ROWS
#undef INDEX_ROWS
#undef VECTORS
#undef VEC
#undef IVEC
#undef MASK
#undef LOAD
#undef STORE
#undef ILOAD
#undef ISTORE
#undef SET
#undef ISET
#undef ADD
#undef MUL
#undef MIN
#undef MAX
#undef GREATER
#undef EQUAL
#undef UNORDERED
#undef OR
#undef AND_NOT
#undef CHOOSE
#undef ICHOOSE

#endif
