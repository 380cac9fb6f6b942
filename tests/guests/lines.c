/* lines COUNT WIDTH: prints COUNT lines of WIDTH characters without the line end: the number from 0 in eight
 * digits, then dots (so WIDTH is at least 8). */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    long count = argc == 3 ? atol(argv[1]) : -1;
    long width = argc == 3 ? atol(argv[2]) : 0;
    char *line = width >= 8 ? malloc(width + 2) : NULL;
    if (count < 0 || !line) {
        fputs("usage: lines COUNT WIDTH (WIDTH 8 or more)\n", stderr);
        return 2;
    }

    for (long number = 0; number < count; number++) {
        memset(line, '.', width);
        line[snprintf(line, 9, "%08ld", number)] = width > 8 ? '.' : '\n';
        line[width] = '\n';
        fwrite(line, 1, width + 1, stdout);
    }
    return 0;
}
