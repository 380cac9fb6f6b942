/* Writes to both output streams, then shows what the pod manifest gave it: environment and arguments. */

#include <stdio.h>
#include <stdlib.h>

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

int main(int argc, char **argv) {
    static const char *const names[] = {"CONFIG_MAP_VAL", "FOO", "POD_NAME"};

    puts("hello from stdout!");
    fflush(stdout); /* stderr has no buffer and would overtake it */
    fputs("hello from stderr!\n", stderr);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value) printf("%s=%s\n", names[i], value);
    }

    printf("Args are: [");
    for (int i = 1; i < argc; i++) {
        if (i > 1) printf(", ");
        print_quoted(argv[i]);
    }
    puts("]");
    return 0;
}
