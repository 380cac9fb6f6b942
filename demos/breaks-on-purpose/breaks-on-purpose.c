// Breaks in the way that its first argument names, so that one can see what wasmlet makes of it.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) static int divide(int dividend, int divisor) {
  return dividend / divisor;
}

__attribute__((noinline)) static int share_out(int sweets, int children) {
  return divide(sweets, children);
}

__attribute__((noinline)) static void take_all_memory(void) {
  for (int mebibytes = 4;; mebibytes += 4) {
    char *volatile block = malloc(4 << 20);
    memset(block, 1, 4 << 20);
    printf("%d MiB taken\n", mebibytes);
    fflush(stdout);
  }
}

__attribute__((noinline)) static void spin(void) {
  for (volatile unsigned long turns = 0;; turns++) {
  }
}

int main(int count, char **arguments) {
  const char *way = count > 1 ? arguments[1] : "nothing";
  if (strcmp(way, "trap") == 0) {
    return share_out(12, atoi("0"));
  } else if (strcmp(way, "memory") == 0) {
    take_all_memory();
  } else if (strcmp(way, "spin") == 0) {
    spin();
  } else if (strcmp(way, "exit") == 0) {
    fputs("giving up\n", stderr);
    return 3;
  }
  fprintf(stderr, "%s: there is no such way to break\n", way);
  return 2;
}
