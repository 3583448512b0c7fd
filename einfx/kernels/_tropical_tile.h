/* The template of the kernel for one type and one instruction set, which _tropical_sets.h describes.
 *
 * A tile of the output, ROWS x COLUMNS, stays in registers while panels of a (DEPTH x ROWS) and of b
 * (DEPTH x COLUMNS) pass by. A maximum in one instruction loses nan. Packing notices whether a panel has
 * numbers that could make one; only blocks with such a panel take the careful variant.
 */

#define COLUMNS (LANES * VECTORS)

/* One step of the summed dimension for a tile; the loops are unrolled and acc and at stay in registers. */
#define STEP(rows, MULTIPLY, UPDATE)                                                                          \
    for (; k < depth; k++, a += rows, b += COLUMNS) {                                                         \
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
    at[i][v] = ICHOOSE(better, ISET((INDEX)k), at[i][v])
/* What makes nan, or is it: the zero wins where asked, nan stays, and the first one gives the index. */
#define CAREFUL                                                                                               \
    const MASK nan = UNORDERED(left, right[v]);                                                               \
    const MASK none = OR(EQUAL(left, zero), EQUAL(right[v], zero));                                           \
    const VEC with_nan = CHOOSE(nan, ADD(left, right[v]), term);                                              \
    const VEC exact = annihilate ? CHOOSE(none, zero, with_nan) : with_nan;                                   \
    const MASK wins = AND_NOT(OR(GREATER(exact, acc[i][v]), UNORDERED(exact, exact)),                         \
                              UNORDERED(acc[i][v], acc[i][v]));                                               \
    acc[i][v] = CHOOSE(wins, exact, acc[i][v]);                                                               \
    at[i][v] = ICHOOSE(wins, ISET((INDEX)(first + k)), at[i][v])

#define FOR_TILE(rows)                                                                                        \
    _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                                   \
        _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)

/* INDEXED(code) is the code, or nothing in a variant that finds no indices. */
#define WITH_INDEX(...) __VA_ARGS__
#define WITHOUT_INDEX(...)
#define TILE_FUNCTION(name, rows, UPDATE, INDEXED)                                                            \
    TARGET static void JOIN(name, TILE)(int64_t depth, const REAL *restrict a, const REAL *restrict b,        \
                                        REAL *restrict values, INDEX *restrict places, int product,           \
                                        int64_t first, int annihilate, REAL zero_value)                       \
    {                                                                                                         \
        VEC acc[rows][VECTORS];                                                                               \
        int64_t k = 0;                                                                                        \
        INDEXED(IVEC at[rows][VECTORS]; const VEC zero = SET(zero_value);)                                    \
        FOR_TILE(rows) acc[i][v] = LOAD(values + i * COLUMNS + v * LANES);                                    \
        INDEXED(FOR_TILE(rows) at[i][v] = ILOAD(places + i * COLUMNS + v * LANES); (void)zero;)               \
        (void)places, (void)first, (void)annihilate, (void)zero_value;                                        \
        if (product == PLUS) STEP(rows, ADD, UPDATE)                                                          \
        else if (product == TIMES) STEP(rows, MUL, UPDATE)                                                    \
        else STEP(rows, MIN, UPDATE)                                                                          \
        FOR_TILE(rows) STORE(values + i * COLUMNS + v * LANES, acc[i][v]);                                    \
        INDEXED(FOR_TILE(rows) ISTORE(places + i * COLUMNS + v * LANES, at[i][v]);)                           \
    }

TILE_FUNCTION(tile, ROWS, KEEP, WITHOUT_INDEX)
/* Indices cost two instructions more. So the terms of GROUP steps are compared with the value at once, and only
 * where one was larger it is looked up, afterwards, which of them it was. */
