/*
 * The world of one simulated callsite: generators fill blocks and bytes, which are all zero before. Iterations count from 1, birth 0 is
 * before the first.
 */
#ifndef LEAK_GENERATORS_H
#define LEAK_GENERATORS_H

#include <stdbool.h>
#include <stdint.h>

enum { ENDS_MAX = 48, SIZE = 1000, NEVER = 1 << 30 };

extern int ends;
/* survivors: [birth][end] */
extern double blocks[ENDS_MAX + 1][ENDS_MAX + 1], bytes[ENDS_MAX + 1][ENDS_MAX + 1];
extern uint64_t random_state;

double uniform(void);
int below(int n);
int poisson(double mean);
/* Born in iteration b, freed in iteration d (before its end). */
void sized(int b, int d, double size);
void block(int b, int d);

struct generator {
    const char *name; /* NULL: the end */
    void (*generate)(void);
    bool leaks;
    int least; /* iterations after which its end can have been seen, where that depends on chance */
};
extern const struct generator generators_chosen_on[], generators_mended_by[], generators_held_out[];

#endif
