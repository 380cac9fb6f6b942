/* hello: prints one line. The smallest honest guest, for start-up benches. */

#include <stdio.h>

int main(void) {
    puts("hello");
    return 0;
}