#define GROUP_STEP(rows, MULTIPLY)                                                                            \
    for (; k + GROUP <= depth; k += GROUP, a += GROUP * rows, b += GROUP * COLUMNS) {                         \
        _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)                                            \
        {                                                                                                     \
            VEC right[GROUP];                                                                                 \
            _Pragma("GCC unroll 16") for (int g = 0; g < GROUP; g++) right[g] =                               \
                LOAD(b + g * COLUMNS + v * LANES);                                                            \
            _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                           \
            {                                                                                                 \
                VEC term = MULTIPLY(SET(a[i]), right[0]);                                                     \
                _Pragma("GCC unroll 16") for (int g = 1; g < GROUP; g++) term =                               \
                    MAX(MULTIPLY(SET(a[g * rows + i]), right[g]), term);                                      \
                KEEP_INDEX;                                                                                   \
            }                                                                                                 \
        }                                                                                                     \
    }                                                                                                         \
    grouped = k;                                                                                              \
    STEP(rows, MULTIPLY, KEEP_INDEX)

static inline REAL JOIN(term, TILE)(REAL x, REAL y, int product)
{
    return product == PLUS ? x + y : product == TIMES ? x * y : x < y ? x : y;
}

/* The first step that gave the value, where a step of this block did: its group is in `found` up to `grouped`,
 * beyond that the step itself, and -1 where the value is from an earlier block. */
TARGET static void JOIN(look_up, TILE)(int64_t grouped, const REAL *restrict a, const REAL *restrict b,
                                       const REAL *restrict values, const INDEX *restrict found,
                                       INDEX *restrict places, int product, int64_t first)
{
    for (int64_t x = 0; x < INDEX_ROWS * COLUMNS; x++) {
        INDEX step = found[x];
        if (step < 0) continue;
        if (step < grouped) {
            const REAL *left = a + (int64_t)step * INDEX_ROWS + x / COLUMNS;
            const REAL *right = b + (int64_t)step * COLUMNS + x % COLUMNS;
            int later = 1;
            for (int g = 0; g < GROUP - 1; g++) {
                later &= JOIN(term, TILE)(left[g * INDEX_ROWS], right[g * COLUMNS], product) != values[x];
                step += later;
            }
        }
        places[x] = (INDEX)(first + step);
    }
}

TARGET static void JOIN(index_tile, TILE)(int64_t depth, const REAL *restrict a, const REAL *restrict b,
                                          REAL *restrict values, INDEX *restrict places, int product,
                                          int64_t first, int annihilate, REAL zero_value)
{
    const REAL *const all_a = a, *const all_b = b;
    VEC acc[INDEX_ROWS][VECTORS];
    IVEC at[INDEX_ROWS][VECTORS];
    INDEX found[INDEX_ROWS * COLUMNS] __attribute__((aligned(64)));
    int64_t k = 0, grouped;
    (void)annihilate, (void)zero_value;
    FOR_TILE(INDEX_ROWS) acc[i][v] = LOAD(values + i * COLUMNS + v * LANES);
    FOR_TILE(INDEX_ROWS) at[i][v] = ISET(-1);
    if (product == PLUS) {
        GROUP_STEP(INDEX_ROWS, ADD)
    } else if (product == TIMES) {
        GROUP_STEP(INDEX_ROWS, MUL)
    } else {
        GROUP_STEP(INDEX_ROWS, MIN)
    }
    FOR_TILE(INDEX_ROWS) STORE(values + i * COLUMNS + v * LANES, acc[i][v]);
    FOR_TILE(INDEX_ROWS) ISTORE(found + i * COLUMNS + v * LANES, at[i][v]);
    JOIN(look_up, TILE)(grouped, all_a, all_b, values, found, places, product, first);
}

/* The careful variant always finds the index too: it is rare, and one variant is enough. */
TILE_FUNCTION(careful_tile, INDEX_ROWS, CAREFUL, WITH_INDEX)

/* Whether a number can make nan of another one, or is nan: nan itself, and the infinity that is not the zero
 * (both infinities where the product is *). Minima of anything else than nan are numbers. */
static inline int JOIN(suspect, TILE)(REAL x, int product)
{
    if (product == MINIMUM) return x != x;
    if (product == TIMES) return !(x - x == 0);
    return !(x < (REAL)INFINITY);
}

