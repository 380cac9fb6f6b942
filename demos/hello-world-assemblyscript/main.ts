// Writes to both output streams, then shows what the pod manifest gave it: environment and arguments.
// The streams are used directly: the shim's console.error writes to standard output.

function quoted(text: string): string {
  return '"' + text.replaceAll("\\", "\\\\").replaceAll('"', '\\"') + '"';
}

process.stdout.write("hello from stdout!\n");
process.stderr.write("hello from stderr!\n");

const names = ["CONFIG_MAP_VAL", "FOO", "POD_NAME"];
for (let i = 0; i < names.length; i++) {
  if (process.env.has(names[i])) process.stdout.write(names[i] + "=" + process.env.get(names[i]) + "\n");
}

const args = process.argv.slice(1).map<string>((text) => quoted(text));
process.stdout.write("Args are: [" + args.join(", ") + "]\n");
