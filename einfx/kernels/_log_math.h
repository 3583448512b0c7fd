/* Exponentials and logarithms as loops over vectors can compute them. */
#ifndef EINFX_LOG_MATH_H
#define EINFX_LOG_MATH_H

#include "_native.h"

INLINE float as_float(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE int32_t as_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* exp(x) for -87 < x <= 0: 2^n times the series of exp(r), where |r| <= log(2) / 2. */
INLINE float exponential(float x)
{
    const float rounder = 12582912.0f; /* Adding 1.5 * 2^23 rounds to a whole number. */
    const float shifted = x * 1.44269504f + rounder;
    const float n = shifted - rounder;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* log(2) in two parts; the first is exact */
    float y = 1.0f / 5040;
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * (r * r) + r;
    const float power = as_float((int32_t)(((uint32_t)as_bits(shifted) + 127u) << 23));
    return y * power + power;
}

/* log(x) - power * log(2) for positive normal x: with m in [sqrt(1/2), sqrt(2)), log(m) is 2 atanh of s. */
INLINE float logarithm(float x, int32_t power)
{
    const int32_t bits = as_bits(x), e = (bits - 0x3f3504f3) >> 23;
    const float m = as_float((int32_t)((uint32_t)bits - ((uint32_t)e << 23)));
    const float n = (float)(e - power);
    const float s = (m - 1.0f) / (m + 1.0f), square = s * s;
    float y = 2.0f / 9;
    y = y * square + 2.0f / 7;
    y = y * square + 2.0f / 5;
    y = y * square + 2.0f / 3;
    return n * 0.693359375f + (s * 2.0f + (y * square * s - n * 2.12194440e-4f));
}

#endif
