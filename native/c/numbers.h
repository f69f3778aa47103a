/* Exact numbers: shares, and money split without losing or inventing a micro (models/money.py). */
#ifndef NUMBERS_H
#define NUMBERS_H

#include <math.h>

#include "bytes.h"

#define VALUE_MAX (1ll << 62)  /* micros of one conversion; the contract allows 18 digits */
#define TOTAL_MAX (1ull << 63) /* of the weights of a path */

typedef unsigned __int128 Wide;

/* What `weight / total` is in Python, correctly rounded; 0 < weight < total < TOTAL_MAX. */
static double share_of(uint64_t weight, uint64_t total) {
    /* Shifted so far that the quotient has 63 or 64 bits, of which the conversion to a double keeps 53: the last bit
     * says whether anything followed, which is all that rounding to nearest, ties to even, has to know. */
    int shift = 63 + __builtin_clzll(weight) - __builtin_clzll(total);
    Wide shifted = (Wide)weight << shift;
    uint64_t quotient = (uint64_t)(shifted / total);
    return ldexp((double)(quotient | (shifted % total != 0)), -shift);
}

typedef struct {
    uint64_t rest;
    uint32_t place;
} Rest;

static int larger_rest_first(const void *a, const void *b) {
    const Rest *x = a, *y = b;
    if (x->rest != y->rest) return x->rest > y->rest ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* `value` < VALUE_MAX in proportion to `weights`, which add up to `total` < TOTAL_MAX: each part's floor, and what is
 * left over one each to the largest remainders, ties to the earlier. `rests` is room for `count` of them. False where
 * the parts do not add up, which means that `total` is another one. */
static bool split(uint64_t value, const uint64_t *weights, uint64_t total, size_t count, uint64_t *parts, Rest *rests) {
    uint64_t left = value;
    bool is_sorted = true;
    for (size_t i = 0; i < count; i++) {
        if (((value | weights[i]) >> 32) == 0) { /* a third of the time of the wide division */
            parts[i] = value * weights[i] / total;
            rests[i].rest = value * weights[i] % total;
        } else {
            Wide product = (Wide)value * weights[i];
            parts[i] = (uint64_t)(product / total);
            rests[i].rest = (uint64_t)(product % total);
        }
        rests[i].place = (uint32_t)i;
        left -= parts[i];
        if (i && rests[i].rest > rests[i - 1].rest) is_sorted = false;
    }
    if (left && !is_sorted) qsort(rests, count, sizeof *rests, larger_rest_first);
    for (size_t i = 0; i < left && i < count; i++) parts[rests[i].place]++;
    return left <= count;
}

#endif
