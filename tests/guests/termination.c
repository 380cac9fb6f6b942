/* termination MESSAGE: leaves the message in /dev/termination-log and fails with 1. */

#include <stdio.h>

int main(int argc, char **argv) {
    FILE *file = fopen("/dev/termination-log", "w");
    if (!file) {
        perror("/dev/termination-log");
        return 2;
    }
    fputs(argc > 1 ? argv[1] : "no message", file);
    fclose(file);
    return 1;
}
