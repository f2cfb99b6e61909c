/* Holds a block, says so, and waits until its standard input ends. */
#include "target.h"

int main(void)
{
    char c;

    keep(malloc(4321));
    say("ready\n");
    while (read(0, &c, 1) > 0)
        ;
    keep(malloc(1234));
    return 0;
}
