/* What an image of files gives to its program: its arguments, variables and files, and room to write. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show(const char *path) {
    char line[256];
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        exit(1);
    }
    while (fgets(line, sizeof line, file)) printf("%s: %s", path, line);
    fclose(file);
}

int main(int argc, char **argv) {
    const char *name = getenv("NAME");
    printf("arguments:");
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    printf("\nNAME: %s\n", name ? name : "not set");
    show("/data/greeting.txt");
    show("/data/latest.txt");
    FILE *file = fopen("/data/greeting.txt", "a");
    if (!file) {
        perror("/data/greeting.txt");
        return 1;
    }
    fprintf(file, "This line is the container's own.\n");
    fclose(file);
    show("/data/greeting.txt");
    return 0;
}
