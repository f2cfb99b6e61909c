/* What an extension forgets; corpus.py loads it. */
#include <stdlib.h>

void *volatile extension_last;
void extension_keep(int bytes);

void extension_keep(int bytes)
{
    extension_last = malloc((size_t)bytes);
}
