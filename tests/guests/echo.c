/* echo: copies standard input to standard output until its end, byte for byte. */

#include <stdio.h>
#include <unistd.h>

int main(void) {
    static char buffer[16384];
    ssize_t length;

    while ((length = read(STDIN_FILENO, buffer, sizeof buffer)) > 0) {
        for (ssize_t done = 0; done < length;) {
            ssize_t written = write(STDOUT_FILENO, buffer + done, length - done);
            if (written < 0) {
                perror("write");
                return 1;
            }
            done += written;
        }
    }
    if (length < 0) {
        perror("read");
        return 1;
    }
    return 0;
}
