/*
 * Integer and byte hashing. Mixers are the finaliser of MurmurHash3 (Austin Appleby, public
 * domain) and 64-bit FNV-1a (Fowler, Noll, Vo); neither is meant to resist an adversary, so tables keyed
 * by them stay correct, only slower, under chosen keys.
 */
#ifndef MT_BASE_HASH_H
#define MT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t mt_hash_u64(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    x ^= x >> 33;
    return x;
}

static inline uint64_t mt_hash_combine(uint64_t seed, uint64_t value)
{
    return mt_hash_u64(seed * UINT64_C(0x9e3779b97f4a7c15) + value);
}

static inline uint64_t mt_hash_bytes(const void *bytes, size_t size_bytes)
{
    const unsigned char *p = bytes;
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < size_bytes; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return mt_hash_u64(h);
}

#endif
