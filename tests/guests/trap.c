/* trap: prints "about to trap", then hits an unreachable instruction in a function named boom. */

#include <unistd.h>

__attribute__((noinline)) void boom(void) {
    __builtin_trap();
}

int main(void) {
    write(STDOUT_FILENO, "about to trap\n", 14);
    boom();
    return 0;
}
