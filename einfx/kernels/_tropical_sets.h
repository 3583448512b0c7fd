/* Every instruction set for one type: what the template of a tile is made of. _tropical.c includes this twice.
 *
 * It says before: REAL, INDEX (integers of the same size), SUFFIX, PS (of intrinsics), V256, V512, M512,
 * EPI (of intrinsics), SET_I256 and SET_I512.
 */

#define JOIN3_(x, y, z) x##y##z
#define JOIN3(x, y, z) JOIN3_(x, y, z)

#define TILE JOIN(base, SUFFIX)
#define TARGET
#define LANES 1
#define ROWS 4
#define INDEX_ROWS 4
#define VECTORS (int)(64 / sizeof(REAL))
#define VEC REAL
#define IVEC INDEX
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
#include "_tropical_tile.h"

#ifdef HAVE_X86
#define OP(name) JOIN3(_mm256_, name, PS)
#define TILE JOIN(avx2, SUFFIX)
#define TARGET __attribute__((target("avx2")))
#define LANES (int)(32 / sizeof(REAL))
#define ROWS 6
#define INDEX_ROWS 3
#define VECTORS 2
#define VEC V256
#define IVEC __m256i
#define MASK V256
#define LOAD OP(load_)
#define STORE OP(store_)
#define ILOAD(p) _mm256_load_si256((const __m256i *)(p))
#define ISTORE(p, v) _mm256_store_si256((__m256i *)(p), v)
#define SET OP(set1_)
#define ISET SET_I256
#define ADD OP(add_)
#define MUL OP(mul_)
#define MIN OP(min_)
#define MAX OP(max_)
#define GREATER(x, y) OP(cmp_)(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) OP(cmp_)(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) OP(cmp_)(x, y, _CMP_UNORD_Q)
#define OR OP(or_)
#define AND_NOT(m, n) OP(andnot_)(n, m)
#define CHOOSE(m, x, y) OP(blendv_)(y, x, m)
#define ICHOOSE(m, x, y) _mm256_blendv_epi8(y, x, JOIN3(_mm256_cast, PS, _si256)(m))
#include "_tropical_tile.h"
#undef OP

#define OP(name) JOIN3(_mm512_, name, PS)
#define TILE JOIN(avx512, SUFFIX)
#define TARGET __attribute__((target("avx512f")))
#define LANES (int)(64 / sizeof(REAL))
#define ROWS 12
#define INDEX_ROWS 6
#define VECTORS 2
#define VEC V512
#define IVEC __m512i
#define MASK M512
#define LOAD OP(load_)
#define STORE OP(store_)
#define ILOAD(p) _mm512_load_si512(p)
#define ISTORE(p, v) _mm512_store_si512(p, v)
#define SET OP(set1_)
#define ISET SET_I512
#define ADD OP(add_)
#define MUL OP(mul_)
#define MIN OP(min_)
#define MAX OP(max_)
#define GREATER(x, y) JOIN(OP(cmp_), mask)(x, y, _CMP_GT_OQ)
#define EQUAL(x, y) JOIN(OP(cmp_), mask)(x, y, _CMP_EQ_OQ)
#define UNORDERED(x, y) JOIN(OP(cmp_), mask)(x, y, _CMP_UNORD_Q)
#define OR(m, n) ((MASK)((m) | (n)))
#define AND_NOT(m, n) ((MASK)((m) & ~(n)))
#define CHOOSE(m, x, y) OP(mask_mov_)(y, m, x)
#define ICHOOSE(m, x, y) JOIN3(_mm512_, mask_mov_, EPI)(y, m, x)
#include "_tropical_tile.h"
#undef OP
#endif

#undef REAL
#undef INDEX
#undef SUFFIX
#undef PS
#undef EPI
#undef V256
#undef V512
#undef M512
#undef SET_I256
#undef SET_I512
