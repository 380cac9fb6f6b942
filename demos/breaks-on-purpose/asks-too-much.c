// Imports what no WebAssembly host has: it is refused before anything of it runs.

__attribute__((import_module("linux"), import_name("fork"))) int linux_fork(void);

int main(void) {
  return linux_fork();
}
