/* Walks over contraction trees: the same as in annealing.py and slicing/search/rotating.py, step by step.
 *
 * Where x is made of a and b and then meets c, a meets c first and then b. Numbers are drawn and added up in the
 * order in which Python does it, so that a walk comes to the same tree with this code and without it.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { STATES = 624, SHIFTED = 397, BLOCK = 64 };

/* The generator of Python's random module (Matsumoto and Nishimura, Mersenne Twister, 1998): its 624 words, and
 * the place of the next one. */
static uint32_t next_word(uint32_t *state)
{
    if (state[STATES] >= STATES) {
        for (int i = 0; i < STATES; i++) {
            uint32_t both = (state[i] & 0x80000000u) | (state[(i + 1) % STATES] & 0x7fffffffu);
            state[i] = state[(i + SHIFTED) % STATES] ^ (both >> 1) ^ (both & 1 ? 0x9908b0dfu : 0);
        }
        state[STATES] = 0;
    }
    uint32_t word = state[state[STATES]++];
    word ^= word >> 11;
    word ^= word << 7 & 0x9d2c5680u;
    word ^= word << 15 & 0xefc60000u;
    return word ^ word >> 18;
}

/* A number from 0 to 1 with 53 random bits. */
static double drawn(uint32_t *state)
{
    double high = next_word(state) >> 5, low = next_word(state) >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

/* What a walk goes by.
 *
 * sums: for each eight labels the logarithms to base 2 of the products of any of their sizes
 * unit: the logarithm of what sizes are multiples of
 * written: what the writing of an element counts for
 * limit, excess: what a step counts for that takes twice the limit; no step counts for more where excess is 0
 */
struct rules {
    int64_t nodes, words, bytes, blocks;
    double unit, written, limit, excess;
    const double *sums, *exponents;
};

static double size_of(const struct rules *rules, const uint64_t *mask)
{
    double logarithm = 0.0;
    for (int64_t i = 0; i < rules->bytes; i++)
        logarithm += rules->sums[i * 256 + (mask[i >> 3] >> (8 * (i & 7)) & 255)];
    logarithm -= rules->unit;
    return pow(2.0, logarithm < 900.0 ? logarithm : 900.0);
}

/* What a step costs whose operands together have some labels, by the sizes of its result and of those operands
 * that are intermediates. */
static double cost_of(const struct rules *rules, const uint64_t *together, double written, double one, double other)
{
    double more = 0.0, taken = written + one + other;
    if (rules->excess != 0.0 && taken > rules->limit) more = rules->excess * (taken / rules->limit - 1.0);
    return size_of(rules, together) + rules->written * written + more;
}

static double total_of(const double *costs, int64_t count)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++) total += costs[i];
    return total;
}

/* Walk on, and leave in masks, parents and children the best tree that was met.
 *
 * costs: of every node
 * sizes: room for as many
 * best_masks: room for those of the tree, and for three more
 */
void einfx_walk(const struct rules *rules, uint64_t *masks, int32_t *parents, int32_t *children, double *sizes,
                double *costs, uint32_t *state, uint64_t *best_masks, int32_t *best_parents,
                int32_t *best_children)
{
    const int64_t nodes = rules->nodes, words = rules->words, root = nodes - 1, count = (nodes + 1) / 2;
    const size_t mask_bytes = (size_t)(nodes * words) * sizeof *masks, node_bytes = (size_t)nodes * sizeof *parents;
    uint64_t *together = best_masks + nodes * words, *kept = together + words, *other = kept + words;
    double best = 0.0;
    for (int64_t x = 0; x < nodes; x++) sizes[x] = size_of(rules, masks + x * words);
    for (int64_t block = -1; block < rules->blocks; block++) {
        for (int step = 0; block >= 0 && step < BLOCK; step++) {
            int64_t a = (int64_t)(drawn(state) * (double)root), x = parents[a];
            if (x == root) continue;
            int64_t p = parents[x], b = children[x] - a, c = children[p] - x;
            for (int64_t i = 0; i < words; i++) {
                together[i] = masks[a * words + i] | masks[c * words + i];
                kept[i] = together[i] & (masks[b * words + i] | masks[p * words + i]);
                other[i] = kept[i] | masks[b * words + i];
            }
            double allowed = (costs[x] + costs[p]) * pow(1.0 - drawn(state), rules->exponents[block]);
            double size = size_of(rules, kept);
            double first =
                cost_of(rules, together, size, a >= count ? sizes[a] : 0.0, c >= count ? sizes[c] : 0.0);
            if (first > allowed) continue;
            double second = cost_of(rules, other, sizes[p], size, b >= count ? sizes[b] : 0.0);
            if (first + second > allowed) continue;
            costs[x] = first;
            costs[p] = second;
            sizes[x] = size;
            memcpy(masks + x * words, kept, (size_t)words * sizeof *masks);
            children[x] = (int32_t)(a + c);
            children[p] = (int32_t)(x + b);
            parents[c] = (int32_t)x;
            parents[b] = (int32_t)p;
        }
        double total = total_of(costs, nodes);
        if (block < 0 || total < best * (1 - 1e-9)) {
            best = total;
            memcpy(best_masks, masks, mask_bytes);
            memcpy(best_parents, parents, node_bytes);
            memcpy(best_children, children, node_bytes);
        }
    }
}
