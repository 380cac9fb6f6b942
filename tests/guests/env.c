/* env [ARGUMENT...]: prints the environment sorted, one NAME=VALUE a line, then "argv[I]=VALUE" lines. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int by_text(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(int argc, char **argv) {
    size_t count = 0;
    while (environ && environ[count]) count++;
    if (count) qsort(environ, count, sizeof *environ, by_text);

    for (size_t i = 0; i < count; i++) puts(environ[i]);
    for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, argv[i]);
    return 0;
}
