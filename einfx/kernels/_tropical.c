/* Matrix products over semirings whose addition is a maximum, for strided float and double matrices.
 *
 * The loops are those of a matrix product in BLIS (Van Zee and van de Geijn, 2015): both operands are packed
 * into panels that fit the caches, and a tile of the output stays in registers while a block of the summed
 * dimension passes by. A fused multiply-add becomes two instructions, "multiply" (+, * or min) and maximum,
 * so half of the speed of a real matrix product is the ceiling. Minima are maxima of negated numbers: signs
 * change while packing and storing.
 *
 * The tile is in _tropical_tile.h, the instruction sets are in _tropical_sets.h; here are the loops around
 * them. A team of threads computes one matrix after the other: it packs a block of b together, and then every
 * thread takes some rows of a at a time. Where there are many matrices, every thread is a team of its own.
 */

#include <math.h>
#include <pthread.h>
#include <sched.h>

#include "_native.h"

enum product { PLUS, TIMES, MINIMUM };

/* Sizes of blocks, in elements: a slab of b is DEPTH x WIDTH, rows of a are packed DEPTH x HEIGHT. */
enum { DEPTH = 1024, WIDTH = 256, HEIGHT = 96, LEAST_HEIGHT = 24, SLABS = 2, MAX_THREADS = 256 };

/* Steps that are compared with the value at once where an index is asked for. */
enum { GROUP = 4 };

/* Columns of b that a thread packs at a time: the width of every tile divides it. */
enum { STRIP = 64, STRIPS = WIDTH / STRIP };

/* Fewer products than this aren't worth a thread of their own. */
static const double PRODUCTS_PER_THREAD = 1 << 20;

struct problem {
    const void *a, *b;
    void *out;
    int64_t *index; /* NULL where nobody asks */
    int64_t batch, rows, depth, columns;
    int64_t a_batch, a_row, a_depth, b_batch, b_depth, b_column; /* strides, in elements */
    int product, negate, annihilate;
};

typedef int pack_function(const struct problem *, int64_t, int64_t, int64_t, int64_t, int64_t, void *);
typedef void rows_function(const struct problem *, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                           const void *, int, void *);

/* Threads that compute one matrix after the other, those from `first` on, every `stride`-th. */
struct team {
    const struct problem *problem;
    pack_function *pack;
    rows_function *rows;
    int64_t first, stride, height;
    size_t item;
    char *slabs;
    int suspect[SLABS * STRIPS];
    atomic_int size; /* 0 until all members have been started */
    atomic_llong ticket, arrivals;
};

struct member {
    struct team *team;
    char *panels;
};

#define JOIN2(x, y) x##_##y
#define JOIN(x, y) JOIN2(x, y)

#define REAL float
#define INDEX int32_t
#define SUFFIX f32
#define PS ps
#define EPI epi32
#define V256 __m256
#define V512 __m512
#define M512 __mmask16
#define SET_I256 _mm256_set1_epi32
#define SET_I512 _mm512_set1_epi32
#include "_tropical_sets.h"

#define REAL double
#define INDEX int64_t
#define SUFFIX f64
#define PS pd
#define EPI epi64
#define V256 __m256d
#define V512 __m512d
#define M512 __mmask8
#define SET_I256 _mm256_set1_epi64x
#define SET_I512 _mm512_set1_epi64
#include "_tropical_sets.h"

static int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

/* Wait until an atomic reaches a number; somebody else may need the processor for that. */
static void wait_for(atomic_llong *count, long long wanted)
{
    for (int spins = 0; atomic_load(count) < wanted; spins++)
        if (spins > 1000) sched_yield();
}

/* All members have come here `times` times. */
static void meet(struct team *t, int size, long long times)
{
    if (size == 1) return;
    atomic_fetch_add(&t->arrivals, 1);
    wait_for(&t->arrivals, times * size);
}

/* One block of the output and of the summed dimension: up to SLABS slabs of b, for all rows. `base` is the
 * number of tickets that were taken before; every member takes one in vain to see that there are no more. */
static void block(struct team *t, const struct member *m, int size, int64_t batch, int64_t kc, int64_t depth,
                  int64_t jc, int64_t width, long long *base, long long *times)
{
    const struct problem *p = t->problem;
    const int64_t slabs = parts(depth, DEPTH), tasks = parts(p->rows, t->height);
    const int64_t each = parts(depth, slabs), strips = parts(width, STRIP);
    const size_t slab_bytes = t->item * DEPTH * WIDTH;
    for (;;) {
        const int64_t unit = atomic_fetch_add(&t->ticket, 1) - *base, s = unit / strips, j = unit % strips * STRIP;
        if (s >= slabs) break;
        const int64_t deep = least(each, depth - s * each);
        t->suspect[unit] = t->pack(p, batch, kc + s * each, deep, jc + j, least(STRIP, width - j),
                                   t->slabs + s * slab_bytes + t->item * j * deep);
    }
    *base += slabs * strips + size;
    meet(t, size, ++*times);
    for (;;) {
        const int64_t row = (atomic_fetch_add(&t->ticket, 1) - *base) * t->height;
        if (row >= p->rows) break;
        for (int64_t s = 0; s < slabs; s++) {
            int suspect = 0;
            for (int64_t strip = 0; strip < strips; strip++) suspect |= t->suspect[s * strips + strip];
            t->rows(p, batch, row, least(t->height, p->rows - row), kc + s * each,
                    least(each, depth - s * each), jc, width, t->slabs + s * slab_bytes, suspect, m->panels);
        }
    }
    *base += tasks + size;
    meet(t, size, ++*times);
}