/* Pack `count` rows (of a, or columns of b) into panels of `step`, and say if one is suspect. */
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
TARGET static void JOIN(fetch, TILE)(const struct problem *p, int64_t offset, int64_t rows, int64_t columns,
                                     int begun, REAL zero, REAL *values, INDEX *places, int64_t tile_rows)
{
    const REAL *out = (const REAL *)p->out + offset;
    const REAL sign = p->negate ? -1 : 1;
    if (!begun || rows < tile_rows || columns < COLUMNS)
        for (int64_t x = 0; x < tile_rows * COLUMNS; x++) values[x] = zero;
    if (places)
        for (int64_t x = 0; x < tile_rows * COLUMNS; x++) places[x] = 0;
    for (int64_t i = 0; i < rows && begun; i++) {
        for (int64_t j = 0; j < columns; j++) values[i * COLUMNS + j] = sign * out[i * p->columns + j];
        for (int64_t j = 0; j < columns && p->index; j++)
            places[i * COLUMNS + j] = (INDEX)p->index[offset + i * p->columns + j];
    }
}

TARGET static void JOIN(put, TILE)(const struct problem *p, int64_t offset, int64_t rows, int64_t columns,
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

/* Pack a slab of b: `slab` counts those of the block from `kc` and `jc` on, DEPTH deep each. */
static int JOIN(pack_slab, TILE)(const struct problem *p, int64_t batch, int64_t kc, int64_t depth, int64_t jc,
                                 int64_t width, void *panels)
{
    const REAL *from = (const REAL *)p->b + batch * p->b_batch + kc * p->b_depth + jc * p->b_column;
    return JOIN(pack, TILE)(from, p->b_column, p->b_depth, width, depth, COLUMNS, p->negate, p->product, panels);
}

/* The product of some rows of a with a slab of b. Both heights of a tile divide HEIGHT. */
static void JOIN(rows, TILE)(const struct problem *p, int64_t batch, int64_t row, int64_t height, int64_t kc,
                             int64_t depth, int64_t jc, int64_t width, const void *slab, int b_suspect,
                             void *workspace)
{
    const REAL *a = (const REAL *)p->a + batch * p->a_batch + row * p->a_row + kc * p->a_depth;
    const REAL *b_panels = slab, zero = p->product == TIMES ? 0 : -(REAL)INFINITY;
    REAL *a_panels = workspace;
    REAL values[ROWS * COLUMNS] __attribute__((aligned(64)));
    INDEX places[ROWS * COLUMNS] __attribute__((aligned(64)));
    int64_t step = p->index || b_suspect ? INDEX_ROWS : ROWS;
    const int a_suspect =
        JOIN(pack, TILE)(a, p->a_row, p->a_depth, height, depth, step, p->negate, p->product, a_panels);
    const int careful = a_suspect || b_suspect;
    if (careful && step != INDEX_ROWS) {
        step = INDEX_ROWS;
        JOIN(pack, TILE)(a, p->a_row, p->a_depth, height, depth, step, p->negate, p->product, a_panels);
    }
    void (*const kernel)(int64_t, const REAL *restrict, const REAL *restrict, REAL *restrict, INDEX *restrict,
                         int, int64_t, int, REAL) =
        careful ? JOIN(careful_tile, TILE) : p->index ? JOIN(index_tile, TILE) : JOIN(tile, TILE);
    INDEX *const asked = careful || p->index ? places : NULL;
    for (int64_t j = 0; j < width; j += COLUMNS) {
        const int64_t columns = width - j < COLUMNS ? width - j : COLUMNS;
        for (int64_t i = 0; i < height; i += step) {
            const int64_t rows = height - i < step ? height - i : step;
            const int64_t offset = (batch * p->rows + row + i) * p->columns + jc + j;
            JOIN(fetch, TILE)(p, offset, rows, columns, kc > 0, zero, values, asked, step);
            kernel(depth, a_panels + i * depth, b_panels + j * depth, values, places, p->product, kc,
                   p->annihilate, zero);
            JOIN(put, TILE)(p, offset, rows, columns, values, places);
        }
    }
}

#undef COLUMNS
#undef GROUP_STEP
#undef STEP
#undef KEEP
#undef KEEP_INDEX
#undef CAREFUL
#undef FOR_TILE
#undef WITH_INDEX
#undef WITHOUT_INDEX
#undef TILE_FUNCTION
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
