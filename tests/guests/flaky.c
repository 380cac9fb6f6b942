/* flaky PATH RUN: counts its runs in the file PATH; fails with 3 until run number RUN, which succeeds. */

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: flaky PATH RUN\n", stderr);
        return 2;
    }

    char digits[16] = "";
    FILE *file = fopen(argv[1], "r");
    if (file) {
        fgets(digits, sizeof digits, file);
        fclose(file);
    }
    int run = atoi(digits) + 1;

    file = fopen(argv[1], "w");
    if (!file || fprintf(file, "%d\n", run) < 0 || fclose(file)) {
        perror(argv[1]);
        return 1;
    }
    printf("run %d\n", run);
    return run < atoi(argv[2]) ? 3 : 0;
}
