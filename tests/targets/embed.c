/*
 * A program that loads a Python interpreter, uses it and lets go of it, three times. Arguments: path of libpython, `close` to unload it.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    for (int i = 0; argc > 1 && i < 3; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);

        if (!library) {
            puts(dlerror());
            return 1;
        }
        ((void (*)(void))dlsym(library, "Py_Initialize"))();
        ((int (*)(const char *))dlsym(library, "PyRun_SimpleString"))("x = [bytearray(40001) for _ in range(5)]\nprint(len(x))");
        ((int (*)(void))dlsym(library, "Py_FinalizeEx"))();
        if (argc > 2)
            dlclose(library);
        free(malloc(100));
    }
    return 0;
}