static void *work(void *argument)
{
    const struct member *m = argument;
    struct team *t = m->team;
    const struct problem *p = t->problem;
    long long base = 0, times = 0;
    int size;
    for (int spins = 0; !(size = atomic_load(&t->size)); spins++)
        if (spins > 1000) sched_yield();
    /* Alone, a slab at a time stays in the cache while all rows pass by. */
    const int64_t deepest = DEPTH * (size == 1 ? 1 : SLABS);
    for (int64_t batch = t->first; batch < p->batch; batch += t->stride)
        for (int64_t jc = 0; jc < p->columns; jc += WIDTH)
            for (int64_t kc = 0; kc < p->depth; kc += deepest)
                block(t, m, size, batch, kc, least(deepest, p->depth - kc), jc, least(WIDTH, p->columns - jc),
                      &base, &times);
    return NULL;
}

/* How many threads work, and how many of them on the same matrix. */
static void count_threads(const int64_t *geometry, int threads, int *together, int *teams)
{
    const double products = (double)geometry[0] * geometry[1] * geometry[2] * geometry[3];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > products / PRODUCTS_PER_THREAD) threads = (int)(products / PRODUCTS_PER_THREAD);
    if (threads < 1) threads = 1;
    *teams = geometry[0] >= 4 * threads ? threads : 1;
    *together = threads / *teams;
}

static size_t slab_count(const int64_t *geometry, int together)
{
    const int64_t slabs = parts(geometry[2], DEPTH);
    return together == 1 ? 1 : (size_t)least(slabs, SLABS);
}

/* The bytes that a product of these sizes allocates while it runs, for elements of `item` bytes. */
int64_t einfx_tropical_workspace(const int64_t *geometry, int item, int threads)
{
    int together, teams;
    count_threads(geometry, threads, &together, &teams);
    const int64_t slabs = (int64_t)slab_count(geometry, together) * teams * DEPTH * WIDTH;
    return (slabs + (int64_t)together * teams * DEPTH * HEIGHT) * item;
}

static int run(const struct problem *p, const int64_t *geometry, pack_function *pack, rows_function *rows,
               size_t item, int threads)
{
    struct team teams[MAX_THREADS];
    struct member members[MAX_THREADS];
    pthread_t started[MAX_THREADS];
    int together, count, begun = 0;
    void *workspace = NULL;
    count_threads(geometry, threads, &together, &count);
    const size_t slabs = slab_count(geometry, together) * DEPTH * WIDTH * item;
    if (posix_memalign(&workspace, 64, (size_t)einfx_tropical_workspace(geometry, (int)item, threads))) return 1;
    /* A small share of the rows at a time, so that nobody waits long for the last one. */
    int64_t height = HEIGHT;
    if (together > 1) {
        height = parts(p->rows, 8 * together);
        height = least(HEIGHT, parts(height, LEAST_HEIGHT) * LEAST_HEIGHT);
    }
    for (int i = 0; i < count; i++) {
        struct team *t = &teams[i];
        t->problem = p, t->pack = pack, t->rows = rows, t->item = item, t->height = height;
        t->first = i, t->stride = count, t->slabs = (char *)workspace + i * slabs;
        atomic_init(&t->size, 0), atomic_init(&t->ticket, 0), atomic_init(&t->arrivals, 0);
    }
    for (int i = 0; i < count * together; i++) {
        members[i].team = &teams[i / together];
        members[i].panels = (char *)workspace + count * slabs + (size_t)i * DEPTH * HEIGHT * item;
    }
    if (count > 1) {
        for (int i = 0; i < count; i++) atomic_store(&teams[i].size, 1);
        while (begun < count - 1 && !pthread_create(&started[begun], NULL, work, &members[begun + 1])) begun++;
        /* What a thread that couldn't be had was for, this one does. */
        for (int i = begun + 1; i < count; i++) work(&members[i]);
    } else {
        while (begun < together - 1 && !pthread_create(&started[begun], NULL, work, &members[begun + 1])) begun++;
        atomic_store(&teams[0].size, begun + 1);
    }
    work(&members[0]);
    for (int i = 0; i < begun; i++) pthread_join(started[i], NULL);
    free(workspace);
    return 0;
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

/* out[n, i, j] = max over k of a[n, i, k] (product) b[n, k, j], and the first k where that is reached.
 *
 * geometry: batch, rows, depth, columns, then the strides of a (batch, row, depth) and of b (batch, depth,
 * column). out and index are contiguous; index may be NULL. depth is at least 1 and fits 31 bits.
 * negate: take minima, of negated operands. annihilate: the zero of the semiring wins over infinity and nan.
 * level: use no better instruction set than this. Returns 0, or 1 when there is no memory for the panels.
 */
#ifdef HAVE_X86
#define RUN_VECTORS(type, real)                                                                               \
    if (level >= AVX512) return run(&p, g, pack_slab_avx512_##type, rows_avx512_##type, sizeof(real), threads); \
    if (level >= AVX2) return run(&p, g, pack_slab_avx2_##type, rows_avx2_##type, sizeof(real), threads);
#else
#define RUN_VECTORS(type, real)
#endif

#define ENTRY(type, real)                                                                                     \
    int einfx_tropical_##type(const real *a, const real *b, real *out, int64_t *index, const int64_t *g,      \
                              int product, int negate, int annihilate, int level, int threads)                \
    {                                                                                                         \
        const struct problem p = {a,    b,    out,  index, g[0], g[1],    g[2],   g[3],                       \
                                  g[4], g[5], g[6], g[7],  g[8], g[9],    product, negate, annihilate};       \
        const int best = einfx_tropical_level();                                                              \
        if (level > best) level = best;                                                                       \
        RUN_VECTORS(type, real)                                                                               \
        return run(&p, g, pack_slab_base_##type, rows_base_##type, sizeof(real), threads);                    \
    }

ENTRY(f32, float)
ENTRY(f64, double)
