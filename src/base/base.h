/*
 * base: what both sides of memtrace share and that depends on nothing else.
 * Public header of the folder; includes its parts.
 */
#ifndef MT_BASE_BASE_H
#define MT_BASE_BASE_H

#include "base/atomics.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/hash.h"
#include "base/pages.h"

#endif
