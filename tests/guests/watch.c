/* watch PATH: prints the file's content, and again each time it has changed; looks twenty times a second, for ever. */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_MICROSECONDS = 50000 };

int main(int argc, char **argv) {
    char shown[4096] = "", found[4096];

    if (argc != 2) {
        fputs("usage: watch PATH\n", stderr);
        return 2;
    }
    for (;; usleep(LOOK_MICROSECONDS)) {
        FILE *file = fopen(argv[1], "r");
        if (!file) continue;
        found[fread(found, 1, sizeof found - 1, file)] = '\0';
        fclose(file);
        if (strcmp(found, shown)) {
            puts(strcpy(shown, found));
            fflush(stdout);
        }
    }
}
