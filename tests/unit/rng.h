/*
 * Random numbers that are the same each time: xorshift (Marsaglia). A test sets the state, to anything but 0.
 */
#ifndef MT_TESTS_RNG_H
#define MT_TESTS_RNG_H

#include <stdint.h>

static uint64_t rng_state;

static uint64_t rng(uint64_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (rng_state >> 8) % below;
}

#endif
