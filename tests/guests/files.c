/* files VERB ...: one file operation.
 *
 *   cat PATH            write PATH TEXT      ls PATH (sorted, one name a line)
 *   stat PATH           append PATH TEXT     link TARGET NAME (symbolic)
 *
 * An error goes to standard error as "files: VERB PATH: REASON", with exit code 1; misuse exits with 2.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy_out(const char *path) {
    char buffer[16384];
    size_t length;
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    while ((length = fread(buffer, 1, sizeof buffer, file))) fwrite(buffer, 1, length, stdout);
    return ferror(file) ? -1 : fclose(file);
}

static int put(const char *path, const char *mode, const char *text) {
    FILE *file = fopen(path, mode);
    if (!file) return -1;
    fputs(text, file);
    return fclose(file);
}

static int not_dots(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int by_name(const struct dirent **left, const struct dirent **right) {
    return strcmp((*left)->d_name, (*right)->d_name);
}

static int list(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, not_dots, by_name);
    for (int i = 0; i < count; i++) puts(entries[i]->d_name);
    return count < 0 ? -1 : 0;
}

static int describe(const char *path) {
    struct stat facts;
    if (lstat(path, &facts)) return -1;
    const char *type = S_ISREG(facts.st_mode)   ? "file"
                       : S_ISDIR(facts.st_mode) ? "directory"
                       : S_ISLNK(facts.st_mode) ? "link"
                                                : "other";
    printf("%s %lld\n", type, (long long)facts.st_size);
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 2 ? argv[1] : "";
    const char *path = argc > 2 ? argv[2] : "";
    const char *more = argc > 3 ? argv[3] : "";
    int result;

    if (argc == 3 && !strcmp(verb, "cat")) result = copy_out(path);
    else if (argc == 3 && !strcmp(verb, "ls")) result = list(path);
    else if (argc == 3 && !strcmp(verb, "stat")) result = describe(path);
    else if (argc == 4 && !strcmp(verb, "write")) result = put(path, "w", more);
    else if (argc == 4 && !strcmp(verb, "append")) result = put(path, "a", more);
    else if (argc == 4 && !strcmp(verb, "link")) result = symlink(path, more);
    else {
        fputs("usage: files cat|ls|stat PATH, write|append PATH TEXT, link TARGET NAME\n", stderr);
        return 2;
    }

    if (result) {
        fprintf(stderr, "files: %s ", verb);
        perror(strcmp(verb, "link") ? path : more);
        return 1;
    }
    return 0;
}
