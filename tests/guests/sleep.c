/* sleep [SECONDS]: prints "ready", sleeps (for ever by default), ends with 0. The idle guest of density benches:
 * no stdio, and a stack that leaves its whole memory at one page. */

#include <stdlib.h>
#include <unistd.h>

enum { YEAR_SECONDS = 365 * 24 * 60 * 60 };

int main(int argc, char **argv) {
    write(STDOUT_FILENO, "ready\n", 6);
    if (argc > 1) {
        sleep(atoi(argv[1]));
        return 0;
    }
    for (;;) sleep(YEAR_SECONDS);
}
