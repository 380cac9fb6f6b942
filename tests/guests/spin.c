/* spin: prints "ready", then burns CPU for ever without a host call. */

#include <unistd.h>

int main(void) {
    write(STDOUT_FILENO, "ready\n", 6);
    for (volatile unsigned turns = 0;; turns++) {
    }
}
